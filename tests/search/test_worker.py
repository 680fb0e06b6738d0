"""Trials of one worker on a real small model, and their failures."""

import errno
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from src.core.config import load_params
from src.core.errors import StopRequested, UserError
from src.core.labels import TONE_LABELS
from src.search import worker as worker_module
from src.search.plan import plan_of
from src.search.storage import StorageError
from src.search.study import RunningTrial, Study, open_study
from src.search.trial import TrialRecord
from src.search.worker import TrialResult, TrialWorker
from src.training import train_and_test
from src.training.failures import failure_of
from src.training.trainer import TrainingResult
from src.training.workspace import Workspace, checkpoint_of, facts_of, open_workspace

URL = "sqlite:///outputs/studies.db"


@pytest.fixture
def worker(repository: Path) -> TrialWorker:
    torch.set_num_threads(1)
    params = load_params()
    study = open_study(URL, plan_of(params, "clip", facts_of("clip", checkpoint_of(params, "clip"), TONE_LABELS)))
    return TrialWorker(params, open_workspace(params, "clip"), study, "w1")


def run_one(worker: TrialWorker) -> TrialResult:
    (result,) = worker.run(1)
    return result


def last(study: Study) -> TrialRecord:
    return [trial for trial in study.trials() if trial.state != "waiting"][-1]


def broken(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Replace training by `act`."""

    def fit(*args: Any) -> None:
        act()

    monkeypatch.setattr(train_and_test, "fit", fit)


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def ask_for_a_petabyte() -> None:
    torch.empty(2**50)


def test_trial_records_all_facts(worker: TrialWorker) -> None:
    result = run_one(worker)
    record = last(worker.study)
    assert (result.number, result.worker, result.state) == (0, "w1", "complete")
    assert result.values == (record.outcome["scores"]["macro_f1"],)
    assert record.state == "running"  # the runner ends it
    assert [row["epoch"] for row in record.history] == [1, 2]
    assert {"train_loss", "val_loss", "val_macro_f1", "val_accuracy", "at_ms"} <= record.history[0].keys()
    assert {"scores", "report", "best_epoch", "modules", "parameters"} == record.outcome.keys()
    assert record.outcome["parameters"] > 1000
    assert {"adapter_model.safetensors", "head.safetensors", "settings.json"} <= result.adapter.keys()
    assert {"worker", "process", "code"} <= record.attrs.keys()


@pytest.mark.parametrize(
    ("act", "cause", "reason"),
    [
        (ask_for_a_petabyte, "out of memory", "out of memory: [enforce fail"),
        (raising(KeyError("x")), "KeyError: 'x'", "KeyError: 'x'"),
    ],
    ids=["memory", "defect"],
)
def test_failure_ends_one_trial(
    worker: TrialWorker, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None], cause: str, reason: str
) -> None:
    before = digest(worker.workspace)
    broken(monkeypatch, act)
    result = run_one(worker)
    assert result.failure is not None and (result.state, result.failure.cause) == ("failed", cause)
    worker.study.fail(result.number)
    record = last(worker.study)
    assert (record.state, record.cause) == ("failed", cause)
    assert record.reason.startswith(reason)
    assert digest(worker.workspace) == before
    monkeypatch.undo()
    assert run_one(worker).state == "complete"


def test_lost_gpu_is_told_although_its_memory_is_lost(worker: TrialWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = torch.AcceleratorError("CUDA error: unspecified launch failure", 719)
    broken(monkeypatch, raising(lost))
    # On such a GPU the release of memory fails too.
    monkeypatch.setattr("src.search.worker.release_memory", raising(lost))
    failure = run_one(worker).failure
    assert failure is not None and failure.fatal


def digest(workspace: Workspace) -> float:
    return sum(float(weight.double().abs().sum()) for weight in workspace.model.backbone.parameters())


def test_diverged_settings_are_unfit(worker: TrialWorker) -> None:
    trial = worker.study.ask()
    settings = worker.params.training_config("clip", **{**trial.params, "lr": 1e36})
    with pytest.raises(UserError) as raised:
        worker._train(trial, worker.workspace, settings)
    failure = failure_of(raised.value)
    assert (failure.cause, failure.unfit) == ("the loss is no number", True)


def test_failed_trial_releases_memory(worker: TrialWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[Any] = []

    def act() -> None:
        held = torch.zeros(1000)
        alive.append(weakref.ref(held))
        raise MemoryError

    broken(monkeypatch, act)
    run_one(worker)
    assert alive[0]() is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_full_disk_ends_the_search(worker: TrialWorker, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    broken(monkeypatch, raising(OSError(number, "no room")))
    with pytest.raises(OSError, match="no room"):
        run_one(worker)
    assert last(worker.study).state == "running"


def test_storage_that_is_away_ends_the_search(worker: TrialWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, raising(StorageError("the storage does not answer")))
    with pytest.raises(StorageError):
        run_one(worker)
    assert last(worker.study).state == "running"
    (interrupted,) = worker.study.recover()
    monkeypatch.undo()
    assert run_one(worker).state == "complete"
    assert last(worker.study).params == interrupted.params


def test_patience_at_a_pruned_epoch_completes(worker: TrialWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunningTrial, "report", lambda *args, **options: False)
    monkeypatch.setattr(TrainingResult, "is_over", lambda self, settings: True)
    assert run_one(worker).state == "complete"
    monkeypatch.setattr(TrainingResult, "is_over", lambda self, settings: False)
    assert run_one(worker).state == "pruned"


def test_worker_stops_within_a_step(worker: TrialWorker) -> None:
    steps: list[int] = []

    def check() -> None:
        steps.append(1)
        if len(steps) == 5:
            raise StopRequested

    worker.check = check
    with pytest.raises(StopRequested):
        run_one(worker)
    assert len(steps) == 5
    assert last(worker.study).state == "running"
    assert worker.workspace.model.readout is None


def test_stop_request_ends_trial_within_epoch(worker: TrialWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_LOOK_EVERY_S", 0)
    steps: list[int] = []

    def check() -> None:
        steps.append(1)
        if len(steps) == 3:
            worker.study.request_stop(0, "--stop-trial")

    worker.check = check
    result = run_one(worker)
    assert (result.state, result.failure, len(steps)) == ("pruned", None, 3)
    worker.study.prune(result.number)
    assert (last(worker.study).state, last(worker.study).epochs) == ("pruned", 0)
    assert worker.workspace.model.readout is None
    assert run_one(worker).state == "complete"


def test_two_objectives_keep_their_order(repository: Path) -> None:
    params = load_params()
    params = replace(params, tune=replace(params.tune, objectives=("macro_f1", "parameters")))
    study = open_study(URL, plan_of(params, "clip", facts_of("clip", checkpoint_of(params, "clip"), TONE_LABELS)))
    worker = TrialWorker(params, open_workspace(params, "clip"), study, "w1")
    for _ in range(2):
        result = run_one(worker)
        study.tell(result.number, *result.values)
    recorded = [(record.value, record.outcome["parameters"]) for record in study.finished()]
    assert [tuple(trial.values) for trial in study.raw.get_trials()] == recorded
    assert len(study.raw.best_trials) >= 1
