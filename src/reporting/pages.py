"""HTML pages that stand alone (images are embedded, nothing is loaded from elsewhere), and Markdown."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.core.format import points

FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Plot:
    """A plot on a page."""

    png: bytes
    # The text alternative (HTML's `alt`): what the plot shows.
    alt: str


def render(template: str, **content: Any) -> str:
    """Fill the template `<template>.html.jinja` of this folder. All text is escaped; a missing name is an error.

    Templates have these filters:

    - `embed`: bytes to the address of an embedded PNG, or of a JPEG by `embed("jpeg")`.
    - `score`: a share between 0 and 1 to four decimals. None is a dash.
    - `share`: a share to percent with one decimal, without the sign. None is a dash.
    - `points`: a difference of shares to points with a sign. None is a dash.
    - `sum_of`: a mapping to the sum of its values.
    """
    return _fill(f"{template}.html.jinja", content)


def render_markdown(template: str, **content: Any) -> str:
    """Fill the template `<template>.md.jinja` of this folder as `render` does, but escape nothing."""
    return _fill(f"{template}.md.jinja", content)


def _fill(file: str, content: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    pages = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    pages.filters["embed"] = _embed
    pages.filters["score"] = _score
    pages.filters["share"] = _share
    pages.filters["points"] = points
    pages.filters["sum_of"] = _sum_of
    return pages.get_template(file).render(**content)


def _embed(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _sum_of(counts: Mapping[str, int]) -> int:
    return sum(counts.values())


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
