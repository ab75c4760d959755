"""The scoring pipeline: one streaming Ray Data job from `trajectories` to `logprobs`.

    read -> tokenise (tasks) -> policy (actors) -> reference (actors) -> write

Both actor pools are busy at once, on different blocks. A further reference is scored alone, into a table of its own.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from pa_dist import schema
from pa_dist.config import ScoreSections
from pa_dist.engine.protocol import MASKED_VOCABULARY, NULL_COLUMNS, UNREAD
from pa_dist.runtime.blocks import rows_of_blocks
from pa_dist.runtime.pools import Actors
from pa_dist.runtime.stream import Pool, Stream, complete, snapshot, tallied
from pa_dist.runtime.tally import ModelTally, as_record
from pa_dist.runtime.targets import LOGPROBS, Target
from pa_dist.score import rows
from pa_dist.score.check import shares_tokens
from pa_dist.score.scorer import PairScorer, Scorer, Tokenize, gives_only_logprob
from pa_dist.store.folder import RunFolder


def score(
    sections: ScoreSections,
    folder: RunFolder,
    actors: Mapping[str, Actors],
    into: Target = LOGPROBS,
    *,
    commit: bool = True,
) -> dict[str, Any]:
    """Score every row of `trajectories` that is not done yet: write a table of log-probs, and `rejects` of this stage.

    Args:
      actors: each model's; of a further reference its own alone; of a pair of one base the policy's do both.
      into: `logprobs`, or a further reference's table.
      commit: as `Stream` has it.

    Returns:
      Facts for the manifest: rows, rejects, how many an earlier session had done, trajectories of a block, columns of
      the policy and of the reference that are null and why, and of each model what `as_record` gives.

    Raises:
      PaDistError: Ray gave up, or rows were lost; what is done stays done.
    """
    shared = shares_tokens(sections)
    columns = [*rows.READS, *(rows.CHAT_READS if sections.render.style == "chat" else ())]
    settings, pool = sections.score, max(actors.values(), key=lambda pool: pool.most)
    size = rows_of_blocks(settings.rows_per_block, folder, pool, settings.batch_tokens, settings.max_length)
    with tallied(schema.MODELS if into == LOGPROBS else ["reference"]) as tally:
        through = [*_through(sections, folder, shared, actors, size, tally, into)]
        settled, before = complete(folder, Stream(into, tally, columns, size, through, commit))
        did = snapshot(tally)
    return {
        "rows": settled.rows,
        "rejects": settled.rejects,
        "done_before": before,
        "rows_per_block": size,
        "shared_tokens": shared,
        **({"null_columns": _null_columns(sections, did)} if into == LOGPROBS else {}),
        "reference_null_columns": _reference_null_columns(sections),
        "models": {model: as_record(entry) for model, entry in did.items()},
    }


def _null_columns(sections: ScoreSections, did: Mapping[str, ModelTally]) -> dict[str, str]:
    """The policy's columns that are null, and why."""
    masked = any(place.get("masked_vocabulary") for place in did["policy"].actors.values())
    return NULL_COLUMNS[sections.score.engine] | ({"self_certainty": MASKED_VOCABULARY} if masked else {})


def _reference_null_columns(sections: ScoreSections) -> dict[str, str]:
    """The same of the reference's."""
    if gives_only_logprob(sections.score, "reference"):
        return dict.fromkeys(schema.TOKEN_COLUMNS[1:], UNREAD)
    return NULL_COLUMNS[sections.score.engine]


def _through(
    sections: ScoreSections,
    folder: RunFolder,
    shared: bool,
    actors: Mapping[str, Actors],
    size: int,
    tally: Any,
    into: Target,
) -> Iterator[Any]:
    """What a block of trajectories goes through to become log-prob columns."""
    yield Tokenize(sections, folder, shared, tally, into)
    if sections.pair.one_base and into == LOGPROBS:
        arguments = {"pair": sections.pair, "settings": sections.score, "folder": folder, "tally": tally}
        yield Pool(PairScorer, arguments, actors["policy"], size)
        yield rows.logprobs_table
        return
    for model, pool in actors.items():
        arguments = {
            "model": model,
            "tokens": "policy" if shared else model,
            "pair": sections.pair,
            "settings": sections.score,
            "folder": folder,
            "tally": tally,
            "merge": sections.merge,
            "into": into,
        }
        yield Pool(Scorer, arguments, pool, size)
    yield partial(rows.logprobs_table, of=into.schema)
