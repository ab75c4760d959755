"""METHOD.md as plain loops over Python lists, written without the product's code, and tables made of such lists."""

import itertools
import math
import statistics

import pyarrow as pa
from hypothesis import strategies as st

from pa_dist import schema

# Multiples of 1/8: their sums are exact in any order, so ties are ties in every implementation.
EIGHTHS = st.integers(-64, 0).map(lambda n: n / 8)


def token_agg(name, tokens):
    if not tokens:
        return None
    return {
        "mean": lambda: sum(tokens) / len(tokens),
        "sum": lambda: sum(tokens),
        "none": lambda: sum(tokens),
        "last": lambda: tokens[-1],
        "min": lambda: min(tokens),
        "max": lambda: max(tokens),
    }[name]()


def step_agg(name, steps):
    steps = [s for s in steps if s is not None]
    if not steps:
        return None
    if name == "bottom10":
        lowest = sorted(steps)[: max(1, -(-len(steps) // 10))]
        return sum(lowest) / len(lowest)
    return token_agg(name, steps)


def prefix(name, steps, ends, sign):
    """The score of the first steps, for each number of them, and the (number, score) where it is worse than before."""
    running = [step_agg(name, steps[: t + 1]) for t in range(len(steps))]
    worst = []
    for t, score in enumerate(running):
        if score is not None and (not worst or sign * score < sign * worst[-1][1]):
            worst.append((t + 1, score))
    return [running[min(t, len(steps)) - 1] if steps else None for t in ends], worst


def predict(steps):
    """Position blamed by each predictor, or None; `steps` may hold None."""
    valid = [i for i, s in enumerate(steps) if s is not None]
    if not valid:
        return dict.fromkeys(schema.PREDICTORS)
    running, total = [], 0.0
    for i in valid:
        total += steps[i]
        running.append(total)
    lowest = min(steps[i] for i in valid)
    drop = next(i for i in valid if steps[i] == lowest) if lowest < 0 else valid[0]
    fall, largest = valid[0], 0.0
    for before, after in itertools.pairwise(valid):
        if steps[before] - steps[after] > largest:
            fall, largest = after, steps[before] - steps[after]
    return {"min_cumulative": valid[running.index(min(running))], "sharpest_drop": drop, "sharpest_abs_drop": fall}


def fell_back(steps):
    """Whether each predictor had nothing to go by; of steps that `predict` blames one of."""
    valid = [s for s in steps if s is not None]
    running = list(itertools.accumulate(valid))
    return {
        "min_cumulative": running[0] >= 0 and min(running) == running[0],
        "sharpest_drop": not any(s < 0 for s in valid),
        "sharpest_abs_drop": not any(after < before for before, after in itertools.pairwise(valid)),
    }


def stands_out(steps, position):
    """The value at a position less the median of all, over 1.4826 times the median distance from it."""
    valid = [s for s in steps if s is not None]
    centre = statistics.median(valid)
    spread = 1.4826 * statistics.median(abs(s - centre) for s in valid)
    return (steps[position] - centre) / spread if len(valid) >= 5 and spread else None


def step_values(row, method, agg, preset="published", beta=1.0, fa=False):
    """One value a step, None where there is none; `fa`: where steps are blamed. `row` holds lists as in `logprobs`."""
    paper = preset == "paper"
    compares, apart = method.startswith("progress_advantage"), row["token_ids_reference"] is not None
    values = []
    for i in range(len(row["step"])):
        policy = token_agg(agg, row["policy_logprob"][i])
        reference = token_agg(agg, row["reference_logprob"][i])
        both = policy is not None and reference is not None
        topk = row["policy_topk_logprob_mean"][i]
        if method == "progress_advantage":
            value = beta * (policy - reference) if both else None
        elif method == "progress_advantage_per_token":
            pairs = zip(row["policy_logprob"][i], row["reference_logprob"][i], strict=False)
            value = token_agg(agg, [beta * (p - r) for p, r in pairs])
        elif method == "policy_logprob":
            value = policy
        elif method == "reference_logprob":
            value = reference
        elif method == "topk_logprob_mean" or (method == "self_certainty" and paper):
            value = token_agg(agg, topk)
        elif method == "self_certainty":
            value = token_agg(agg, row["policy_self_certainty"][i])
        elif method.startswith("deepconf"):
            value = token_agg(agg, topk if paper else [-t for t in topk])
        elif method == "entropy":
            value = token_agg(agg, row["policy_entropy"][i])
        elif method == "perplexity":
            value = None if policy is None else math.exp(-policy)
        elif method == "sequence_probability":
            value = None if policy is None else math.exp(policy)
        elif method == "fewest_steps":
            value = 1.0
        elif method == "fewest_tokens":
            value = float(len(row["policy_logprob"][i]))
        log_prob = method.endswith("_logprob") or method.startswith("progress_advantage")
        if apart and compares:
            # Of other tokens only the sums compare, of the same text.
            whole = method == "progress_advantage" and agg == "sum" and not row["truncated"][i]
            values.append(value if whole else None)
        else:
            as_zero = paper and (not both if log_prob else fa and value is None)
            values.append(0.0 if as_zero else value)
    return values


def cells():
    for method in ("progress_advantage", "progress_advantage_per_token", "policy_logprob", "reference_logprob"):
        yield from ((method, t, s) for t in schema.TOKEN_AGGS for s in schema.STEP_AGGS)
    for method in ("topk_logprob_mean", "self_certainty", "entropy"):
        yield from ((method, t, s) for t in schema.TOKEN_AGGS for s in schema.STEP_AGGS)
    yield from (("deepconf_tail", t, "last") for t in schema.TOKEN_AGGS)
    yield from (("deepconf_bottom10", t, "bottom10") for t in schema.TOKEN_AGGS)
    yield from (("perplexity", "mean", s) for s in schema.STEP_AGGS)
    yield from (("sequence_probability", t, "mean") for t in ("mean", "sum"))
    yield from ((method, "none", "none") for method in ("fewest_steps", "fewest_tokens"))


def row(trajectory_id, steps, **other):
    """A row of `logprobs`. `steps` holds lists of (policy, reference, topk, entropy, self-certainty) tuples."""
    columns = [[[token[c] for token in step] for step in steps] for c in range(5)]
    n = len(steps)
    return {
        "trajectory_id": trajectory_id,
        "benchmark": "b",
        "step": [2 * i + 1 for i in range(n)],
        "agent": ["assistant"] * n,
        "text_hash": [f"{trajectory_id}-{i}" for i in range(n)],
        "truncated": [not step for step in steps],
        "token_ids": [[7] * len(step) for step in steps],
        "token_ids_reference": None,
        "policy_logprob": columns[0],
        "reference_logprob": columns[1],
        "policy_topk_logprob_mean": columns[2],
        "policy_entropy": columns[3],
        "policy_self_certainty": columns[4],
        # No reader of these yet; scoring writes them for both models.
        **{f"reference_{name}": columns[2 + c] for c, name in enumerate(schema.TOKEN_COLUMNS[1:])},
    } | other


def table(rows):
    return pa.Table.from_pylist(rows, schema.LOGPROBS)


TOKENS = st.tuples(EIGHTHS, EIGHTHS, EIGHTHS, EIGHTHS.map(abs), EIGHTHS.map(abs))
# Empty steps, single tokens, and now and then enough steps for bottom10 to take more than one.
STEPS = st.one_of(
    st.lists(st.lists(TOKENS, max_size=4), max_size=5),
    st.lists(st.lists(TOKENS, max_size=2), min_size=9, max_size=23),
)
LABELS = st.fixed_dictionaries(
    {
        "task_id": st.sampled_from([None, "t0", "t1"]),
        "reward": st.sampled_from([None, 0.0, 0.5, 1.0]),
        "mistake_step": st.sampled_from([None, 1, 3, 4]),
        "mistake_agent": st.sampled_from([None, "assist", "other"]),
    }
)


@st.composite
def corpora(draw, max_size=6):
    drawn = draw(st.lists(st.tuples(STEPS, LABELS, st.booleans()), max_size=max_size))
    return [
        row(f"id{i:03d}", steps, token_ids_reference=[[1] * len(s) for s in steps] if differs else None, **labels)
        for i, (steps, labels, differs) in enumerate(drawn)
    ]
