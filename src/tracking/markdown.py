"""Markdown for descriptions in MLflow: sections, tables, and links within its pages."""

import re
from collections.abc import Mapping, Sequence

# Pages with MLflow's menu of model training. Without it, links lead into the menu of its pages for generative AI.
MODEL_TRAINING = "workflowType=machine_learning"  # private API of MLflow 3.17


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


def run_link(words: str, experiment_id: str, run_id: str) -> str:
    """Return a link to a run of an experiment, or the words alone if `run_id` is empty."""
    return f"[{words}](#/experiments/{experiment_id}/runs/{run_id}?{MODEL_TRAINING})" if run_id else words


def model_link(words: str, model: str) -> str:
    """Return a link to the page of a registered model's versions."""
    return f"[{words}](#/models/{model}?{MODEL_TRAINING})"


def lead_of(best: float, next_best: float) -> str:
    """Return how far the best score is above the next, in words that go before the next's name."""
    return f"{best - next_best:.4f} above" if best > next_best else "level with"


def _cell(value: object) -> str:
    return str(value).replace("|", r"\|").replace("\n", " ")
