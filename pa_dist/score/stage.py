"""The stage that scores: `trajectories` to the log-prob columns of policy and reference, and of merged references."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import pyarrow.compute as pc

from pa_dist import schema, truncation
from pa_dist.config import ScoreSections
from pa_dist.engine.kernels import lost_kernels_in_words
from pa_dist.errors import PaDistError
from pa_dist.models.devices import check_gpus
from pa_dist.models.fingerprint import model_files, scoring_versions, weights_mark
from pa_dist.models.positions import limited
from pa_dist.runtime import pools
from pa_dist.runtime.settle import settle_late
from pa_dist.runtime.targets import LOGPROBS
from pa_dist.runtime.tasks import mapper
from pa_dist.score import noise_said, sweep
from pa_dist.score.rows import CHAT_READS, READS
from pa_dist.stage import Say, Stage
from pa_dist.store.contents import read_beside
from pa_dist.store.folder import CHECKPOINT, RunFolder

# Of the section `score`, what decides numbers; how many actors make them does not.
_DECIDING = {"engine", "dtype", "max_length", "top_k", "columns", "attn_implementation"}


class ScoreStage(Stage):
    """Both models of a pair over every trajectory; of a sweep the policy once, and the reference for each alpha.

    Attributes:
      parts: the run's folder, and a part for each alpha that is asked for.
    """

    name = "score"
    reads: Mapping[str, Sequence[str]] = {"trajectories": (*READS, *CHAT_READS)}
    writes = ("logprobs", "rejects")

    def __init__(self, folder: RunFolder, sections: ScoreSections) -> None:
        super().__init__(folder)
        self.parts = [folder, *sweep.asked(folder, sections.merge)]
        # As it was cut to what the models read when the run began.
        self.sections = limited(sections, folder.manifest["stages"].get("score", {}).get("positions", {}))
        # The same, with the commits that are scored with; what the config names is what a run is known by.
        self._pinned = self.sections
        self._facts: dict[str, Any] = {}
        self._wanting: dict[str, str | None] = {}

    @cached_property
    def _weights(self) -> dict[str, str | None]:
        return {part: weights_mark(self.folder, getattr(self.sections.pair, part)) for part in self.sections.pair.parts}

    def settings(self, alpha: float | None = None) -> dict[str, Any]:
        """Of the log-prob columns, of an alpha's where one is given."""
        pair, render, score, merge = self.sections
        settings: dict[str, Any] = {
            "pair": pair.model_dump(mode="json"),
            "weights": self._weights,
            "render": render.model_dump(mode="json"),
            "score": score.model_dump(mode="json", include=_DECIDING),
            "versions": scoring_versions(score.engine, adapters=len(pair.parts) > len(schema.MODELS)),
        }
        if score.engine == "vllm" and score.vllm.options:
            settings["vllm_options"] = score.vllm.model_dump(mode="json")["options"]
        if merge is not None and alpha is not None:
            settings["merge"] = {**merge.model_dump(mode="json", exclude={"alphas"}), "alpha": alpha}
        return settings

    def left(self) -> list[RunFolder]:
        """The parts that are not done. Raises as `is_done`."""
        # Alphas of one folder are one sweep: also those that this config does not ask for have to be of its settings.
        parts = dict.fromkeys((*self.parts, *sweep.begun(self.folder)))
        done = {part: part.is_done(self.name, self.settings(part.alpha)) for part in parts}
        return [part for part in self.parts if not done[part]]

    def is_done(self) -> bool:
        """Whether all parts are."""
        return not self.left()

    def check(self, say: Say) -> None:
        """Examine both models, pin them to the commits that the run began with, and cut lengths to what they read."""
        # Slow to import, and not needed where nothing is left to score.
        from pa_dist.models.loaded import tokenizer
        from pa_dist.score.check import check_lengths, check_models, check_pair, check_templates, pinned_pair
        from pa_dist.score.mergeable import check_merge

        found = check_models(self.sections.pair, self.sections.score)
        check_templates(self.sections)
        said = [*check_pair(self.sections, found), *check_lengths(self.sections, found)]
        # A name on the Hub may come to mean other weights: a run goes on with those it began with.
        before = self.folder.manifest["stages"].get(self.name, {}).get("commits", {})
        pair = pinned_pair(self.sections.pair, before)
        if self.sections.merge is not None:
            check_merge(pair, self.sections.merge, (tokenizer(pair, "policy"), tokenizer(pair, "reference")))
        if pair.one_base and "reference" in self.sections.score.model_fields_set:
            said.append("score.reference is not read: the policy's actors do both models of one base")
        for line in said:
            self.folder.logged(say)(f"score: {line}")
        self.sections = limited(self.sections, found.positions)
        self._pinned = self.sections._replace(pair=pair)
        length = self.sections.score.max_length
        self._wanting = found.wanting
        self._facts = {"loaded": found.loaded, "positions": found.positions, "max_length": length}

    def check_cluster(self, *, complete: bool) -> None:
        """As any stage."""
        score, held = self.sections.score, self._pinned.pair.pools
        if complete:
            actors = self._actors(held)
            gpus = {model: 0.0 if score.device == "cpu" else pool.num_gpus for model, pool in actors.items()}
            check_gpus({model: self._wanting.get(model) for model in held}, gpus, self.name)
            pools.check_actors(actors)
        else:
            pools.check_named({model: getattr(score, model) for model in held})

    def _actors(self, models: Sequence[str]) -> dict[str, pools.Actors]:
        """Of models, by what their tokens cost where their sizes are known."""
        sizes = {model: self._facts["loaded"][model]["parameters"] for model in models}
        return pools.share_out(self.sections.score, models, None if None in sizes.values() else sizes)

    def say_done(self, say: Say) -> None:
        """Of each part, and raise where no trajectory was scored."""
        for part in self.parts:
            part.logged(say)(f"{self.name}: done before")
            _refuse_nothing(part)

    def run(self, say: Say) -> None:
        """Score the parts that are left, the run itself first."""
        left = self.left()
        for part in self.parts:
            if part not in left:
                part.logged(say)(f"{self.name}: done before")
            else:
                if part.alpha is not None:
                    # Which the policy's columns are read from.
                    settle_late(self.folder, LOGPROBS, mapper(self.name))
                self._score(part, part.logged(say))
            _refuse_nothing(part)

    def _score(self, folder: RunFolder, say: Say) -> None:
        from pa_dist.score import noise
        from pa_dist.score.pipeline import score
        from pa_dist.score.reasoning import left_out, lost_in_words
        from pa_dist.score.templates import templates_of

        began = time.perf_counter()
        if self.name not in folder.manifest["stages"]:
            for table_name, prefix in (("logprobs", ""), ("rejects", "score-"), (CHECKPOINT, "")):
                folder.clear(table_name, prefix)
        pair = self._pinned.pair
        commits = {part: getattr(pair, f"{part}_revision") for part in pair.parts}
        # Of an alpha the merged reference alone runs: the policy's columns are there.
        actors = self._actors(pair.pools if folder.alpha is None else ["reference"])
        dtype = self._pin_dtype(actors, say)
        folder.start(self.name, self.settings(folder.alpha), commits=commits, dtype=dtype, **self._facts)
        named = {mark: partial(model_files, getattr(pair, m)) for m, mark in self._weights.items() if mark}
        if on_gpus := pools.in_words(actors):
            say(f"score: {on_gpus}")
        with read_beside(self.folder, named):
            facts = score(self._pinned, folder, actors)
        cut = truncation.count_cut(folder, mapper("truncation"))
        unseen = {} if folder.alpha is not None else left_out(folder, templates_of(self._pinned), mapper("reasoning"))
        dtypes = [noise_said.computed_in(place) for did in facts["models"].values() for place in did["actors"]]
        noisy = noise.measure(self._pinned, folder, dtypes)
        seconds = round(time.perf_counter() - began, 1)
        folder.finish(self.name, **facts, noise=noisy, truncated=cut, reasoning_left_out=unseen, seconds=seconds)
        folder.filesystem.delete_dir_contents(folder.path(CHECKPOINT), missing_dir_ok=True)
        earlier = f", {facts['done_before']} of them before" if facts["done_before"] else ""
        say(f"score: {facts['rows']} trajectories scored, {facts['rejects']} rejected{earlier} ({seconds} s)")
        record = folder.manifest["stages"][self.name]
        unseen_said = lost_in_words(self.sections.render, unseen)
        for line in (truncation.in_full(record), unseen_said, noise_said.in_words(record)):
            if line:
                say(f"score: {line}")
        _say_rates(facts["models"], say)

    def _pin_dtype(self, actors: Mapping[str, pools.Actors], say: Say) -> str:
        """What `auto` means, or meant when the run began: a table has one dtype."""
        from pa_dist.score.scorer import dtype_of

        settings = self._pinned.score
        gpus = any(pool.num_gpus for pool in actors.values())
        made_for = filter(None, (loaded["made_for"] for loaded in self._facts.get("loaded", {}).values()))
        now = dtype_of(settings, settings.device or ("cuda" if gpus else "cpu"), made_for)
        before: str | None = self.folder.manifest["stages"].get(self.name, {}).get("dtype")
        if before not in (None, now):
            say(f"score: it goes on in {before}, as it began; here score.dtype=auto would be {now}")
        dtype = before or now
        self._pinned = self._pinned._replace(score=settings.model_copy(update={"dtype": dtype}))
        return dtype


def _say_rates(models: dict[str, Any], say: Say) -> None:
    for model, done in models.items():
        if not done["rows"]:
            continue
        if reasons := {place["prefixes_apart"] for place in done["actors"]} - {None, "as asked"}:
            say(f"score: the {model}'s prefixes were not shared: {min(reasons)}")
        if why := {place.get("attention_in_pieces") for place in done["actors"]} - {None, "as asked"}:
            say(f"score: the {model}'s layers attend in a call for each segment, not in one: {min(why)}")
        if why := {place.get("linear_attention_fell_back") for place in done["actors"]} - {None}:
            say(f"score: the {model}'s linear-attention layers run in a slower way: {min(why)}")
        if lacking := sorted({package for place in done["actors"] for package in place.get("missing_kernels", [])}):
            say(f"score: the {model}'s {lost_kernels_in_words(lacking)}")
        if over := sum(place.get("overflowed", 0) for place in done["actors"]):
            now = "float32" if all(place["dtype"] == "float16" for place in done["actors"]) else "bfloat16"
            say(f"score: the {model} left the range of float16 on {over:,} sequences, which were scored in {now}")
        rate = done["share_of_matrix_rate"]
        say(
            f"score: {model}: {done['tokens']:,} tokens at {done['tokens_per_second']:,.0f} a second and actor, "
            f"{done['share_saved']:.0%} of them shared{'' if rate is None else f', {rate:.0%} of the matrix rate'}, "
            f"idle between blocks {done['idle_share']:.0%} of the time"
        )


def _refuse_nothing(folder: RunFolder) -> None:
    """Raise `PaDistError` where no trajectory was scored: nobody asks for that, and a script should notice."""
    record = folder.manifest["stages"]["score"]
    if record["rows"] == 0 and record["rejects"]:
        reasons = folder.dataset("rejects").to_table(columns=["reason"], filter=pc.field("stage") == "score")["reason"]
        ((reason, n),) = Counter(reasons.to_pylist()).most_common(1)
        raise PaDistError(f"score: no trajectory could be scored; of {len(reasons)} rejects, {n}: {reason}")
