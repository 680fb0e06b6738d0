"""Evidence of how well a version answers: its predictions for validation and test, which lie beside its contract."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.core.config import notice_of
from src.core.errors import UserError
from src.core.format import percent
from src.core.records import Prediction, read_predictions
from src.evaluation.calibration import scaled
from src.evaluation.metrics import scores
from src.evaluation.selective import SelectiveCurve, selective_curve
from src.registry import registry
from src.registry.contract import TEST_COLUMNS, TEST_FILE, VALIDATION_FILE, read_contract

# The file with the predictions for each part.
PARTS = {"validation": VALIDATION_FILE, "test": TEST_FILE}


@dataclass(frozen=True)
class Evidence:
    """The evidence on one version."""

    # The version, such as "mvsa-clip version 3".
    version: str
    # A warning and the scores of the version in sentences; empty without.
    notice: str
    scores: str
    # Its selective prediction on validation. None for a version without validation predictions.
    curve: SelectiveCurve | None
    # Its predictions for the test part, calibrated as `curve` says; empty for a version without them.
    test: Sequence[Prediction]

    @property
    def temperature(self) -> float:
        """Return the temperature that calibrates the version's confidences; 1 if it is unknown."""
        return self.curve.temperature if self.curve else 1.0


def read_evidence(uri: str) -> Evidence:
    """Read the evidence on a version. A version of an older format may lack parts of it.

    Raises:
        UserError: there is no such version, or its files are gone.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = registry.download_contract(uri, Path(temporary))
        tables = {part: _read(folder, part) for part in PARTS}
        notice = _notice(uri, folder)
    validation, test = tables.values()
    curve = selective_curve(validation) if validation else None
    calibrated = scaled(test, curve.temperature) if curve and test else []
    return Evidence(registry.title_of(uri), notice, _scores(tables), curve, calibrated)


def _read(folder: Path, part: str) -> list[Prediction]:
    """Return the predictions for a part; none if they did not come with the version."""
    path = folder / PARTS[part]
    return read_predictions(path, TEST_COLUMNS) if path.is_file() else []


def _notice(uri: str, folder: Path) -> str:
    """Return the notice on random weights."""
    try:
        scale: str = read_contract(folder).checkpoint.scale
    except UserError:  # of another format, or an ensemble's, which names no weights
        scale = registry.scale_of(uri)
    return notice_of(scale) if scale == "tiny" else ""


def _scores(tables: Mapping[str, Sequence[Prediction]]) -> str:
    """Return a sentence on the accuracy and the macro-F1 on each part that has predictions."""
    figures = [
        f"{percent(scored.accuracy)} and a macro-F1 of {percent(scored.macro_f1)} on {part}"
        for part, predictions in tables.items()
        if predictions
        for scored in [scores(predictions)]
    ]
    return f"It has an accuracy of {', and of '.join(figures)}." if figures else ""
