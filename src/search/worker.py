"""One worker's part of a search: it draws a trial, trains it, and says how that ended."""

import errno
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from src.core.config import Params
from src.core.errors import StopRequested
from src.core.provenance import code_digest
from src.core.training_config import TrainingConfig
from src.evaluation.metrics import report
from src.search.plan import StudyPlan
from src.search.study import RunningTrial, Study, join_study
from src.training.adapter import Adapter
from src.training.failures import Failure, failure_of, release_memory
from src.training.train_and_test import trained_adapter
from src.training.trainer import TrainingContext, TrainingResult
from src.training.workspace import Workspace, open_workspace

# The next trial would meet the same: no room on a disk, or none that may be written.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended. Its study is told by whoever sent the worker, once the adapter is safe."""

    number: int
    worker: str
    state: Literal["complete", "pruned", "failed"]
    values: tuple[float, ...] = ()
    failure: Failure | None = None
    adapter: Mapping[str, bytes] = field(default_factory=dict, repr=False)


def _go_on() -> None:
    pass


@dataclass
class TrialWorker:
    """Runs trials of one study on one base in memory.

    `check` is called at every step and may raise `StopRequested`.
    """

    params: Params
    workspace: Workspace
    study: Study
    name: str
    check: Callable[[], None] = _go_on

    def run_one(self) -> TrialResult:
        """Draw a trial and train it.

        Raises:
            StopRequested: it was told to stop; the trial is left running, to be recovered.
            OSError: there is no room on a disk.
            UserError: the storage of studies stays away.
        """
        ticket = self.study.ask(self.name)
        ticket.note("process", f"{socket.gethostname()}:{os.getpid()}")
        ticket.note("code", code_digest(self.workspace.model.spec.name))
        try:
            return self._train(ticket, self.params.training_config(self.workspace.model.spec.name, **ticket.params))
        except StopRequested:
            raise
        except Exception as error:  # whatever a model does, the other trials go on
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise
            failure = failure_of(error)
        # The error is gone by now, and with it what its frames held.
        release_memory()
        ticket.set_failure(failure.cause, failure.reason, unfit=failure.unfit)
        return TrialResult(ticket.number, self.name, "failed", failure=failure)

    def _train(self, ticket: RunningTrial, settings: TrainingConfig) -> TrialResult:
        callback = _TrialReporter(ticket, settings.epochs, self.check)
        context = TrainingContext(self.params.seed, callback)
        with trained_adapter(self.workspace, settings, context, lambda _: self.check()) as (adapter, result):
            outcome = _outcome(adapter, result)
            ticket.set_outcome(outcome)
            files = _files(adapter)
        found = {"macro_f1": outcome["scores"]["macro_f1"], "parameters": float(outcome["parameters"])}
        values = tuple(found[objective] for objective in self.study.plan.objectives)
        return TrialResult(ticket.number, self.name, "pruned" if callback.pruned else "complete", values, adapter=files)


def open_worker(name: str, params: Params, model: str, url: str, plan: StudyPlan) -> TrialWorker:
    """A worker in a process of its own."""
    return TrialWorker(params, open_workspace(model), join_study(url, plan), name)


@dataclass
class _TrialReporter:
    """Passes each epoch on to the study, whose pruner may end the trial."""

    ticket: RunningTrial
    epochs: int
    check: Callable[[], None]
    pruned: bool = False

    def on_step(self) -> None:
        self.check()

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        self.pruned = not self.ticket.report(epoch, metrics, last=epoch == self.epochs)
        return not self.pruned


def _outcome(adapter: Adapter, result: TrainingResult) -> dict[str, Any]:
    """What the best epoch gave, for whoever shows it."""
    return {
        "scores": asdict(result.scores()),
        "report": report(result.predictions),
        "best_epoch": result.best_epoch,
        "modules": adapter.modules(),
        "parameters": sum(weight.numel() for weight in result.state.values()),
    }


def _files(adapter: Adapter) -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        adapter.save(Path(folder) / "adapter")
        return {path.name: path.read_bytes() for path in (Path(folder) / "adapter").iterdir()}
