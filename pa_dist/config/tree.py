"""The whole tree, and how it is read."""

import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from pa_dist.config import paths, yaml_text
from pa_dist.config.paths import Output
from pa_dist.config.reward_models import KINDS, RewardModel, RewardName
from pa_dist.config.sections import Evaluate, Merge, Merged, Pair, Ray, Render, Score, Section, Trajectories
from pa_dist.errors import ConfigError
from pa_dist.pairs import DEMO, PAIRS


class ScoreSections(NamedTuple):
    """What scoring reads of a config, of one reference.

    Attributes:
      merge: how the pair's reference is merged with its policy first.
      reference: its name in `pair.references`, where there are several.
    """

    pair: Pair
    render: Render
    score: Score
    merge: Merged | None = None
    reference: str | None = None

    def called(self, text: str) -> str:
        """A text about `pair.reference` with the key that it has where there are several."""
        if self.reference is None:
            return text
        key = f"pair.references.{self.reference}"
        return re.sub(
            r"pair\.reference(?:_(adapter))?(?![\w.])", lambda of: ".".join([key, *filter(None, of.groups())]), text
        )


class Config(Section):
    """A whole run."""

    name: str | None = None
    trajectories: Trajectories
    pair: Pair
    """Or the name of a known one, which `{pair}` then stands for in `name` and `output`."""
    source: str | None = None
    """What `{source}` stands for in `trajectories.paths`, `name` and `output`: the model whose trajectories are read;
    null takes the name of the pair."""
    render: Render = Render()
    score: Score = Score()
    merge: Merge | None = None
    """null: no merged references."""
    reward_models: dict[RewardName, RewardModel] = Field(default_factory=dict)
    """Reward models by the name that their scores go by, such as `wildreward: {kind: wildreward}`."""
    evaluate: Evaluate = Evaluate()
    ray: Ray = Ray()
    output: Output

    @property
    def scoring(self) -> ScoreSections:
        """The sections that scoring reads; of several references, with the first."""
        if self.pair.references is None:
            return ScoreSections(self.pair, self.render, self.score)
        first = next(iter(self.pair.references))
        return ScoreSections(self.pair.against(first), self.render, self.score, reference=first)

    @property
    def more_scoring(self) -> dict[str, ScoreSections]:
        """The same with each further reference, by its name: the pair's own, then the merged ones."""
        first, own = self.scoring, list(self.pair.references or ())[1:]
        merged = {} if self.merge is None else self.merge.references
        return {name: first._replace(pair=self.pair.against(name), reference=name) for name in own} | {
            name: first._replace(merge=how) for name, how in merged.items()
        }

    @model_validator(mode="before")
    @classmethod
    def _name_of_a_pair(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = _as_published(data)
        name, known = data.get("pair"), {**PAIRS, "demo": DEMO}
        if not isinstance(name, str):
            return _named(data, None)
        if name not in known:
            raise ValueError(f"pair: unknown pair {name!r}{_nearest(name, known)}; `pa-dist pairs` lists them")
        data = {**data, "pair": {"policy": known[name].policy, "reference": known[name].reference}}
        return _named(data, name)

    @model_validator(mode="after")
    def _merged_in_place(self) -> "Config":
        if self.merge is not None and self.score.engine != "hf":
            raise ValueError("merge: needs score.engine hf, whose weights are rewritten in place")
        if self.merge is not None and (both := self.merge.references.keys() & (self.pair.references or {}).keys()):
            raise ValueError(f"pair.references.{min(both)}: a merged reference has this name; take another")
        if self.merge is not None and (size := self.score.width("reference")) > 1:
            raise ValueError(f"score.reference.tensor_parallel_size: merging needs the reference whole, not in {size}")
        return self


def _as_published(data: dict[str, Any]) -> dict[str, Any]:
    """A config of the preset `paper` in the published dtype, where none is named."""
    evaluate, score = data.get("evaluate"), data.get("score") or {}
    if not (isinstance(evaluate, dict) and evaluate.get("preset") == "paper" and isinstance(score, dict)):
        return data
    return data if score.get("dtype", "auto") != "auto" else {**data, "score": {**score, "dtype": "bfloat16"}}


def _named(data: dict[str, Any], pair: str | None) -> dict[str, Any]:
    """A config with `{pair}` and `{source}` replaced where they stand."""
    source = data.get("source") or pair

    def filled(key: str, text: Any) -> Any:
        if not isinstance(text, str):
            return text
        if "{source}" in text and not isinstance(source, str):
            raise ValueError(f"{key}: {{source}} is the name of a model; a pair that is known by none needs `source`")
        return text.replace("{source}", str(source)).replace("{pair}", pair or "own-pair")

    data = {**data, **{key: filled(key, data[key]) for key in ("name", "output") if key in data}}
    section = data.get("trajectories")
    if isinstance(section, dict) and isinstance(paths_ := section.get("paths"), list):
        data["trajectories"] = {**section, "paths": [filled("trajectories.paths", path) for path in paths_]}
    return data


def load(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a config file and apply `key.path=value` overrides.

    Args:
      path: a YAML file. The field decides what an unquoted word is: a domain `no` is text, `limit: 40` a number.
      overrides: `key.path=value` strings; of values the same, and `paths=[a, b]` is a list, `{a: b}` a mapping.

    Raises:
      ConfigError: unreadable file, unknown key, or a value out of bounds.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    tree = _yaml(yaml_text.read, text, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values")
    for override in overrides or []:
        _apply(tree, override)
    return parse(tree)


def parse(tree: dict[str, Any]) -> Config:
    """Validate a config given as a plain dict. Raises `ConfigError`."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None


def given_path(path: str | os.PathLike[str], key: str = "OUT", *, output: bool = False) -> str:
    """A path that is no key of a config, by the same rules; `output`: by those of one. Raises `ConfigError`."""
    try:
        text = paths.output(path) if output else paths.expanded(path)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}, got {str(path)!r}") from None
    if not isinstance(text, str):
        raise ConfigError(f"{key}: no path but {type(path).__name__}")
    return text


def evaluate_section(before: dict[str, Any], overrides: list[str] | None = None) -> Evaluate:
    """The `evaluate` section a run folder was made with, with `key=value` overrides. Raises `ConfigError`."""
    tree: dict[str, Any] = dict(before)
    for override in overrides or []:
        _apply(tree, override)
    try:
        return Evaluate.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_one_line(error, Evaluate)) from None


def _yaml(read: Callable[[str], Any], text: str, where: str) -> Any:
    try:
        return read(text)
    except yaml_text.Refused as error:
        raise ConfigError(f"{where}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r}: an override is key.path=value")
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"{key}: {parent} has no keys below it")
        node = child
    node[leaf] = _yaml(yaml_text.value, value, key)


def _one_line(error: ValidationError, model: type[BaseModel] = Config) -> str:
    """The first problem, as `key.path: what is wrong`."""
    first = error.errors()[0]
    fields = _fields_at(model, list(first["loc"][:-1]))
    path = [part for part in first["loc"] if part != "[key]"]  # of a mapping, at fault itself
    if path[0:1] == ["reward_models"]:
        del path[2:3]  # the kind, which pydantic puts between a name and its keys
    key = ".".join(str(part) for part in path)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest(str(path[-1]), fields)}{more}"
    if first["type"] == "missing":
        return f"{key}: missing{more}"
    if first["type"].startswith("union_tag"):
        return f"{key}.kind: one of {', '.join(KINDS)}{more}"
    message = str(first["msg"]).removeprefix("Value error, ")
    if not key:
        return message + more
    given = first["input"]
    shown = f", got {given!r}" if isinstance(given, str | int | float | bool) else ""
    nearest = ""
    if first["type"] == "literal_error" and isinstance(given, str):
        nearest = _nearest(given, re.findall(r"'([^']*)'", first["ctx"]["expected"]))
    return f"{key}: {message}{shown}{nearest}{more}"


def _fields_at(model: type[BaseModel], path: list[Any]) -> list[str]:
    """Names of the keys a section takes."""
    if path[0:1] == ["reward_models"] and len(path) == 3:
        return list(KINDS[path[2]].model_fields)
    for part in path:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
