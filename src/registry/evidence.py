"""Evidence of how well a version answers: its predictions for validation and test, which lie beside its contract."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.core.config import notice_of
from src.core.errors import UserError
from src.core.format import percent
from src.core.records import Prediction, read_predictions
from src.evaluation.calibration import scaled
from src.evaluation.selective import SelectiveCurve, selective_curve
from src.registry import registry
from src.registry.contract import TEST_COLUMNS, TEST_FILE, VALIDATION_FILE, read_contract


@dataclass(frozen=True)
class Evidence:
    """The evidence on one version."""

    # The version, such as "mvsa-clip version 3".
    version: str
    # Warnings and scores of the version in sentences; empty if this code cannot read its contract.
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
        notice, scores = _told_by_contract(folder)
        has = {name: (folder / name).is_file() for name in (VALIDATION_FILE, TEST_FILE)}
        curve = selective_curve(read_predictions(folder / VALIDATION_FILE)) if has[VALIDATION_FILE] else None
        test = read_predictions(folder / TEST_FILE, TEST_COLUMNS) if has[TEST_FILE] else []
    calibrated = scaled(test, curve.temperature) if curve and test else []
    return Evidence(registry.title_of(uri), notice, scores, curve, calibrated)


def _told_by_contract(folder: Path) -> tuple[str, str]:
    """Return the notice on the version's weights, and its scores."""
    try:
        contract = read_contract(folder)
    except UserError:
        return "", ""
    notice = notice_of(contract.checkpoint.scale) if contract.checkpoint.is_random else ""
    accuracy, macro_f1 = (
        f"{percent(contract.validation[name])} on validation and {percent(contract.test[name])} on test"
        for name in ("accuracy", "macro_f1")
    )
    return notice, f"Its accuracy is {accuracy}, its macro-F1 {macro_f1}."
