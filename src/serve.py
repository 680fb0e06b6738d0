"""Loads and asks a registered version: its entry file publishes the two functions here, from its copy of this package.

mlflow models serve --env-manager local -m models:/mvsa-clip@champion

A server that it runs in reads nothing but what a client sends: pictures are bytes, and no path or address is followed.
"""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from src.core.errors import UserError
from src.core.labels import TONES
from src.registry.pyfunc import Answer, Row

if TYPE_CHECKING:
    from src.modeling.base import ToneModel

BATCH_SIZE = 32
# Of a post's caption, in characters; the longest of MVSA-Single has some hundreds.
LONGEST_CAPTION = 10_000


def load(artifacts: Mapping[str, str]) -> "ToneModel":
    """The base with its adapter on, from the files of a version, if that holds its contract.

    Raises:
        UserError: it does not; the message says in what.
    """
    from src.registry.loading import load_version

    loaded = load_version(artifacts)
    for remark in loaded.remarks:
        warnings.warn(remark, stacklevel=2)
    return loaded.model


def predict(model: "ToneModel", rows: list[Row], halves: bool = False) -> list[Answer]:
    """The tone of each post, with its probabilities; with `halves`, a caption may be empty.

    Raises:
        UserError: a post cannot be used; the message has its number, counted from 1.
    """
    from src.registry.loading import answer

    for number, (_, caption) in enumerate(rows, start=1):
        _require_caption(number, caption, halves)
    answers: list[Answer] = []
    for start in range(0, len(rows), BATCH_SIZE):
        batch = rows[start : start + BATCH_SIZE]
        for probabilities in answer(model, batch, first=start + 1).softmax(dim=-1).tolist():
            tone = TONES[probabilities.index(max(probabilities))]
            answers.append((tone, *probabilities))
    return answers


def _require_caption(number: int, caption: str, halves: bool) -> None:
    if not halves and not caption.strip():
        raise UserError(f"post {number}: the text is empty")
    if len(caption) > LONGEST_CAPTION:
        raise UserError(f"post {number}: the text has {len(caption):,} characters, and {LONGEST_CAPTION:,} are allowed")
