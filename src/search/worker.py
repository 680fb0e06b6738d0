"""A worker: it draws trials, trains them, and returns the results."""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from src.core.config import Params
from src.core.errors import StopRequested
from src.core.provenance import code_digest
from src.core.training_config import TrainingConfig
from src.evaluation.metrics import report
from src.search.plan import StudyPlan
from src.search.storage import StorageError
from src.search.study import RunningTrial, Study, join_study
from src.training.adapter import Adapter
from src.training.callbacks import noop
from src.training.failures import Failure, failure_of, release_memory
from src.training.lockstep import BatchwiseTraining, in_turn
from src.training.train_and_test import trained_adapter
from src.training.trainer import TrainingContext, TrainingResult
from src.training.workspace import Workspace, open_workspace

# Errors of the disk. The next trial would meet the same one, so they end the search.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# A batch may take milliseconds, and looking for a request costs a query.
_LOOK_EVERY_S = 5.0
# The searched settings on which it depends whether two trials read the same features of the same posts in a step.
_SETTINGS_OF_BATCHES = (
    "adapter_positions",
    "prefix_dtype",
    "adapter_layers",
    "adapter_segments",
    "unfreeze",
    "batch_size",
    "gradient_accumulation_steps",
    "sampling",
    "curriculum",
    "curriculum_start",
    "curriculum_until",
    "augment",
    "num_augmented_views",
)


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial. The runner ends the trial in the study, once the adapter is on disk."""

    number: int
    worker: str
    state: Literal["complete", "pruned", "failed"]
    # One value for each objective of the study; empty for a failed trial.
    values: tuple[float, ...] = ()
    failure: Failure | None = None
    # The adapter's files by name.
    adapter: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass
class TrialWorker:
    """Runs trials of one study, with one base in memory."""

    params: Params
    workspace: Workspace
    study: Study
    name: str
    # Is called after every batch, and may raise `StopRequested`.
    check: Callable[[], None] | None = None

    def run(self, count: int) -> Iterator[TrialResult]:
        """Draw trials, train them side by side, and yield the result of each when it ends.

        They share what frozen segments compute in a step while they read the same batches. If the GPU fails, the other
        trials have no results, because they have not failed by themselves.

        Raises:
            StopRequested: `check` raised it; the trials stay RUNNING until `Study.recover`.
            OSError: a disk is full or read-only.
            StorageError: the storage does not answer; the trials stay RUNNING likewise.
        """
        trials = [self._draw() for _ in range(count)]
        if count == 1:
            yield self._run_one(trials[0], self.workspace, noop)
            return
        # Only neighbours share: those with one boundary and one size of batch.
        trials.sort(key=lambda trial: [str(trial.params.get(name)) for name in _SETTINGS_OF_BATCHES])
        device = self.workspace.model.device
        copies = self.workspace.sharing_weights(count)
        runs = (partial(self._run_one, trial, copy) for trial, copy in zip(trials, copies, strict=True))
        with closing(in_turn([BatchwiseTraining(run, device) for run in runs])) as results:
            for result in results:
                yield result
                if result.failure and result.failure.fatal:
                    return

    def _draw(self) -> RunningTrial:
        trial = self.study.ask(self.name)
        trial.set_attr("process", f"{socket.gethostname()}:{os.getpid()}")
        trial.set_attr("code", code_digest(self.workspace.model.spec.name))
        return trial

    def _run_one(self, trial: RunningTrial, workspace: Workspace, end_batch: Callable[[], None]) -> TrialResult:
        try:
            settings = self.params.training_config(workspace.model.spec.name, **trial.params)
            return self._train(trial, workspace, settings, end_batch)
        except (StopRequested, StorageError):
            raise
        except _TrialStopped:
            return TrialResult(trial.number, self.name, "pruned")
        except Exception as error:  # one trial's error must not end the others
            if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
                raise
            failure = failure_of(error)
        if not failure.fatal:  # on a lost GPU every call fails, also that which frees its memory
            # Outside of the except block the error is gone, and with it the tensors that its frames held.
            release_memory()
        trial.set_failure(failure.cause, failure.reason, unfit=failure.unfit)
        return TrialResult(trial.number, self.name, "failed", failure=failure)

    def _train(
        self, trial: RunningTrial, workspace: Workspace, settings: TrainingConfig, end_batch: Callable[[], None] = noop
    ) -> TrialResult:
        callback = _TrialCallback(trial, settings.epochs, self.check, end_batch)
        context = TrainingContext(self.params.seed, callback)
        # Encoding posts takes long too. It ends no step: another trial would wait for the lock of the same features.
        with trained_adapter(workspace, settings, context, lambda _: callback.look()) as (adapter, result):
            outcome = _outcome(adapter, result)
            trial.set_outcome(outcome)
            files = _files(adapter)
        by_objective = {"macro_f1": outcome["scores"]["macro_f1"], "parameters": float(outcome["parameters"])}
        values = tuple(by_objective[objective] for objective in self.study.plan.objectives)
        # The pruner also judges the epoch in which patience ends a training, which is complete then.
        is_cut = callback.pruned and not result.is_over(settings)
        return TrialResult(trial.number, self.name, "pruned" if is_cut else "complete", values, adapter=files)


def open_worker(name: str, params: Params, model: str, url: str, plan: StudyPlan) -> TrialWorker:
    """Open the base and the study for a worker in a process of its own."""
    return TrialWorker(params, open_workspace(params, model), join_study(url, plan), name)


class _TrialStopped(Exception):
    """A person asked to stop the trial, and it ends within an epoch."""


@dataclass
class _TrialCallback:
    """Reports each epoch to the study. The pruner or a person may end the trial."""

    trial: RunningTrial
    epochs: int
    check: Callable[[], None] | None
    # Is called after each batch, and returns when the next one may begin.
    end_batch: Callable[[], None] = noop
    pruned: bool = False
    _look_at_s: float = 0.0

    def look(self) -> None:
        """Raise an error if the trial must end now."""
        if self.check:
            self.check()
        if time.monotonic() >= self._look_at_s:
            if self.trial.is_stop_requested():
                raise _TrialStopped
            self._look_at_s = time.monotonic() + _LOOK_EVERY_S

    def on_batch(self) -> None:
        self.look()
        self.end_batch()

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        self.pruned = not self.trial.report(epoch, metrics, last=epoch == self.epochs)
        return not self.pruned


def _outcome(adapter: Adapter, result: TrainingResult) -> dict[str, Any]:
    """Return the scores and sizes of the best epoch, as JSON can hold them."""
    return {
        "scores": asdict(result.scores()),
        "report": report(result.predictions),
        "best_epoch": result.best_epoch,
        "modules": adapter.modules(),
        "parameters": sum(weight.numel() for weight in result.state.values()),
    }


def _files(adapter: Adapter) -> dict[str, bytes]:
    with TemporaryDirectory() as name:
        folder = Path(name) / "adapter"
        adapter.save(folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}
