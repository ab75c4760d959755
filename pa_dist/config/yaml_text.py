"""YAML in which the field decides what an unquoted word is.

A benchmark `2024-01-01`, a domain `no` and a label `007` are the text that was written; `limit: 40` is a number. YAML's
own rules cannot know that: 1.1 makes a date, `false` and 7 of them. So a word without quotes is read as `Plain`, and
`typed` turns it into what the field it goes to takes: text as it stands, else what YAML 1.2's core schema makes of it.
"""

import re
import typing
from collections.abc import Hashable
from typing import Any

import yaml
from pydantic import BaseModel

_PLAIN = "!plain"
_NULL = re.compile("~|null|Null|NULL|")
_INTEGER = re.compile("[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_BOOLEAN = re.compile("true|True|TRUE|false|False|FALSE")
# YAML 1.1 made truth values of these. Where any type may stand, as text they would all count as true.
_ONCE_BOOLEAN = re.compile("yes|no|on|off", re.IGNORECASE)
# Values of a file once its aliases are written out; a few lines of them can stand for billions.
MOST_VALUES = 100_000


class Plain(str):
    """A word that was written without quotes."""


class Refused(ValueError):
    """YAML that says something twice, or without end."""


def read(text: str) -> Any:
    """A file's one document. Words without quotes are `Plain`, but for nulls.

    Raises:
      yaml.YAMLError, Refused, RecursionError.
    """
    return yaml.load(text, _Loader)


def value(text: str) -> Any:
    """The value of `key=value`: text as it stands, unless it begins with a bracket, brace or quote. Raises as `read`.

    As YAML ` #` would begin a comment, `*` an alias and `a: b` a mapping, of which nobody thinks on a command line.
    """
    text = text.strip()
    if text[:1] in ("[", "{", '"', "'"):
        return read(text)
    return None if _NULL.fullmatch(text) else Plain(text)


class _Loader(yaml.SafeLoader):
    """Keeps what a word looked like; refuses keys that are there twice and aliases without end."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            sizes: dict[int, int] = {}
            if _size(node, sizes) > MOST_VALUES > len(sizes):
                raise Refused(f"aliases that stand for more than {MOST_VALUES:,} values")
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise Refused(f"key {key.value!r} is there twice, in lines {lines[key.value]} and {line}")
                lines[key.value] = line
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        found = super().construct_mapping(node, deep)
        return {str(key) if isinstance(key, Plain) else key: below for key, below in found.items()}


_Loader.yaml_implicit_resolvers = {
    "<": [("tag:yaml.org,2002:merge", re.compile("<<$"))],
    None: [("tag:yaml.org,2002:null", re.compile(f"({_NULL.pattern})$")), (_PLAIN, re.compile(""))],
}
_Loader.add_constructor(_PLAIN, lambda loader, node: Plain(node.value))


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Values of a node, those of aliases counted as often as they stand for them."""
    known = sizes.get(id(node))
    if known == 0:
        raise Refused("an alias that stands for what it is part of")
    if known is None:
        sizes[id(node)] = 0
        below = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in below for part in pair] if isinstance(node, yaml.MappingNode) else below
        known = sizes[id(node)] = 1 + sum(_size(part, sizes) for part in parts)
    return known


def typed(given: Any, annotation: Any) -> Any:
    """A field's value with each `Plain` in it as the field takes it. What a section holds, its own fields say.

    Raises:
      ValueError: any type may stand here, and the word was a truth value once.
    """
    kinds = _kinds(annotation)
    if any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds):
        return given
    if isinstance(given, Plain):
        if Any not in kinds and str in kinds:
            return str(given)
        if Any in kinds and _ONCE_BOOLEAN.fullmatch(given):
            raise ValueError(f"write true or false, or put {str(given)!r} in quotes if it is text")
        found = core(given)
        # A true is no 1 where a number is asked for: the field says so itself, of the word.
        return str(given) if isinstance(found, bool) and bool not in kinds and Any not in kinds else found
    if isinstance(given, dict):
        return {key: typed(below, annotation) for key, below in given.items()}
    return [typed(below, annotation) for below in given] if isinstance(given, list) else given


def core(word: str) -> Any:
    """What a word is by YAML 1.2's core schema."""
    if _BOOLEAN.fullmatch(word):
        return word.lower() == "true"
    try:
        if _INTEGER.fullmatch(word):
            return int(word, 0 if word[:2] in ("0o", "0x") else 10)
        if _FLOAT.fullmatch(word):
            return float(word.lower().replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:  # more digits than Python reads
        pass
    return str(word)


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation is made of, those of its texts as `str`."""
    if isinstance(annotation, str):
        return {str}
    parts = typing.get_args(annotation)
    if not parts:
        return {annotation} if annotation is Any or isinstance(annotation, type) else set()
    return set().union(*map(_kinds, parts))
