"""The logging of epochs while MLflow does not answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import pytest

from src.cli.output import Progress
from src.core.errors import UserError
from src.tracking.client import Run
from src.tracking.epoch_logger import EpochLogger, log_missing_epochs

HISTORY = [{"epoch": number, "val_macro_f1": number / 10} for number in (1, 2)]


@dataclass
class FakeRun:
    """A run of a store that may be away."""

    is_away: bool = False
    logged: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if self.is_away:
            raise UserError("the MLflow store does not answer")
        self.logged.append((step, values))

    def steps(self, metric: str) -> set[int]:
        return {step for step, values in self.logged if metric in values}


class FakeBar:
    def note(self, text: str) -> None:
        """Show nothing."""

    def advance(self) -> None:
        """Show nothing."""


def test_outage_stops_no_training(capsys: pytest.CaptureFixture[str]) -> None:
    run = FakeRun(is_away=True)
    logger = EpochLogger(cast(Run, run), cast(Progress, FakeBar()))
    assert logger.on_epoch(1, HISTORY[0])
    assert "does not answer" in capsys.readouterr().err
    run.is_away = False
    assert logger.on_epoch(2, HISTORY[1])
    assert run.logged == [(2, {"val_macro_f1": 0.2})]
    log_missing_epochs(cast(Run, run), HISTORY)
    assert run.logged == [(2, {"val_macro_f1": 0.2}), (1, {"val_macro_f1": 0.1})]


@pytest.mark.parametrize("is_away", [False, True])
def test_epochs_before_a_kill_come_first(capsys: pytest.CaptureFixture[str], is_away: bool) -> None:
    run = FakeRun()
    logger = EpochLogger(cast(Run, run), cast(Progress, FakeBar()))
    logger.on_epoch(1, HISTORY[0])
    run.is_away = is_away
    logger.log_missing(HISTORY)
    assert [step for step, _ in run.logged] == ([1] if is_away else [1, 2])
    assert ("does not answer" in capsys.readouterr().err) == is_away
