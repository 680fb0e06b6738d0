"""Runs in a real MLflow store."""

import json
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as Logged

from src.core.errors import UserError
from src.core.paths import MLRUNS, SPLIT_REPORT
from src.core.provenance import git_tags, has_commit
from src.tracking.client import DESCRIPTION_TAG, Dataset, Tracker, parts_read
from src.tracking.store import open_store, tracking_uri
from tests.split_report import split_report
from tests.warm import WarmPython


@pytest.fixture(scope="module")
def client(store: Path) -> MlflowClient:
    return open_store()


@pytest.fixture(scope="module")
def tracker(store: Path) -> Tracker:
    return Tracker("clip", "Searches for **clip**")


def logged(client: MlflowClient, run_id: str) -> Logged:
    return client.get_run(run_id)


def test_run_logs_values_and_artifacts(client: MlflowClient, tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights.bin").write_bytes(b"weights")
    with tracker.run("trial 0", tags={"scale": "tiny", "trial": 0}, params={"rank": 8, "lr": 3e-4}) as run:
        run.params({"rank": 8, "lr": 3e-4})
        run.metrics({"val_macro_f1": 0.5, "train_loss": 1.0}, step=1)
        run.metrics({"val_macro_f1": 0.6, "train_loss": 0.5}, step=2)
        run.json("test/confusion.json", {"counts": [[1]]})
        run.text("report.txt", "fine")
        run.figure("test/confusion.png", b"\x89PNG")
        run.folder(tmp_path / "adapter", "adapter")
    entity = logged(client, run.id)
    assert (entity.info.run_name, entity.info.status) == ("trial 0", "FINISHED")
    assert entity.data.params == {"rank": "8", "lr": "0.0003"}
    assert (entity.data.tags["scale"], entity.data.tags["trial"]) == ("tiny", "0")
    history = client.get_metric_history(run.id, "val_macro_f1")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 0.6)]
    artifacts = Path(entity.info.artifact_uri)
    assert json.loads((artifacts / "test" / "confusion.json").read_text()) == {"counts": [[1]]}
    assert (artifacts / "report.txt").read_text() == "fine"
    assert (artifacts / "test" / "confusion.png").read_bytes() == b"\x89PNG"
    assert (artifacts / "adapter" / "weights.bin").read_bytes() == b"weights"


def test_changed_parameter_raises(tracker: Tracker) -> None:
    with (
        pytest.raises(UserError, match="Changing param values is not allowed"),
        tracker.run("changed", params={"rank": 8}) as run,
    ):
        run.params({"rank": 16})


@pytest.mark.parametrize(
    ("error", "status", "failure"),
    [
        (MemoryError("out of\nmemory"), "FAILED", "MemoryError: out of memory"),
        (KeyboardInterrupt(), "FAILED", "KeyboardInterrupt"),
        (SystemExit(3), "FAILED", "SystemExit: 3"),
    ],
)
def test_error_marks_run_failed(
    client: MlflowClient, tracker: Tracker, error: BaseException, status: str, failure: str | None
) -> None:
    with pytest.raises(type(error)), tracker.run("trial") as run:
        raise error
    entity = logged(client, run.id)
    assert (entity.info.status, entity.data.tags.get("failure")) == (status, failure)


def test_resumed_run_has_not_failed(client: MlflowClient, tracker: Tracker) -> None:
    with pytest.raises(UserError), tracker.run("training") as run:
        raise UserError("stopped")
    with tracker.resume(run.id):
        pass
    entity = logged(client, run.id)
    assert entity.info.status == "FINISHED" and "failure" not in entity.data.tags


def test_abandoned_run_closes_with_children(client: MlflowClient, tracker: Tracker) -> None:
    study = tracker.run("study")
    with tracker.run("done", parent=study.id) as done:
        pass
    left = tracker.run("left", parent=study.id, tags={"trial": 1})
    stranger = tracker.run("of another study")
    assert {child.id: child.running for child in tracker.children(study.id)} == {left.id: True, done.id: False}
    assert next(child.tags["trial"] for child in tracker.children(study.id) if child.running) == "1"
    tracker.close_abandoned(study.id)
    for run in (study, left):
        closed = logged(client, run.id)
        assert (closed.info.status, closed.data.tags["state"]) == ("FAILED", "abandoned")
    assert logged(client, done.id).info.status == "FINISHED"
    assert logged(client, stranger.id).info.status == "RUNNING"


def test_folder_replaces_earlier_one(client: MlflowClient, tracker: Tracker, tmp_path: Path) -> None:
    with tracker.run("trial") as run:
        for name in ("half", "whole"):
            folder = tmp_path / name
            folder.mkdir()
            (folder / f"{name}.bin").write_bytes(b"weights")
            run.folder(folder, "adapter")
    assert [item.path for item in client.list_artifacts(run.id)] == ["adapter"]
    assert [item.path for item in client.list_artifacts(run.id, "adapter")] == ["adapter/whole.bin"]


def test_repeated_metric_is_kept_once(client: MlflowClient, tracker: Tracker) -> None:
    with tracker.run("trial", began_ms=1_000) as run:
        for _ in range(2):
            run.metrics({"loss": 0.5}, step=1, at_ms=2_000)
        run.end("KILLED", at_ms=3_000)
        assert (logged(client, run.id).info.start_time, logged(client, run.id).info.end_time) == (1_000, 3_000)
    assert [(point.value, point.timestamp) for point in client.get_metric_history(run.id, "loss")] == [(0.5, 2_000)]
    assert (run.steps("loss"), run.steps("other")) == ({1}, set())


def test_system_metrics_are_logged(client: MlflowClient, tracker: Tracker) -> None:
    with tracker.run("search") as run:
        run.log_system_metrics(every_s=0.05)
        while "system/cpu_utilization_percentage" not in run.last_metrics():
            time.sleep(0.05)
    assert "SystemMetricsMonitor" not in {thread.name for thread in threading.enumerate()}
    assert logged(client, run.id).info.status == "FINISHED"


def test_short_run_has_no_system_metrics(tracker: Tracker) -> None:
    with tracker.run("search") as run:
        run.log_system_metrics()
    assert run.last_metrics() == {}
    assert "SystemMetricsMonitor" not in {thread.name for thread in threading.enumerate()}


def test_run_is_found_by_tags(client: MlflowClient, tracker: Tracker) -> None:
    with tracker.run("study a", tags={"study": "a", "kind": "study"}) as run:
        pass
    with tracker.run("study b", tags={"study": "b", "kind": "study"}):
        pass
    assert tracker.find({"study": "a", "kind": "study"}) == [run.id]
    assert tracker.find({"study": "c"}) == []
    with tracker.resume(run.id) as again:
        assert logged(client, run.id).info.status == "RUNNING"
        again.metrics({"best": 1.0})
    assert logged(client, run.id).info.status == "FINISHED"


def test_existing_experiment_keeps_description(client: MlflowClient, tracker: Tracker, store: Path) -> None:
    Tracker("clip", "Another text")
    experiment = client.get_experiment_by_name("clip")
    assert experiment.tags[DESCRIPTION_TAG] == "Searches for **clip**"
    assert experiment.artifact_location == str(store / "clip")


def test_inputs_are_logged_once(client: MlflowClient, store: Path) -> None:
    counts = {"negative": 1, "neutral": 2, "positive": 3}
    parts = [Dataset(f"mvsa-agreement-{part}", "d1-s1", "data.dvc", part, counts) for part in ("train", "val")]
    with Tracker("reading").run("train") as run:
        for _ in range(2):
            run.inputs(parts)
    inputs = client.get_run(run.id).inputs.dataset_inputs
    assert {(item.dataset.name, item.dataset.digest, item.tags[0].value) for item in inputs} == {
        ("mvsa-agreement-train", "d1-s1", "train"),
        ("mvsa-agreement-val", "d1-s1", "val"),
    }
    assert len(inputs) == 2
    assert json.loads(inputs[0].dataset.profile) == counts


def test_part_digest_covers_posts_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parts = {"test": {"negative": 1, "neutral": 1, "positive": 2}}
    split_report(data_digest="d" * 16, split_digest="s" * 16, parts=parts).write(SPLIT_REPORT)
    (test,) = parts_read("test")
    assert (test.name, test.digest) == ("mvsa-agreement-test", f"{'d' * 16}-{'s' * 16}")
    assert test.counts == parts["test"]


def test_new_experiment_gets_description_and_tags(client: MlflowClient, store: Path) -> None:
    tracker = Tracker("described", "[Trials](#/experiments/{id}/runs)", {"color": "blue"})
    tracker.section("Scores", "none")
    tracker.section("Scores", "some")
    experiment = client.get_experiment_by_name("described")
    text = experiment.tags[DESCRIPTION_TAG]
    assert text == f"[Trials](#/experiments/{experiment.experiment_id}/runs)\n\n## Scores\n\nsome"
    assert experiment.tags["color"] == "blue"


def test_deleted_experiment_raises(client: MlflowClient) -> None:
    Tracker("gone")
    client.delete_experiment(client.get_experiment_by_name("gone").experiment_id)
    with pytest.raises(UserError, match="experiment gone was deleted"):
        Tracker("gone")


def test_moved_store_finds_artifacts(tracker: Tracker, store: Path, tmp_path: Path) -> None:
    with tracker.run("moving", tags={"moving": "yes"}) as run:
        run.text("report.txt", "still here")
    moved = tmp_path / "elsewhere"
    shutil.copytree(store, moved)
    with sqlite3.connect(moved / "mlflow.db") as database:  # as if its old place were no more
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, '/gone')", (str(store),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{moved}/mlflow.db")
        entity = logged(open_store(), run.id)
    assert entity.info.artifact_uri == f"{moved}/clip/{run.id}/artifacts"
    assert (Path(entity.info.artifact_uri) / "report.txt").read_text() == "still here"


def test_concurrent_processes_create_one_store(tmp_path: Path, repo_root: Path, warm_python: WarmPython) -> None:
    (tmp_path / "race.py").write_text(
        "from src.tracking.client import Tracker\nwith Tracker('race').run('x') as run: run.metrics({'a': 1}, 1)"
    )
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/new/mlflow.db", "PYTHONPATH": str(repo_root)}
    racers = [warm_python.start(tmp_path, "race", environment=environment) for _ in range(2)]
    assert [racer.wait() for racer in racers] == [(0, "")] * 2
    with sqlite3.connect(tmp_path / "new" / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone() == (2,)
        assert database.execute("SELECT count(*) FROM experiments WHERE name = 'race'").fetchone() == (1,)


def test_damaged_database_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(UserError, match=r"mlflow\.db refuses: .*file is not a database"):
        open_store()


def test_environment_overrides_default_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_uri() == "http://tracking:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri() == f"sqlite:///{MLRUNS}/mlflow.db"


def test_git_tags_name_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_tags() == {}
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("a = 1\n")
    git("init", "--quiet")
    assert git_tags() == {}
    git("add", ".")
    git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "first")
    (tmp_path / "dvc.lock").write_text("changed by every run\n")
    clean = git_tags()
    assert (len(clean["git_commit"]), clean["git_dirty"]) == (40, "false")
    (tmp_path / "src" / "a.py").write_text("a = 2\n")
    assert git_tags() == clean | {"git_dirty": "true"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root alone gives files away")
def test_git_reads_other_users_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("a = 1\n")
    git("init", "--quiet")
    git("add", ".")
    git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "first")
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.chown(path, 4321, 4321)
    assert subprocess.run(["git", "status"], capture_output=True).returncode == 128
    version = git_tags()
    assert (len(version["git_commit"]), version["git_dirty"]) == (40, "false")
    assert has_commit(version["git_commit"])


def test_unreadable_repository_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    assert git_tags() == {}
    assert len(caplog.records) == 1


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True)
