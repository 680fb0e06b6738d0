"""A training callback that logs every epoch to a run and shows it on a progress bar."""

from collections.abc import Mapping
from dataclasses import dataclass

from src.cli.output import Progress
from src.tracking.client import Run


@dataclass(frozen=True)
class EpochLogger:
    """Logs the metrics of every epoch to `run`, and advances `bar` by one epoch. It never stops a training."""

    run: Run
    bar: Progress

    def on_step(self) -> None:
        """Do nothing."""

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Log and show an epoch, counted from 1."""
        self.run.metrics({name: value for name, value in metrics.items() if name != "epoch"}, step=epoch)
        self.bar.note(f"macro-F1 {metrics['val_macro_f1']:.4f}")
        self.bar.advance()
        return True
