"""Markdown that MLflow shows on runs and experiments, and addresses within its pages."""

import re
from collections.abc import Mapping, Sequence


def with_section(note: str, heading: str, text: str) -> str:
    """A note with a section, in place of an earlier one under the same heading, else at its end."""
    head, *sections = re.split(r"^## ", note, flags=re.MULTILINE)
    bodies = {title: body for title, _, body in (section.partition("\n") for section in sections)}
    bodies[heading] = text
    return "\n\n".join([head.strip(), *(f"## {title}\n\n{body.strip()}" for title, body in bodies.items())]).strip()


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """A table with the first row's keys as its header; at least one row."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(map(_cell, row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run_link(words: str, run_id: str) -> str:
    """A link to a run; the words alone where MLflow has none."""
    return f"[{words}](#/runs/{run_id})" if run_id else words


def model_link(words: str, model: str) -> str:
    """A link to the versions of a registered model."""
    return f"[{words}](#/models/{model})"


def _cell(value: object) -> str:
    return str(value).replace("|", r"\|").replace("\n", " ")
