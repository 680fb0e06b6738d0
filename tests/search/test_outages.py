"""Servers that go away in the middle of a search: that of the study's storage, and MLflow's."""

import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from src.core.config import load_params
from src.core.signals import StopSignal
from src.search import mlflow_sync as mirror_module
from src.search.adapters import PendingAdapters
from src.search.mlflow_sync import MlflowSync, TrialRunMetadata
from src.search.plan import plan_of
from src.search.poller import StudyPoller
from src.search.pool import LocalWorkerPool
from src.search.runner import StudyRunner
from src.search.study import Study, open_study
from src.search.trial import TrialRecord
from src.tracking.client import Tracker
from src.tracking.store import tracking_uri
from src.training.workspace import checkpoint_of, facts_of
from tests.search.light import ADAPTER, EPOCHS, InProcess, LightWorker, plan
from tests.search.mlflow_server import MlflowServer
from tests.search.warm import WarmCommand
from tests.servers import Postgres

pytestmark = pytest.mark.slow


@pytest.fixture
def running(postgres: Postgres) -> Iterator[Postgres]:
    """The server, running again after a test that stops it."""
    yield postgres
    postgres.start()


@pytest.fixture(scope="module")
def server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """MLflow's, with its runs in a database beside that of the studies."""
    found = MlflowServer(postgres.create("tracking"), tmp_path_factory.mktemp("tracking"))
    try:
        found.start()
        yield found
    finally:
        found.kill()


@pytest.fixture
def tracked(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    """The server, as the one that runs are logged with, and given up after two requests."""
    if not server.answers():
        server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return server


def search(study: Study, shelf: PendingAdapters, total: int, during: Callable[[int], None], view: Any) -> None:
    worker = LightWorker(study, epoch_s=0.05, during=during)
    with StudyPoller(study.try_trials, [view]):
        StudyRunner(study, LocalWorkerPool(InProcess(worker)), shelf, StopSignal()).run(total)


def test_a_database_server_that_is_started_anew_costs_time_and_no_trial(
    running: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study, shelf = open_study(running.create("restarted"), plan("clip")), PendingAdapters(tmp_path / "trials")
    seen: dict[int, TrialRecord] = {}
    outages: list[threading.Thread] = []

    def outage(delay_s: float) -> None:
        time.sleep(delay_s)
        running.stop()
        time.sleep(0.5)
        running.start()

    def during(number: int) -> None:
        if number in (1, 4, 7):
            outages.append(threading.Thread(target=outage, args=[number / 50]))
            outages[-1].start()

    search(study, shelf, 10, during, lambda trial: seen.__setitem__(trial.number, trial))
    for each in outages:
        each.join()
    assert len(outages) == 3
    finished = study.finished()
    assert len(finished) == 10
    assert len({str(trial.params) for trial in finished}) == 10
    assert {trial.epochs for trial in finished} == {EPOCHS}
    assert not [trial for trial in study.trials() if trial.state == "running"]
    assert [seen[trial.number] for trial in study.trials()] == study.trials()
    assert all(shelf.find(trial.number) for trial in finished)
    assert {record.getMessage() for record in caplog.records} <= {
        "the storage of studies does not answer: waiting for it"
    }


def test_mlflow_that_goes_away_and_comes_back_has_all_in_the_end(
    tracked: MlflowServer, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "_TRY_AGAIN_S", 0.2)
    study, shelf = open_study(postgres.create("away"), plan("clip")), PendingAdapters(tmp_path / "trials")
    tracker = Tracker("away")
    without: list[int] = []

    def during(number: int) -> None:
        if number == 2:
            tracked.kill()
        if number == 5:
            without.extend(trial.number for trial in study.finished())
            tracked.start()

    with tracker.run("study") as parent:
        mirror = MlflowSync(tracker, parent, TrialRunMetadata("clip", {}, dict), shelf)
        search(study, shelf, 8, during, mirror.show)
        mirror.flush()
        mirror.require_all()
    assert without == [0, 1, 2, 3, 4]
    assert not list(shelf.folder.iterdir())
    mlflow_has(tracker, parent.id, study, ADAPTER.keys())


def mlflow_has(tracker: Tracker, parent: str, study: Study, adapter: Collection[str]) -> None:
    """All that the storage has, each trial once."""
    client = MlflowClient(tracking_uri())
    runs = [client.get_run(child.id) for child in tracker.children(parent)]
    assert sorted(int(run.data.tags["trial"]) for run in runs) == list(range(len(study.trials())))
    for run in runs:
        trial = study.trials()[int(run.data.tags["trial"])]
        assert (run.info.status, run.data.tags["state"]) == ("FINISHED", trial.state)
        assert (run.info.start_time, run.info.end_time) == (trial.began_ms, trial.ended_ms)
        history = client.get_metric_history(run.info.run_id, "val_macro_f1")
        assert [(each.step, each.value) for each in history] == [
            (row["epoch"], row["val_macro_f1"]) for row in trial.history
        ]
        assert {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "adapter")} >= set(adapter)


def test_a_search_outlives_mlflow_and_sync_brings_what_is_missing(
    repository: Path, tracked: MlflowServer, postgres: Postgres, warm: WarmCommand
) -> None:
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    environment = {name: os.environ[name] for name in names} | {"MVSA_STORAGE": postgres.create("outlived")}
    facts = facts_of("clip", checkpoint_of("clip"))
    study = open_study(environment["MVSA_STORAGE"], plan_of(load_params(), "clip", facts))
    process = warm.start("--trials", "3", environment=environment)
    while not study.finished():
        time.sleep(0.05)
    tracked.kill()
    said = process.output()
    assert said.count("the search goes on, and what is missing there is logged later") == 1
    assert "best of 3 trials" in said
    assert said.endswith("Table: outputs/tune/clip/trials.csv\n")
    assert "MLflow has not all of this search: once it answers, the same command with --sync brings it there" in said
    tracked.start()
    said = warm.run("--sync", environment=environment)
    assert re.match(r"clip: MLflow shows all 3 trials of the study; [23] were missing or not whole there", said)
    tracker = Tracker("mvsa-clip")
    (parent,) = tracker.find({"stage": "study"})
    assert MlflowClient(tracking_uri()).get_run(parent).info.status == "FINISHED"
    mlflow_has(tracker, parent, study, {"head.safetensors", "adapter_model.safetensors"})
