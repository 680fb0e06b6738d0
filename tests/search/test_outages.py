"""Covers: a search whose storage or MLflow server goes away and comes back."""

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
from src.core.labels import TONE_LABELS
from src.core.signals import StopSignal
from src.search import mlflow_sync as sync_module
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
    """An MLflow server, with its runs in a database beside that of the studies."""
    server = MlflowServer(postgres.create("tracking"), tmp_path_factory.mktemp("tracking"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def tracked(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    """Log runs with the server, and give it up after two requests."""
    if not server.answers():
        server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return server


def search(
    study: Study, pending_adapters: PendingAdapters, total: int, during: Callable[[int], None], view: Any
) -> None:
    worker = LightWorker(study, epoch_s=0.05, during=during)
    with StudyPoller(study.try_trials, [view]):
        StudyRunner(study, LocalWorkerPool(InProcess(worker)), pending_adapters, StopSignal()).run(total)


def test_database_restart_costs_no_trial(running: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study, pending_adapters = (
        open_study(running.create("restarted"), plan("clip")),
        PendingAdapters(tmp_path / "trials"),
    )
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

    search(study, pending_adapters, 10, during, lambda trial: seen.__setitem__(trial.number, trial))
    for outage_thread in outages:
        outage_thread.join()
    assert len(outages) == 3
    finished = study.finished()
    assert len(finished) == 10
    assert len({str(trial.params) for trial in finished}) == 10
    assert {trial.epochs for trial in finished} == {EPOCHS}
    assert not [trial for trial in study.trials() if trial.state == "running"]
    assert [seen[trial.number] for trial in study.trials()] == study.trials()
    assert all(pending_adapters.find(trial.number) for trial in finished)
    assert {record.getMessage() for record in caplog.records} <= {
        "the storage of studies does not answer: waiting for it"
    }


def test_returning_mlflow_gets_all_runs(
    tracked: MlflowServer, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_module, "_RETRY_AFTER_S", 0.2)
    study, pending_adapters = open_study(postgres.create("away"), plan("clip")), PendingAdapters(tmp_path / "trials")
    tracker = Tracker("away")
    without: list[int] = []

    def during(number: int) -> None:
        if number == 2:
            tracked.kill()
        if number == 5:
            without.extend(trial.number for trial in study.finished())
            tracked.start()

    with tracker.run("study") as parent:
        sync = MlflowSync(tracker, parent, TrialRunMetadata("clip", {}, {}), pending_adapters)
        search(study, pending_adapters, 8, during, sync.show)
        sync.flush()
        sync.require_all()
    assert without == [0, 1, 2, 3, 4]
    assert not list(pending_adapters.folder.iterdir())
    mlflow_has(tracker, parent.id, study, ADAPTER.keys())


def mlflow_has(tracker: Tracker, parent: str, study: Study, adapter: Collection[str]) -> None:
    """Check that MLflow has all trials of the storage, each once."""
    client = MlflowClient(tracking_uri())
    runs = [client.get_run(child.id) for child in tracker.children(parent)]
    assert sorted(int(run.data.tags["trial"]) for run in runs) == list(range(len(study.trials())))
    for run in runs:
        trial = study.trials()[int(run.data.tags["trial"])]
        assert (run.info.status, run.data.tags["state"]) == ("FINISHED", trial.state)
        assert (run.info.start_time, run.info.end_time) == (trial.began_ms, trial.ended_ms)
        history = client.get_metric_history(run.info.run_id, "val_macro_f1")
        assert [(metric.step, metric.value) for metric in history] == [
            (row["epoch"], row["val_macro_f1"]) for row in trial.history
        ]
        assert {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "adapter")} >= set(adapter)


def test_sync_repairs_after_mlflow_outage(
    repository: Path, tracked: MlflowServer, postgres: Postgres, warm: WarmCommand
) -> None:
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    environment = {name: os.environ[name] for name in names} | {"MVSA_STORAGE": postgres.create("outlived")}
    facts = facts_of("clip", checkpoint_of(load_params(), "clip"), TONE_LABELS)
    study = open_study(environment["MVSA_STORAGE"], plan_of(load_params(), "clip", facts))
    process = warm.start("--trials", "3", environment=environment)
    while not study.finished():
        time.sleep(0.05)
    tracked.kill()
    output = process.output()
    assert output.count("the search goes on") == 1
    assert "best of 3 trials" in output
    assert output.endswith("Table: outputs/tune/clip/trials.csv\n")
    assert "MLflow lacks a part of this search" in output
    tracked.start()
    output = warm.run("--sync", environment=environment)
    assert re.search(r"all 3 trials of the study; [23] were missing", output)
    tracker = Tracker("mvsa-clip")
    (parent,) = tracker.find({"stage": "study"})
    assert MlflowClient(tracking_uri()).get_run(parent).info.status == "FINISHED"
    mlflow_has(tracker, parent, study, {"head.safetensors", "adapter_model.safetensors"})
