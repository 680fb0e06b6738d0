"""Markdown for descriptions in MLflow: sections, tables, and links within its pages."""

import re
from collections.abc import Mapping, Sequence


def with_section(description: str, heading: str, text: str) -> str:
    """Return a description with a section added, or replaced if the heading is there already."""
    head, *sections = re.split(r"^## ", description, flags=re.MULTILINE)
    bodies = {title: body for title, _, body in (section.partition("\n") for section in sections)}
    bodies[heading] = text
    return "\n\n".join([head.strip(), *(f"## {title}\n\n{body.strip()}" for title, body in bodies.items())]).strip()


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return a Markdown table of at least one row; the keys of the first row are the header."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(map(_cell, row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run_link(words: str, run_id: str) -> str:
    """Return a link to a run, or the words alone if `run_id` is empty."""
    return f"[{words}](#/runs/{run_id})" if run_id else words


def model_link(words: str, model: str) -> str:
    """Return a link to the page of a registered model's versions."""
    return f"[{words}](#/models/{model})"


def _cell(value: object) -> str:
    return str(value).replace("|", r"\|").replace("\n", " ")
