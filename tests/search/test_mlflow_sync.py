"""What MLflow shows of trials, in a real store: drawn once, drawn again, half drawn, and while it is away."""

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
from src.search import mlflow_sync as mirror_module
from src.search.adapters import PendingAdapters
from src.search.mlflow_sync import MlflowSync, TrialRunMetadata
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
CAPTION = TrialRunMetadata("clip", {"stage": "trial"}, lambda settings: {**settings, "epochs": 2}, [POSTS])


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
def shelf(tmp_path: Path) -> PendingAdapters:
    return PendingAdapters(tmp_path / "trials")


@pytest.fixture
def mirror(tracker: Tracker, parent: Run, shelf: PendingAdapters) -> MlflowSync:
    return MlflowSync(tracker, parent, CAPTION, shelf)


@pytest.fixture
def look(client: MlflowClient, tracker: Tracker, parent: Run) -> Callable[[], dict[int, Logged]]:
    """The trials' runs by number; each trial has one."""

    return partial(look_below, client, tracker, parent)


def look_below(client: MlflowClient, tracker: Tracker, parent: Run) -> dict[int, Logged]:
    children = tracker.children(parent.id)
    runs = {int(child.tags["trial"]): client.get_run(child.id) for child in children}
    assert len(runs) == len(children)
    return runs


def points(client: MlflowClient, run: Logged) -> dict[str, list[tuple[int, int, float]]]:
    """All values of each metric, with step and time."""
    return {
        name: [(each.step, each.timestamp, each.value) for each in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


def artifacts(run: Logged) -> set[str]:
    root = Path(run.info.artifact_uri)
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


Look = Callable[[], dict[int, Logged]]


def test_a_trial_that_runs_is_shown_as_far_as_it_is(mirror: MlflowSync, look: Look, client: MlflowClient) -> None:
    mirror.show(RUNNING)
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
def test_a_trial_that_has_ended_says_how(
    trial: TrialRecord, status: str, tags: Mapping[str, str], mirror: MlflowSync, look: Look
) -> None:
    for moment in (replace(RUNNING, number=trial.number), trial):
        mirror.show(moment)
    (run,) = look().values()
    assert (run.info.status, run.info.start_time, run.info.end_time) == (status, 1_000, 4_000)
    ours = ("state", "reason", "cause", "retry_of")
    assert {name: text for name, text in run.data.tags.items() if name in ours} == tags
    assert mirror.has(trial)
    assert mirror.run_id(trial.number) == run.info.run_id


def test_a_complete_trial_has_its_scores_pictures_and_adapter(
    mirror: MlflowSync, look: Look, client: MlflowClient
) -> None:
    mirror.shelf.put(3, ADAPTER)
    mirror.show(COMPLETE)
    (run,) = look().values()
    found = points(client, run)
    assert found["val_macro_f1"] == [(1, 2_000, 0.3), (2, 3_000, 0.5)]
    assert found["best_val_macro_f1"] == [(0, 4_000, 0.5)]
    assert found["best_epoch"] == [(0, 4_000, 2)]
    assert found["parameters"] == [(0, 4_000, 1234)]
    assert {"best_val_accuracy", "best_val_f1_neutral"} <= found.keys()
    drawn = artifacts(run)
    assert {f"adapter/{name}" for name in ADAPTER} <= drawn
    assert {"learning_curves.png", "confusion_matrix.png", "classification_report.txt"} <= drawn
    root = Path(run.info.artifact_uri)
    assert json.loads((root / "adapted_modules.json").read_text()) == OUTCOME["modules"]
    assert (root / "adapter" / "head.safetensors").read_bytes() == ADAPTER["head.safetensors"]


def test_a_trial_that_has_not_all_its_settings_yet_is_not_shown(mirror: MlflowSync, look: Look) -> None:
    mirror.show(replace(RUNNING, state="waiting", history=(), attrs={}))
    mirror.show(replace(RUNNING, params={"rank": 8}, history=(), attrs={}))
    assert look() == {}
    mirror.show(COMPLETE)
    assert look()[3].data.params["lr"] == "0.0003"


def test_what_a_trial_says_of_itself_late_is_shown_as_well(mirror: MlflowSync, look: Look) -> None:
    mirror.show(replace(RUNNING, attrs={"worker": "worker-1"}))
    mirror.show(COMPLETE)
    assert look()[3].data.tags["process"] == "here:17"


def test_drawing_again_changes_nothing(
    mirror: MlflowSync, tracker: Tracker, parent: Run, look: Look, client: MlflowClient
) -> None:
    trials = [RUNNING, replace(COMPLETE, number=5), replace(PRUNED, number=6)]

    def drawn() -> list[Any]:
        return [(n, run.to_dictionary(), points(client, run), artifacts(run)) for n, run in look().items()]

    mirror.shelf.put(5, ADAPTER)
    for trial in trials:
        mirror.show(trial)
    before = drawn()
    for again in (mirror, MlflowSync(tracker, parent, CAPTION, mirror.shelf)):
        for trial in trials:
            again.show(trial)
        again.flush()
    assert drawn() == before


class Line:
    """The line to MLflow, which is cut after so many calls: of the last one, the answer is lost."""

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
        found = act(*args, **kwargs)
        if self.calls <= 0:
            raise self.error
        return found


@pytest.fixture
def line(client: MlflowClient, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Line:
    """That of `tracker`, which is tried again at once after a cut; pictures, the slow part, are blank."""
    found = Line(client)
    for picture in ("learning_curves", "confusion_matrix"):
        monkeypatch.setattr(plot_evaluation, picture, lambda *_: b"picture")
    monkeypatch.setattr(tracker, "_client", found)
    monkeypatch.setattr(mirror_module, "_TRY_AGAIN_S", 0)
    return found


@pytest.mark.parametrize("dies", [True, False], ids=["a killed process", "a server that goes away"])
def test_what_was_cut_short_anywhere_is_made_whole_and_not_doubled(
    dies: bool, line: Line, tracker: Tracker, shelf: PendingAdapters, client: MlflowClient
) -> None:
    for calls in count(1):
        with tracker.run("study") as parent:
            shelf.put(3, ADAPTER)
            mirror = MlflowSync(tracker, parent, CAPTION, shelf)
            line.cut_after(calls, KeyboardInterrupt() if dies else MlflowException("no answer"))
            with suppress(KeyboardInterrupt):
                mirror.show(COMPLETE)
                mirror.show(COMPLETE)
            was_cut = line.calls <= 0
            line.mend()
            if not was_cut:
                break
            assert shelf.find(3)
            again = MlflowSync(tracker, parent, CAPTION, shelf) if dies else mirror
            again.show(COMPLETE)
            assert not again.unreachable
            whole(look_below(client, tracker, parent), client)
            assert not list(shelf.folder.iterdir())
    assert calls > 12


def whole(runs: dict[int, Logged], client: MlflowClient) -> None:
    """The complete trial, and nothing else, is there with all it has."""
    (run,) = runs.values()
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", 1_000, 4_000)
    assert (run.data.params, run.data.tags["state"]) == ({"rank": "8", "lr": "0.0003"}, "complete")
    assert [each.dataset.name for each in run.inputs.dataset_inputs] == ["posts"]
    found = points(client, run)
    assert found["val_macro_f1"] == [(1, 2_000, 0.3), (2, 3_000, 0.5)]
    assert found["best_val_macro_f1"] == [(0, 4_000, 0.5)]
    assert {*(f"adapter/{name}" for name in ADAPTER), "settings.json", "adapted_modules.json"} <= artifacts(run)


@pytest.mark.parametrize("ended", [True, False])
def test_of_two_runs_that_a_lost_answer_has_made_one_stays(
    ended: bool, line: Line, mirror: MlflowSync, tracker: Tracker, parent: Run, look: Look
) -> None:
    line.asks_again = True
    mirror.show(RUNNING)
    line.asks_again = False
    if ended:
        mirror.show(COMPLETE)
    assert len(tracker.children(parent.id)) == 2
    mirror.flush()
    (run,) = look().values()
    assert run.data.params["rank"] == "8"
    assert mirror.run_id(3) == run.info.run_id
    mirror.show(COMPLETE)
    assert look()[3].info.status == "FINISHED"


def test_a_new_process_finds_the_whole_one_of_two_runs(
    line: Line, mirror: MlflowSync, tracker: Tracker, parent: Run, look: Look
) -> None:
    for trial in (COMPLETE, replace(COMPLETE, number=4), replace(COMPLETE, number=5)):
        line.asks_again = True
        mirror.show(replace(RUNNING, number=trial.number))
        line.asks_again = False
        mirror.show(trial)
    again = MlflowSync(tracker, parent, CAPTION, mirror.shelf)
    assert all(again.has(replace(COMPLETE, number=number)) for number in (3, 4, 5))
    assert {run.info.status for run in look().values()} == {"FINISHED"}


def test_mlflow_that_goes_away_is_said_once_and_gets_all_when_it_is_back(
    line: Line, mirror: MlflowSync, look: Look, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [replace(COMPLETE, number=number) for number in range(8)]
    mirror.show(trials[0])
    line.calls = 0
    for trial in trials[1:5]:
        mirror.show(replace(trial, state="running", ended_ms=None, outcome={}))
        mirror.show(trial)
    mirror.flush()
    assert mirror.unreachable
    with pytest.raises(UserError, match="4 trials are missing in MLflow, which does not take them now"):
        mirror.require_all()
    assert [mirror.has(trial) for trial in trials[:2]] == [True, False]
    assert mirror.run_id(1) == ""
    line.mend()
    for trial in trials[5:]:
        mirror.show(trial)
    mirror.require_all()
    assert {number: run.info.status for number, run in look().items()} == dict.fromkeys(range(8), "FINISHED")
    gone, back = capsys.readouterr().err.splitlines()
    assert gone.startswith("warning: the MLflow store ")
    assert gone.endswith("MlflowException: no answer; the search goes on, and what is missing there is logged later")
    assert back == "warning: MLflow answers again: what was missing there has been logged"


def test_mlflow_that_went_away_is_left_alone_for_a_while(
    line: Line, mirror: MlflowSync, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "_TRY_AGAIN_S", 3600)
    line.calls = 0
    mirror.show(COMPLETE)
    line.calls = 1000
    mirror.show(replace(COMPLETE, number=4))
    assert line.calls == 1000
    mirror.flush()
    mirror.require_all()


def test_a_trial_that_mlflow_does_not_take_is_in_nobodys_way(line: Line, mirror: MlflowSync, look: Look) -> None:
    mirror.show(replace(COMPLETE, number=0, params={"no//name": 8}))
    for number in range(1, 6):
        mirror.show(replace(COMPLETE, number=number))
    mirror.flush()
    assert [number for number, run in sorted(look().items()) if run.info.status == "FINISHED"] == [1, 2, 3, 4, 5]
    with pytest.raises(UserError, match="1 trials are missing"):
        mirror.require_all()


def test_a_run_that_somebody_deletes_while_its_trial_runs_is_made_anew(
    line: Line, mirror: MlflowSync, look: Look, client: MlflowClient
) -> None:
    mirror.show(RUNNING)
    client.delete_run(mirror.run_id(3))
    for _ in range(2):
        mirror.show(COMPLETE)
    (run,) = look().values()
    assert run.info.status == "FINISHED"
    assert run.data.params["rank"] == "8"


def test_a_study_is_shown_as_its_storage_has_it(mirror: MlflowSync, look: Look, tmp_path: Path) -> None:
    study = open_study(f"sqlite:///{tmp_path}/studies.db", plan("clip"))

    def show(number: int = 0) -> None:
        for trial in study.trials():
            mirror.show(trial)

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


def test_a_shelf_has_the_whole_of_an_adapter_or_nothing(shelf: PendingAdapters) -> None:
    shelf.put(7, {"a.bin": b"first", "b.bin": b"first"})
    shelf.put(7, {"a.bin": b"second"})
    folder = shelf.find(7)
    assert folder is not None
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a.bin": b"second"}
    with pytest.raises(TypeError):
        shelf.put(8, {"a.bin": b"whole", "b.bin": None})  # type: ignore[dict-item]
    assert shelf.find(8) is None
    assert [path.name for path in shelf.folder.iterdir()] == ["7"]
    shelf.remove(7)
    assert shelf.find(7) is None


def test_what_killed_processes_have_left_on_the_shelf_is_put_away(
    mirror: MlflowSync, tracker: Tracker, parent: Run, shelf: PendingAdapters
) -> None:
    mirror.show(COMPLETE)
    for number in (3, 4):  # killed after the trial's run had ended, and after it was shelved
        shelf.put(number, ADAPTER)
    half = shelf.folder / ".5.17"
    half.mkdir()
    (half / ".a.bin.17").write_bytes(b"ha")
    MlflowSync(tracker, parent, CAPTION, shelf)
    assert [path.name for path in shelf.folder.iterdir()] == ["4"]
