"""A training callback that logs every epoch to a run and shows it on a progress bar."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from src.cli.output import Progress, warn
from src.core.errors import UserError
from src.tracking.client import Run


def log_epochs(run: Run, history: Iterable[Mapping[str, float]]) -> None:
    """Log the metrics of epochs, the step of each being `epoch`. Logging an epoch twice does no harm."""
    for metrics in history:
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        run.metrics(values, step=int(metrics["epoch"]))


@dataclass(frozen=True)
class EpochLogger:
    """Logs the metrics of every epoch to `run`, and advances `bar` by one epoch.

    It never stops a training. If MLflow does not answer, the epoch is missing until `log_epochs` logs the history.
    """

    run: Run
    bar: Progress

    def on_batch(self) -> None:
        """Do nothing."""

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Log and show an epoch, counted from 1."""
        try:
            log_epochs(self.run, [metrics])
        except UserError as error:
            warn(f"{error}; the training goes on, and epoch {epoch} is logged at its end")
        self.bar.note(f"macro-F1 {metrics['val_macro_f1']:.4f}")
        self.bar.advance()
        return True
