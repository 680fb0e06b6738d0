"""A training callback that logs every epoch to a run and shows it on a progress bar."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from src.cli.output import Progress, warn
from src.core.errors import UserError
from src.tracking.client import Run

# A metric of every epoch.
_VALIDATION = "val_macro_f1"


def log_missing_epochs(run: Run, history: Iterable[Mapping[str, float]]) -> None:
    """Log the epochs that a run lacks, because MLflow did not answer when they ended.

    MLflow keeps a value once only if its time is equal too, so an epoch that is logged twice has two points.
    """
    logged = run.steps(_VALIDATION)
    for metrics in history:
        if metrics["epoch"] not in logged:
            _log(run, metrics)


@dataclass(frozen=True)
class EpochLogger:
    """Logs the metrics of every epoch to `run`, and advances `bar` by one epoch.

    It never stops a training. If MLflow does not answer, the epoch is missing until `log_missing_epochs`.
    """

    run: Run
    bar: Progress

    def on_batch(self) -> None:
        """Do nothing."""

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Log and show an epoch, counted from 1."""
        try:
            _log(self.run, metrics)
        except UserError as error:
            warn(f"{error}; the training goes on, and epoch {epoch} is logged at its end")
        self.show(metrics)
        return True

    def log_missing(self, history: Sequence[Mapping[str, float]]) -> None:
        """Log the epochs before an interruption that the run lacks: it may have come right after the last one."""
        try:
            log_missing_epochs(self.run, history)
        except UserError as error:
            warn(f"{error}; the training goes on, and its first {len(history)} epochs are logged at its end")

    def show(self, metrics: Mapping[str, float]) -> None:
        """Show an epoch that has ended."""
        self.bar.note(f"macro-F1 {metrics[_VALIDATION]:.4f}")
        self.bar.advance()


def _log(run: Run, metrics: Mapping[str, float]) -> None:
    values = {name: value for name, value in metrics.items() if name != "epoch"}
    run.metrics(values, step=int(metrics["epoch"]))
