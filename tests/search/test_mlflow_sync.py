"""MLflow's runs of trials in a real store: written once, again, in part, and while MLflow is away."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as Logged
from mlflow.exceptions import MlflowException

from src.core.errors import UserError
from src.reporting import plot_evaluation
from src.search import mlflow_sync as sync_module
from src.search.adapters import PendingAdapters
from src.search.mlflow_sync import MlflowSync, TrialRunMetadata
from src.search.steering import StudyRequest
from src.search.study import open_study
from src.search.trial import TrialRecord
from src.tracking.client import Dataset, Run, Tracker
from src.tracking.store import open_store
from tests.search.light import ADAPTER, OUTCOME, LightWorker, plan

SETTINGS = {"rank": 8, "lr": 3e-4}
RUNNING = TrialRecord(
    number=3,
    state="running",
    params=dict(SETTINGS),
    value=None,
    history=({"epoch": 1, "val_macro_f1": 0.3, "val_loss": 1.5, "at_ms": 2_000},),
    began_ms=1_000,
    ended_ms=None,
    reason="",
    cause="",
    outcome={},
    attrs={"worker": "worker-1", "process": "here:17"},
)
SECOND = {"epoch": 2, "val_macro_f1": 0.5, "val_loss": 0.5, "at_ms": 3_000}
COMPLETE = replace(
    RUNNING, state="complete", value=0.5, history=(*RUNNING.history, SECOND), ended_ms=4_000, outcome=OUTCOME
)
PRUNED = replace(RUNNING, state="pruned", value=0.3, ended_ms=4_000, reason="others were better at epoch 1")
FAILED = replace(RUNNING, state="failed", ended_ms=4_000, reason="out of memory: 8 GiB", cause="out of memory")
INTERRUPTED = replace(RUNNING, state="failed", ended_ms=4_000, reason="interrupted", cause="interrupted")
RETRY = replace(COMPLETE, number=4, attrs={**RUNNING.attrs, "retry_of": 3})
POSTS = Dataset("posts", "0a1b", "data", "training", {"train": 72})
METADATA = TrialRunMetadata("clip", {"stage": "trial"}, {"rank": 1, "epochs": 2}, [POSTS])


@pytest.fixture(scope="module")
def client(store: Path) -> MlflowClient:
    return open_store()


@pytest.fixture(scope="module")
def tracker(store: Path) -> Tracker:
    return Tracker("mirrored")


@pytest.fixture
def parent(tracker: Tracker) -> Iterator[Run]:
    with tracker.run("study") as run:
        yield run


@pytest.fixture
def pending_adapters(tmp_path: Path) -> PendingAdapters:
    return PendingAdapters(tmp_path / "trials")


@pytest.fixture
def sync(tracker: Tracker, parent: Run, pending_adapters: PendingAdapters) -> MlflowSync:
    return MlflowSync(tracker, parent, METADATA, pending_adapters)


@pytest.fixture
def look(client: MlflowClient, tracker: Tracker, parent: Run) -> Callable[[], dict[int, Logged]]:
    """Return a function that returns the trials' runs by number. Each trial must have one run."""

    return partial(look_below, client, tracker, parent)


def look_below(client: MlflowClient, tracker: Tracker, parent: Run) -> dict[int, Logged]:
    children = tracker.children(parent.id)
    runs = {int(child.tags["trial"]): client.get_run(child.id) for child in children}
    assert len(runs) == len(children)
    return runs


def points(client: MlflowClient, run: Logged) -> dict[str, list[tuple[int, int, float]]]:
    """Return all values of each metric, with step and time."""
    return {
        name: [(point.step, point.timestamp, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


def artifacts(run: Logged) -> set[str]:
    root = Path(run.info.artifact_uri)
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


Look = Callable[[], dict[int, Logged]]


def test_requests_are_tags(sync: MlflowSync, look: Look, client: MlflowClient, parent: Run) -> None:
    asked = [StudyRequest(f"request:{number}", "--more", "noon", number) for number in (1, 2)]
    sync.show_requests(asked[:1])
    sync.show_requests(asked)
    sync.show(replace(COMPLETE, attrs={**COMPLETE.attrs, "request": "--try at noon"}))
    tags = client.get_run(parent.id).data.tags
    assert [tags["request_1"], tags["request_2"]] == ["--more 1 at noon", "--more 2 at noon"]
    (run,) = look().values()
    assert run.data.tags["request"] == "--try at noon"


def test_running_trial_is_logged(sync: MlflowSync, look: Look, client: MlflowClient) -> None:
    sync.show(RUNNING)
    (run,) = look().values()
    assert (run.info.run_name, run.info.status, run.info.start_time) == ("trial 3", "RUNNING", 1_000)
    assert run.data.params == {"rank": "8", "lr": "0.0003"}
    assert json.loads((Path(run.info.artifact_uri) / "settings.json").read_text()) == {**SETTINGS, "epochs": 2}
    assert {"stage", "trial", "worker", "process"} <= run.data.tags.keys()
    assert "state" not in run.data.tags
    assert points(client, run) == {"val_macro_f1": [(1, 2_000, 0.3)], "val_loss": [(1, 2_000, 1.5)]}


@pytest.mark.parametrize(
    ("trial", "status", "tags"),
    [
        (COMPLETE, "FINISHED", {"state": "complete"}),
        (PRUNED, "KILLED", {"state": "pruned", "reason": "others were better at epoch 1"}),
        (FAILED, "FAILED", {"state": "failed", "reason": "out of memory: 8 GiB", "cause": "out of memory"}),
        (INTERRUPTED, "FAILED", {"state": "interrupted", "reason": "interrupted", "cause": "interrupted"}),
        (RETRY, "FINISHED", {"state": "complete", "retry_of": "3"}),
    ],
    ids=lambda value: value.state if isinstance(value, TrialRecord) else None,
)
def test_ended_trial_has_state_tags(
    trial: TrialRecord, status: str, tags: Mapping[str, str], sync: MlflowSync, look: Look
) -> None:
    for moment in (replace(RUNNING, number=trial.number), trial):
        sync.show(moment)
    (run,) = look().values()
    assert (run.info.status, run.info.start_time, run.info.end_time) == (status, 1_000, 4_000)
    ours = ("state", "reason", "cause", "retry_of")
    assert {name: text for name, text in run.data.tags.items() if name in ours} == tags
    assert sync.has(trial)
    assert sync.run_id(trial.number) == run.info.run_id


def test_complete_trial_has_all_artifacts(sync: MlflowSync, look: Look, client: MlflowClient) -> None:
    sync.pending_adapters.put(3, ADAPTER)
    sync.show(COMPLETE)
    (run,) = look().values()
    metrics = points(client, run)
    assert metrics["val_macro_f1"] == [(1, 2_000, 0.3), (2, 3_000, 0.5)]
    assert metrics["best_val_macro_f1"] == [(0, 4_000, 0.5)]
    assert metrics["best_epoch"] == [(0, 4_000, 2)]
    assert metrics["parameters"] == [(0, 4_000, 1234)]
    assert {"best_val_accuracy", "best_val_f1_neutral"} <= metrics.keys()
    logged = artifacts(run)
    assert {f"adapter/{name}" for name in ADAPTER} <= logged
    assert {"learning_curves.png", "confusion_matrix.png", "classification_report.txt"} <= logged
    root = Path(run.info.artifact_uri)
    assert json.loads((root / "adapted_modules.json").read_text()) == OUTCOME["modules"]
    assert (root / "adapter" / "head.safetensors").read_bytes() == ADAPTER["head.safetensors"]


def test_undrawn_trial_is_not_logged(sync: MlflowSync, look: Look) -> None:
    sync.show(replace(RUNNING, state="waiting", history=(), attrs={}))
    sync.show(replace(RUNNING, params={"rank": 8}, history=(), attrs={}))
    assert look() == {}
    sync.show(COMPLETE)
    assert look()[3].data.params["lr"] == "0.0003"


def test_late_attributes_become_tags(sync: MlflowSync, look: Look) -> None:
    sync.show(replace(RUNNING, attrs={"worker": "worker-1"}))
    sync.show(COMPLETE)
    assert look()[3].data.tags["process"] == "here:17"


def test_syncing_again_changes_nothing(
    sync: MlflowSync, tracker: Tracker, parent: Run, look: Look, client: MlflowClient
) -> None:
    trials = [RUNNING, replace(COMPLETE, number=5), replace(PRUNED, number=6)]

    def drawn() -> list[Any]:
        return [(n, run.to_dictionary(), points(client, run), artifacts(run)) for n, run in look().items()]

    sync.pending_adapters.put(5, ADAPTER)
    for trial in trials:
        sync.show(trial)
    before = drawn()
    for again in (sync, MlflowSync(tracker, parent, METADATA, sync.pending_adapters)):
        for trial in trials:
            again.show(trial)
        again.flush()
    assert drawn() == before


class Line:
    """The line to MLflow. It is cut after so many calls, and the answer of the last one is lost."""

    def __init__(self, client: MlflowClient) -> None:
        self.calls = math.inf
        self.error: BaseException = MlflowException("no answer")
        self.asks_again = False
        self._client = client

    def cut_after(self, calls: int, error: BaseException) -> None:
        self.calls, self.error = calls, error

    def mend(self) -> None:
        self.calls = math.inf

    def __getattr__(self, name: str) -> Any:
        return partial(self._call, getattr(self._client, name))

    def _call(self, act: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.calls <= 0:
            raise self.error
        self.calls -= 1
        if self.asks_again:
            act(*args, **kwargs)
        answer = act(*args, **kwargs)
        if self.calls <= 0:
            raise self.error
        return answer


@pytest.fixture
def line(client: MlflowClient, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Line:
    """Put a `Line` into `tracker`, retry at once after a cut, and leave plots blank, which are slow."""
    line = Line(client)
    for picture in ("learning_curves", "confusion_matrix"):
        monkeypatch.setattr(plot_evaluation, picture, lambda *_: b"picture")
    monkeypatch.setattr(tracker, "_client", line)
    monkeypatch.setattr(sync_module, "_RETRY_AFTER_S", 0)
    return line


@pytest.mark.parametrize("dies", [True, False], ids=["a killed process", "a server that goes away"])
def test_interrupted_sync_is_completed(
    dies: bool, line: Line, tracker: Tracker, pending_adapters: PendingAdapters, client: MlflowClient
) -> None:
    for calls in count(1):
        with tracker.run("study") as parent:
            pending_adapters.put(3, ADAPTER)
            sync = MlflowSync(tracker, parent, METADATA, pending_adapters)
            line.cut_after(calls, KeyboardInterrupt() if dies else MlflowException("no answer"))
            with suppress(KeyboardInterrupt):
                sync.show(COMPLETE)
                sync.show(COMPLETE)
            was_cut = line.calls <= 0
            line.mend()
            if not was_cut:
                break
            assert pending_adapters.find(3)
            again = MlflowSync(tracker, parent, METADATA, pending_adapters) if dies else sync
            again.show(COMPLETE)
            assert not again.unreachable
            whole(look_below(client, tracker, parent), client)
            assert not list(pending_adapters.folder.iterdir())
    assert calls > 12


def whole(runs: dict[int, Logged], client: MlflowClient) -> None:
    """Check that the complete trial has one run with everything."""
    (run,) = runs.values()
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", 1_000, 4_000)
    assert (run.data.params, run.data.tags["state"]) == ({"rank": "8", "lr": "0.0003"}, "complete")
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["posts"]
    metrics = points(client, run)
    assert metrics["val_macro_f1"] == [(1, 2_000, 0.3), (2, 3_000, 0.5)]
    assert metrics["best_val_macro_f1"] == [(0, 4_000, 0.5)]
    assert {*(f"adapter/{name}" for name in ADAPTER), "settings.json", "adapted_modules.json"} <= artifacts(run)


def test_abandoned_run_is_completed(
    sync: MlflowSync, client: MlflowClient, tracker: Tracker, parent: Run, pending_adapters: PendingAdapters
) -> None:
    sync.show(RUNNING)
    tracker.close_abandoned(parent.id)
    pending_adapters.put(3, ADAPTER)
    MlflowSync(tracker, parent, METADATA, pending_adapters).show(COMPLETE)
    whole(look_below(client, tracker, parent), client)


@pytest.mark.parametrize("ended", [True, False])
def test_duplicate_run_is_removed(
    ended: bool, line: Line, sync: MlflowSync, tracker: Tracker, parent: Run, look: Look
) -> None:
    line.asks_again = True
    sync.show(RUNNING)
    line.asks_again = False
    if ended:
        sync.show(COMPLETE)
    assert len(tracker.children(parent.id)) == 2
    sync.flush()
    (run,) = look().values()
    assert run.data.params["rank"] == "8"
    assert sync.run_id(3) == run.info.run_id
    sync.show(COMPLETE)
    assert look()[3].info.status == "FINISHED"


def test_complete_duplicate_is_kept(line: Line, sync: MlflowSync, tracker: Tracker, parent: Run, look: Look) -> None:
    for trial in (COMPLETE, replace(COMPLETE, number=4), replace(COMPLETE, number=5)):
        line.asks_again = True
        sync.show(replace(RUNNING, number=trial.number))
        line.asks_again = False
        sync.show(trial)
    again = MlflowSync(tracker, parent, METADATA, sync.pending_adapters)
    assert all(again.has(replace(COMPLETE, number=number)) for number in (3, 4, 5))
    assert {run.info.status for run in look().values()} == {"FINISHED"}


def test_outage_is_warned_once(line: Line, sync: MlflowSync, look: Look, capsys: pytest.CaptureFixture[str]) -> None:
    trials = [replace(COMPLETE, number=number) for number in range(8)]
    sync.show(trials[0])
    line.calls = 0
    for trial in trials[1:5]:
        sync.show(replace(trial, state="running", ended_ms=None, outcome={}))
        sync.show(trial)
    sync.flush()
    assert sync.unreachable
    with pytest.raises(UserError, match="4 trials are missing"):
        sync.require_all()
    assert [sync.has(trial) for trial in trials[:2]] == [True, False]
    assert sync.run_id(1) == ""
    line.mend()
    for trial in trials[5:]:
        sync.show(trial)
    sync.require_all()
    assert {number: run.info.status for number, run in look().items()} == dict.fromkeys(range(8), "FINISHED")
    gone, back = capsys.readouterr().err.splitlines()
    assert gone.startswith("warning: the MLflow store ")
    assert "no answer; the search goes on" in gone
    assert back.startswith("warning: MLflow answers again")


def test_unreachable_mlflow_is_left_alone(line: Line, sync: MlflowSync, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_module, "_RETRY_AFTER_S", 3600)
    line.calls = 0
    sync.show(COMPLETE)
    line.calls = 1000
    sync.show(replace(COMPLETE, number=4))
    assert line.calls == 1000
    sync.flush()
    sync.require_all()


def test_refused_trial_blocks_no_other(line: Line, sync: MlflowSync, look: Look) -> None:
    sync.show(replace(COMPLETE, number=0, params={"no//name": 8}))
    for number in range(1, 6):
        sync.show(replace(COMPLETE, number=number))
    sync.flush()
    assert [number for number, run in sorted(look().items()) if run.info.status == "FINISHED"] == [1, 2, 3, 4, 5]
    with pytest.raises(UserError, match="1 trials are missing"):
        sync.require_all()


def test_deleted_run_is_created_again(line: Line, sync: MlflowSync, look: Look, client: MlflowClient) -> None:
    sync.show(RUNNING)
    client.delete_run(sync.run_id(3))
    for _ in range(2):
        sync.show(COMPLETE)
    (run,) = look().values()
    assert run.info.status == "FINISHED"
    assert run.data.params["rank"] == "8"


def test_sync_mirrors_whole_study(sync: MlflowSync, look: Look, tmp_path: Path) -> None:
    study = open_study(f"sqlite:///{tmp_path}/studies.db", plan("clip"))

    def show(number: int = 0) -> None:
        for trial in study.trials():
            sync.show(trial)

    worker = LightWorker(study, epoch_s=0, during=show)
    for act in (study.tell, study.tell, study.prune, study.fail):
        done = worker.run_one()
        act(done.number, *([0.5] if act == study.tell else []))
    study.ask("lost")
    study.recover()
    show()
    show()
    runs, trials = look(), study.trials()
    states = ["complete", "complete", "pruned", "failed", "interrupted"]
    assert [runs[number].data.tags["state"] for number in range(5)] == states
    assert sorted(runs) == [0, 1, 2, 3, 4]
    assert trials[5].state == "waiting"
    for number, run in runs.items():
        assert (run.info.start_time, run.info.end_time) == (trials[number].began_ms, trials[number].ended_ms)
        assert {name: run.data.params[name] for name in ("rank", "lr")} == {
            name: str(value) for name, value in trials[number].params.items()
        }


def test_pending_adapter_is_complete_or_absent(pending_adapters: PendingAdapters) -> None:
    pending_adapters.put(7, {"a.bin": b"first", "b.bin": b"first"})
    pending_adapters.put(7, {"a.bin": b"second"})
    folder = pending_adapters.find(7)
    assert folder is not None
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a.bin": b"second"}
    with pytest.raises(TypeError):
        pending_adapters.put(8, {"a.bin": b"whole", "b.bin": None})  # type: ignore[dict-item]
    assert pending_adapters.find(8) is None
    assert [path.name for path in pending_adapters.folder.iterdir()] == ["7"]
    pending_adapters.remove(7)
    assert pending_adapters.find(7) is None


def test_leftovers_of_kills_are_removed(
    sync: MlflowSync, tracker: Tracker, parent: Run, pending_adapters: PendingAdapters
) -> None:
    sync.show(COMPLETE)
    for number in (3, 4):  # killed after the trial's run had ended, and after it was shelved
        pending_adapters.put(number, ADAPTER)
    half = pending_adapters.folder / ".5.17"
    half.mkdir()
    (half / ".a.bin.17").write_bytes(b"ha")
    MlflowSync(tracker, parent, METADATA, pending_adapters)
    assert [path.name for path in pending_adapters.folder.iterdir()] == ["4"]
