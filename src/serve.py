"""Entry points of a registered version, not a command: MLflow calls `load` and `predict` from the version's own code.

mlflow models serve --env-manager local -m models:/mvsa-clip@champion

A server reads only the content of requests: images are bytes, and no path or address is followed.
"""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from src.core.errors import UserError
from src.data.encodings import unify_lines
from src.registry.pyfunc import Answers, Row

if TYPE_CHECKING:
    from src.registry.verification import Loaded

BATCH_SIZE = 32
# In characters. The longest caption of MVSA-Single has some hundreds.
MAX_CAPTION_LENGTH = 10_000


def load(artifacts: Mapping[str, str]) -> "Loaded":
    """Load a version, and check it against its contract.

    Raises:
        UserError: the version breaks its contract.
    """
    from src.registry.verification import load

    loaded = load(artifacts)
    for warning in loaded.warnings:
        warnings.warn(warning, stacklevel=2)
    return loaded


def predict(loaded: "Loaded", rows: list[Row], halves: bool = False) -> Answers:
    """Predict the label of each post, with probabilities.

    Args:
        loaded: the loaded version.
        rows: the posts.
        halves: whether captions may be empty.

    Raises:
        UserError: a post cannot be used; the message has the post's number, counted from 1.
    """
    for number, (_, caption) in enumerate(rows, start=1):
        _require_caption(number, caption, halves)
    # Captions that a training reads have unified line ends. Other line ends would be other tokens.
    rows = [(image, unify_lines(caption)) for image, caption in rows]
    probabilities: list[list[float]] = []
    for start in range(0, len(rows), BATCH_SIZE):
        batch = rows[start : start + BATCH_SIZE]
        probabilities += loaded.probabilities(batch, first=start + 1)
    return Answers(loaded.contract.labels, probabilities)


def _require_caption(number: int, caption: str, halves: bool) -> None:
    if not halves and not caption.strip():
        raise UserError(f"post {number}: the text is empty")
    if len(caption) > MAX_CAPTION_LENGTH:
        raise UserError(
            f"post {number}: the text has {len(caption):,} characters, and {MAX_CAPTION_LENGTH:,} are allowed"
        )
