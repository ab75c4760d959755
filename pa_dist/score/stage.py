"""The stage that scores: `trajectories` to the log-prob columns of policy and reference, or of a further reference."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import pyarrow.compute as pc

from pa_dist import schema, truncation
from pa_dist.config import ScoreSections
from pa_dist.engine.kernels import lost_kernels_in_words
from pa_dist.errors import ConfigError, PaDistError
from pa_dist.models.devices import check_gpus
from pa_dist.models.fingerprint import model_files, scoring_versions, weights_mark
from pa_dist.models.positions import limited
from pa_dist.runtime import pools
from pa_dist.runtime.targets import LOGPROBS, Target
from pa_dist.runtime.tasks import mapper
from pa_dist.score import noise_said
from pa_dist.score.rows import CHAT_READS, READS
from pa_dist.stage import Say, Stage
from pa_dist.store.contents import read_beside
from pa_dist.store.folder import RunFolder

# Of the section `score`, what decides numbers; how many actors make them does not.
_DECIDING = {"engine", "dtype", "max_length", "top_k", "columns", "attn_implementation"}


class ScoreStage(Stage):
    """Both models of a pair over every trajectory, or a further reference alone: its own table of `references`.

    Attributes:
      further: the stages of the other references, where this is the policy's. All models read as much.
    """

    reads: Mapping[str, Sequence[str]] = {"trajectories": (*READS, *CHAT_READS)}

    def __init__(
        self,
        folder: RunFolder,
        sections: ScoreSections,
        into: Target = LOGPROBS,
        further: Sequence["ScoreStage"] = (),
    ) -> None:
        super().__init__(folder)
        self.into, self.further = into, further
        self.name, self.writes = into.stage, (into.table, "rejects")
        # As it was cut to what the models read when the run began.
        self.sections = limited(sections, folder.manifest["stages"].get(LOGPROBS.stage, {}).get("positions", {}))
        # The same, with the commits that are scored with; what the config names is what a run is known by.
        self._pinned = self.sections
        self._facts: dict[str, Any] = {}
        self._wanting: dict[str, str | None] = {}

    @property
    def _alone(self) -> bool:
        """Whether it is of a further reference."""
        return self.into != LOGPROBS

    @cached_property
    def _weights(self) -> dict[str, str | None]:
        return {part: weights_mark(self.folder, getattr(self.sections.pair, part)) for part in self.sections.pair.parts}

    def settings(self) -> dict[str, Any]:
        """Of the log-prob columns."""
        pair, render, score, merge, _ = self.sections
        settings: dict[str, Any] = {
            "pair": pair.model_dump(mode="json", exclude={"references"}),
            "weights": self._weights,
            "render": render.model_dump(mode="json"),
            "score": score.model_dump(mode="json", include=_DECIDING),
            "versions": scoring_versions(score.engine, adapters=len(pair.parts) > len(schema.MODELS)),
        }
        if score.engine == "vllm" and score.vllm.options:
            settings["vllm_options"] = score.vllm.model_dump(mode="json")["options"]
        if merge is not None:
            settings["merge"] = merge._asdict()
        return settings

    def check(self, say: Say) -> None:
        """Examine both models, pin them to the commits that the run began with, and cut lengths to what they read."""
        try:
            said = self._check()
        except ConfigError as error:
            raise ConfigError(self.sections.called(str(error))) from None
        # Of a merged reference the models are the pair's own, of a further one the policy is known.
        known = ("policy: ",) if self.sections.merge is None else ("",)
        for line in said:
            if not (self._alone and line.startswith(known)):
                self.folder.logged(say)(f"{self.name}: {self.sections.called(line)}")

    def _check(self) -> list[str]:
        """What is to be said."""
        # Slow to import, and not needed where nothing is left to score.
        from pa_dist.models.loaded import tokenizer
        from pa_dist.score.check import check_lengths, check_models, check_pair, check_templates, pinned_pair
        from pa_dist.score.mergeable import check_merge

        stages = self.folder.manifest["stages"]
        found = check_models(self.sections.pair, self.sections.score)
        check_templates(self.sections)
        if self._alone and LOGPROBS.stage in stages:
            self._check_as_long(found.positions["reference"])
        said = [*check_pair(self.sections, found), *check_lengths(self.sections, found)]
        # A name on the Hub may come to mean other weights: a run goes on with those it began with.
        pair = pinned_pair(self.sections.pair, stages.get(self.name, {}).get("commits", {}))
        if self.sections.merge is not None:
            check_merge(pair, self.sections.merge, (tokenizer(pair, "policy"), tokenizer(pair, "reference")))
        if pair.one_base and not self._alone and "reference" in self.sections.score.model_fields_set:
            said.append("score.reference is not read: the policy's actors do both models of one base")
        self.sections = limited(self.sections, found.positions)
        self._pinned = self.sections._replace(pair=pair)
        self._wanting = found.wanting
        self._facts = {"loaded": found.loaded, "positions": found.positions}
        return said

    def _check_as_long(self, most: int | None) -> None:
        """Refuse a reference that reads less than what the policy was given."""
        given = self.sections.score.max_length
        if most is not None and most < given:
            raise ConfigError(
                f"pair.reference: it reads at most {most} tokens, and the run was begun with {given}: take another "
                "output, in which all models are given as many"
            )

    def check_cluster(self, *, complete: bool) -> None:
        """As any stage."""
        score, held = self.sections.score, self._held
        if complete:
            actors = self._actors(held)
            gpus = {model: 0.0 if score.device == "cpu" else pool.num_gpus for model, pool in actors.items()}
            check_gpus({model: self._wanting.get(model) for model in held}, gpus, LOGPROBS.stage)
            pools.check_actors(actors)
        else:
            pools.check_named({model: getattr(score, model) for model in held})

    @property
    def _held(self) -> list[str]:
        """The models that have actors."""
        return ["reference"] if self._alone else self._pinned.pair.pools

    def _actors(self, models: Sequence[str]) -> dict[str, pools.Actors]:
        """Of models, by what their tokens cost where their sizes are known."""
        sizes = {model: self._facts["loaded"][model]["parameters"] for model in models}
        return pools.share_out(self.sections.score, models, None if None in sizes.values() else sizes)

    def say_done(self, say: Say) -> None:
        """That it is, and raise where no trajectory was scored."""
        super().say_done(say)
        self._refuse_nothing()

    def run(self, say: Say) -> None:
        """Score what is not scored yet."""
        self._score(self.folder.logged(say))
        self._refuse_nothing()

    def _cut_with_all(self) -> None:
        """Cut lengths to what every model reads that is to be scored with, or was when the run began."""
        positions = self._facts["positions"] | {
            stage.name: stage._facts["positions"]["reference"] for stage in self.further if stage._facts
        }
        self._facts |= {"positions": positions}
        if self._alone:
            positions = self.folder.manifest["stages"][LOGPROBS.stage]["positions"]
        self._pinned = limited(self._pinned, positions)
        self.sections = limited(self.sections, positions)
        self._facts |= {"max_length": self.sections.score.max_length}

    def _score(self, say: Say) -> None:
        from pa_dist.score import noise
        from pa_dist.score.pipeline import score
        from pa_dist.score.reasoning import left_out, lost_in_words
        from pa_dist.score.templates import templates_of

        began, folder, into = time.perf_counter(), self.folder, self.into
        if self.name not in folder.manifest["stages"]:
            for table_name, prefix in ((into.table, ""), ("rejects", into.rejects), (into.checkpoint, "")):
                folder.clear(table_name, prefix)
        self._cut_with_all()
        pair = self._pinned.pair
        commits = {part: getattr(pair, f"{part}_revision") for part in pair.parts}
        actors = self._actors(self._held)
        dtype = self._pin_dtype(actors, say)
        folder.start(self.name, self.settings(), commits=commits, dtype=dtype, **self._facts)
        named = {mark: partial(model_files, getattr(pair, m)) for m, mark in self._weights.items() if mark}
        if on_gpus := pools.in_words(actors):
            say(f"{self.name}: {on_gpus}")
        with read_beside(folder, named):
            facts = score(self._pinned, folder, actors, into)
        # Of a further reference that is the run's own, or in its steps' reasons.
        cut = {} if self._alone else truncation.count_cut(folder, mapper("truncation"))
        unseen = {} if self._alone else left_out(folder, templates_of(self._pinned), mapper("reasoning"))
        noisy = noise.measure(self._pinned, folder, self._computed_in(facts["models"]), into)
        seconds = round(time.perf_counter() - began, 1)
        folder.finish(self.name, **facts, noise=noisy, truncated=cut, reasoning_left_out=unseen, seconds=seconds)
        folder.filesystem.delete_dir_contents(folder.path(into.checkpoint), missing_dir_ok=True)
        earlier = f", {facts['done_before']} of them before" if facts["done_before"] else ""
        say(f"{self.name}: {facts['rows']} trajectories scored, {facts['rejects']} rejected{earlier} ({seconds} s)")
        record = folder.manifest["stages"][self.name]
        unseen_said = lost_in_words(self.sections.render, unseen)
        for line in (truncation.in_full(record), unseen_said, noise_said.in_words(record)):
            if line:
                say(f"{self.name}: {line}")
        _say_rates(self.name, facts["models"], say)

    def _computed_in(self, models: Mapping[str, Any]) -> list[str]:
        """The dtypes of what is compared: of a further reference, of the policy too."""
        did = self.folder.manifest["stages"][LOGPROBS.stage]["models"]["policy"] if self._alone else None
        return [
            noise_said.computed_in(place)
            for of in (*models.values(), *([did] if did else []))
            for place in of["actors"]
        ]

    def _pin_dtype(self, actors: Mapping[str, pools.Actors], say: Say) -> str:
        """What `auto` means, or meant when the run began: a table has one dtype."""
        from pa_dist.score.scorer import dtype_of

        settings = self._pinned.score
        gpus = any(pool.num_gpus for pool in actors.values())
        made_for = filter(None, (loaded["made_for"] for loaded in self._facts.get("loaded", {}).values()))
        now = dtype_of(settings, settings.device or ("cuda" if gpus else "cpu"), made_for)
        before: str | None = self.folder.manifest["stages"].get(self.name, {}).get("dtype")
        if before not in (None, now):
            say(f"{self.name}: it goes on in {before}, as it began; here score.dtype=auto would be {now}")
        dtype = before or now
        self._pinned = self._pinned._replace(score=settings.model_copy(update={"dtype": dtype}))
        return dtype

    def _refuse_nothing(self) -> None:
        """Raise `PaDistError` where no trajectory was scored: nobody asks for that, and a script should notice."""
        record = self.folder.manifest["stages"][self.name]
        if record["rows"] == 0 and record["rejects"]:
            of_stage = pc.field("stage") == self.name
            reasons = self.folder.dataset("rejects").to_table(columns=["reason"], filter=of_stage)["reason"]
            ((reason, n),) = Counter(reasons.to_pylist()).most_common(1)
            raise PaDistError(f"{self.name}: no trajectory could be scored; of {len(reasons)} rejects, {n}: {reason}")


def _say_rates(stage: str, models: dict[str, Any], say: Say) -> None:
    for model, done in models.items():
        if not done["rows"]:
            continue
        if reasons := {place["prefixes_apart"] for place in done["actors"]} - {None, "as asked"}:
            say(f"{stage}: the {model}'s prefixes were not shared: {min(reasons)}")
        if why := {place.get("attention_in_pieces") for place in done["actors"]} - {None, "as asked"}:
            say(f"{stage}: the {model}'s layers attend in a call for each segment, not in one: {min(why)}")
        if why := {place.get("linear_attention_fell_back") for place in done["actors"]} - {None}:
            say(f"{stage}: the {model}'s linear-attention layers run in a slower way: {min(why)}")
        if lacking := sorted({package for place in done["actors"] for package in place.get("missing_kernels", [])}):
            say(f"{stage}: the {model}'s {lost_kernels_in_words(lacking)}")
        if over := sum(place.get("overflowed", 0) for place in done["actors"]):
            now = "float32" if all(place["dtype"] == "float16" for place in done["actors"]) else "bfloat16"
            say(f"{stage}: the {model} left the range of float16 on {over:,} sequences, which were scored in {now}")
        rate = done["share_of_matrix_rate"]
        say(
            f"{stage}: {model}: {done['tokens']:,} tokens at {done['tokens_per_second']:,.0f} a second and actor, "
            f"{done['share_saved']:.0%} of them shared{'' if rate is None else f', {rate:.0%} of the matrix rate'}, "
            f"idle between blocks {done['idle_share']:.0%} of the time"
        )
