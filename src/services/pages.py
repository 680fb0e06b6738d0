"""HTML pages that stand alone: pictures are embedded, nothing is fetched when they are opened."""

from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def render(template: str, **content: Any) -> str:
    """Fill the template `<template>.html.jinja` of this folder; all text is escaped, a missing name is an error.

    In the template, `picture` turns bytes into the address of an embedded picture (a PNG, or `picture("jpeg")`), and
    `score` a share between 0 and 1 (or None) into four decimals (or a dash), and `sum_of` adds up the values of a
    mapping.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    pages.filters["picture"] = _picture
    pages.filters["score"] = _score
    pages.filters["sum_of"] = _sum_of
    return pages.get_template(f"{template}.html.jinja").render(**content)


def _picture(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _sum_of(counts: Mapping[str, int]) -> int:
    return sum(counts.values())


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
