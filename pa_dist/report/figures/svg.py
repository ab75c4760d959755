"""Matplotlib's SVG as a part of the page: colours that follow the page's, its font, and no style attributes.

The page's content security policy knows styles by their hashes, and attributes have none; the same words as
presentation attributes are allowed.
"""

import re
from xml.etree import ElementTree

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]*)\)")


def inlined(svg: str, prefix: str, label: str, colours: dict[str, str]) -> str:
    """An SVG element to stand in the page.

    Args:
      svg: as matplotlib wrote it.
      prefix: begins each id, so that those of several figures do not meet.
      label: what the figure says, for those who do not see it.
      colours: CSS values by the `#rrggbb` that they take the place of.
    """
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for element in root.iter():
        _restyle(element, colours)
        _rename(element, prefix)
        element.tag = element.tag.removeprefix(_SVG)
    size = root.get("viewBox")
    root.attrib.clear()
    root.attrib.update({"viewBox": size or "", "role": "img", "aria-label": label})
    return ElementTree.tostring(root, encoding="unicode")


def _restyle(element: ElementTree.Element, colours: dict[str, str]) -> None:
    """Each property of a style attribute as an attribute of its own; the font is the page's."""
    for declaration in filter(None, map(str.strip, element.attrib.pop("style", "").split(";"))):
        name, _, value = map(str.strip, declaration.partition(":"))
        if name != "font-family":
            element.set(name, colours.get(value, value))


def _rename(element: ElementTree.Element, prefix: str) -> None:
    """Ids and what refers to them; those of groups, to which nothing does, go."""
    name = element.attrib.pop("id", None)
    if name is not None and element.tag != f"{_SVG}g":
        element.set("id", prefix + name)
    if (target := element.attrib.pop(_HREF, None)) is not None:
        element.set("href", f"#{prefix}{target.removeprefix('#')}")
    for attribute in ("clip-path", "fill"):  # a hatch fills with a pattern
        if (value := element.get(attribute)) is not None:
            element.set(attribute, _REFERENCE.sub(rf"url(#{prefix}\1)", value))
