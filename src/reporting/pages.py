"""HTML pages that stand alone (pictures are embedded, nothing is fetched when they are opened), and Markdown."""

from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "templates"


def render(template: str, **content: Any) -> str:
    """Fill the template `<template>.html.jinja` of this folder; all text is escaped, a missing name is an error.

    In the template, `picture` turns bytes into the address of an embedded picture (a PNG, or `picture("jpeg")`), and
    `score` a share between 0 and 1 (or None) into four decimals (or a dash), `share` into percent, `points` a change of
    one into points with a sign, and `sum_of` adds up the values of a mapping.
    """
    return _fill(f"{template}.html.jinja", content)


def render_markdown(template: str, **content: Any) -> str:
    """Fill the template `<template>.md.jinja` of this folder as `render` does; nothing is escaped."""
    return _fill(f"{template}.md.jinja", content)


def _fill(file: str, content: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    pages = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    pages.filters["picture"] = _picture
    pages.filters["score"] = _score
    pages.filters["share"] = _share
    pages.filters["points"] = _points
    pages.filters["sum_of"] = _sum_of
    return pages.get_template(file).render(**content)


def _picture(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _sum_of(counts: Mapping[str, int]) -> int:
    return sum(counts.values())


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _points(change: float | None) -> str:
    return "-" if change is None else f"{100 * change:+z.1f}".replace("-", "\N{MINUS SIGN}")
