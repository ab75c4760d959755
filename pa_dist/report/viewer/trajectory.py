"""One trajectory as the viewer and the terminal show it: messages, and of each action its tokens and its advantage."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pa_dist.reduce.block.aggregate import buckets
from pa_dist.reduce.block.predictors import fell_back, predictions
from pa_dist.report.viewer.token_text import TokenText
from pa_dist.schema import PREDICTORS, against

Row = dict[str, Any]

SUSPECTED_BY = "sharpest_drop"
"""The predictor whose step the list, `show` and `top` name: the lowest advantage, where one is below zero."""

LOGPROBS = (
    "trajectory_id",
    "step",
    "agent",
    "truncated",
    "token_ids",
    "token_ids_reference",
    "policy_logprob",
    "reference_logprob",
)
STEPS = ("trajectory_id", "step", "reason", "progress_advantage__mean")
"""The columns of these tables that a record is made of; of `steps`, those of `further_columns` too."""


def further_columns(references: Sequence[str]) -> dict[str, str]:
    """The columns of `steps` with the same advantage over further references, and their names."""
    return {f"{against('progress_advantage', name)}__mean": name for name in references}


def record(
    scored: pa.Table,
    steps: Sequence[Row],
    pieces: TokenText | str,
    *,
    empty_is_zero: bool = False,
    references: Sequence[str] = (),
) -> Row:
    """What was scored of one trajectory.

    Args:
      scored: its row of `logprobs`, `LOGPROBS` of it.
      steps: its rows of `steps`, in order.
      pieces: of the policy's tokenizer, or why there are none.
      references: the further ones.
      empty_is_zero: whether predictors read a step without tokens as 0.0, as the preset `paper` has it.

    Returns:
      `steps`: of each, `at` (message index), `agent`, `value` (its advantage by the mean of its tokens), `why` (that is
      null), `cut` (whether tokens were cut), `pieces` (texts; null where they cannot be had), `joined` (of pieces of
      several tokens, place and token ids), `others` (its advantage over further references, where there are any),
      `policy` and `reference` (log-probs of each token in thousandths of a nat; the reference's null where its tokens
      are others). `blamed`: as `blamed` has it.
    """
    (row,) = scored.select(["step", "agent", "truncated", "token_ids", "token_ids_reference"]).to_pylist()
    policy = _thousandths(scored["policy_logprob"])
    same = row["token_ids_reference"] is None
    reference = _thousandths(scored["reference_logprob"]) if same else [None] * len(policy)
    of_step, further = {step["step"]: step for step in steps}, further_columns(references)
    told = []
    for i, at in enumerate(row["step"]):
        read = of_step.get(at, {"reason": None, "progress_advantage__mean": None})
        told.append(
            {
                "at": at,
                "agent": row["agent"][i],
                "value": read["progress_advantage__mean"],
                "why": read["reason"],
                "cut": bool(row["truncated"][i]),
                **_pieces(row["token_ids"][i] or [], pieces),
                **({"others": {name: read.get(of) for of, name in further.items()}} if further else {}),
                "policy": policy[i],
                "reference": reference[i],
            }
        )
    values = [0.0 if empty_is_zero and step["policy"] == [] else step["value"] for step in told]
    return {"steps": told, "blamed": blamed(values)}


def _thousandths(column: pa.ChunkedArray) -> list[list[int | None] | None]:
    """Of each step its tokens' log-probs, null where a model gave none."""
    found: list[list[int | None] | None] = []
    for step in column[0].values:
        if step.values is None:
            found.append(None)
            continue
        values = step.values.to_numpy(zero_copy_only=False) * 1000.0
        finite = np.isfinite(values)
        whole: list[int | None] = np.rint(np.where(finite, values, 0.0)).astype(np.int64).tolist()
        found.append(whole if finite.all() else [v if ok else None for v, ok in zip(whole, finite, strict=True)])
    return found


def _pieces(ids: list[int], pieces: TokenText | str) -> Row:
    if isinstance(pieces, str):
        return {"pieces": None, "joined": []}
    texts, joined, at = [], [], 0
    for place, piece in enumerate(pieces.cut(ids)):
        texts.append(piece.text)
        if piece.n_tokens > 1:
            joined.append([place, ids[at : at + piece.n_tokens]])
        at += piece.n_tokens
    return {"pieces": texts, "joined": joined}


def blamed(values: Sequence[float | None]) -> dict[str, int]:
    """The place, among a trajectory's steps, of the one that each predictor blames.

    A predictor that found nothing and fell back to its tie rule blames none: where no step is below zero, or nothing
    falls, its answer says nothing of the step.

    Args:
      values: of each step.
    """
    dense = np.array([np.nan if value is None else value for value in values], np.float64)
    layout = buckets(np.isfinite(dense), np.array([0, len(dense)]))
    found = predictions(dense[None], layout, 1)
    places, fallen = (each[0, :, 0].tolist() for each in (found, fell_back(dense[None], found, layout)))
    return {
        name: place for name, place, fell in zip(PREDICTORS, places, fallen, strict=True) if place >= 0 and not fell
    }


def suspicious(found: Mapping[str, int]) -> int | None:
    """The step most worth a look: where the advantage is lowest, by its place; None where none is below zero.

    Args:
      found: what `blamed` found.
    """
    return found.get(SUSPECTED_BY)


def numbered(place: int, n_steps: int) -> str:
    """A step as people read it: its number among the trajectory's actions, counted from 1."""
    return f"{place + 1} of {n_steps}"
