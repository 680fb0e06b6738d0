"""Stores at valid and invalid addresses, in folders with special names, copied, and read-only."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.core.errors import UsageError, UserError
from src.tracking.addresses import without_password
from src.tracking.client import Tracker
from src.tracking.store import folder_of, one_line_message, open_store, readable_uri
from tests.ports import free_port

PASSWORD = "correct-horse"
VARIABLE = "MLFLOW_TRACKING_URI"


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("./mlruns", UsageError),
        ("mlruns", UsageError),
        ("file:mlruns", UsageError),
        ("file:///mlruns", UsageError),
        ("sqlite:mlruns/mlflow.db", UsageError),
        ("sqlite://", UsageError),
        ("sqlite:///:memory:", UsageError),
        ("htp://u:{}@h:5000", UsageError),
        ("http:/u:{}@h:5000", UsageError),
        ("postgres://u:{}@h/x", UsageError),
        ("postgresql+nothing://u:{}@h/x", UsageError),
        ("postgresql://u:{}@h:port/x", UsageError),
        ("postgresql://u:{}/x@127.0.0.1:{port}/x", UserError),
        ("postgresql://u:{}@127.0.0.1:{port}/x", UserError),
        ("postgresql://127.0.0.1:{port}/x?user=u&password={}", UserError),
        ("postgresql://u:{}@/x?host=/nowhere", UserError),
    ],
)
def test_invalid_address_raises_without_password(
    address: str, kind: type[UserError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, address.format(PASSWORD, port=free_port()))
    with pytest.raises(UserError, match=VARIABLE) as refused:
        open_store()
    message = str(refused.value)
    assert (type(refused.value), message.count("\n")) == (kind, 0)
    assert not any(part in message for part in (PASSWORD, "correct", "horse"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://u:se%2Fcret@h", "http://u:se%2Fcret@h/api fails"),
        ("http://u:se%2Fcret@h", "password se/cret is wrong"),
        ("http://u:se/cret@h", "no port 'se/cret'"),
        ("postgresql://h/x?password=se/cret", "password=se/cret"),
        ("", "postgresql://u:se/cret@h/x"),
    ],
)
def test_password_is_hidden_in_every_form(url: str, message: str) -> None:
    assert "cret" not in without_password(message, url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql+psycopg://postgres@h/x", "python -m src.tune --storage postgresql+psycopg://***@h/x"),
        ("postgresql://tune@h/x", "python -m src.tune"),
        ("sqlite:////var/jobs/mvsa@2/studies.db", "sqlite:////var/jobs/mvsa@2/studies.db"),
    ],
)
def test_words_of_an_address_stay_in_messages(url: str, message: str) -> None:
    assert without_password(message.replace("***", "postgres"), url) == message


def test_failure_message_hides_password_before_cutting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    for padding in range(200, 260):
        assert "secret" not in one_line_message(ValueError(f"{'a' * padding} http://u:secretsecretsecret@h"))


@pytest.fixture
def kept(store: Path) -> Path:
    """The shared store with a run in it, which has an artifact."""
    with Tracker("original").run("first") as run:
        run.text("report.txt", "original")
    return store


@pytest.fixture(params=["plain", "x 50%25", "x 50%", "a b", "a#b", "a?b", "ü"])
def copy(kept: Path, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A copy of the store in a folder of some name, named by an address of its own, for MLflow keeps stores open."""
    folder = tmp_path / request.param / tmp_path.name
    shutil.copytree(kept, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setenv(VARIABLE, f"sqlite:///{tmp_path.name}/mlflow.db")
        yield folder


def files_of(folder: Path) -> set[Path]:
    return {
        path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix in (".txt", ".bin")
    }


def test_copied_store_writes_own_artifacts(kept: Path, copy: Path, tmp_path: Path) -> None:
    original = files_of(kept)
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "a.bin").write_bytes(b"weights")
    for name in ("original", "made here"):
        with Tracker(name).run("second") as run:
            run.text("report.txt", "copy")
            run.folder(weights, "adapter")
        place = folder_of(open_store().get_run(run.id).info.artifact_uri)
        assert place == copy / name / run.id / "artifacts"
        assert files_of(place) == {Path("report.txt"), Path("adapter/a.bin")}
    assert files_of(kept) == original
    outside = {path for path in files_of(tmp_path) if not (tmp_path / path).is_relative_to(copy)}
    assert outside == {Path("weights/a.bin")}


def test_chosen_artifact_location_stays(kept: Path, tmp_path: Path) -> None:
    copied, chosen = tmp_path / "copied", tmp_path / "large-disk"
    shutil.copytree(kept, copied)
    chosen.mkdir()
    with sqlite3.connect(copied / "mlflow.db") as database:
        database.execute("UPDATE experiments SET artifact_location = ? || '/original'", (str(chosen),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, f"sqlite:///{copied}/mlflow.db")
        assert open_store().get_experiment_by_name("original").artifact_location == f"{chosen}/original"


def test_read_only_store_is_readable(kept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    shutil.copytree(kept, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    may = os.access
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, f"sqlite:///{folder}/mlflow.db")
        # Root may write in spite of a folder's mode; a read-only mount answers as this does.
        patch.setattr(os, "access", lambda path, mode: mode != os.W_OK and may(path, mode))
        client = open_store()
        experiment = client.get_experiment_by_name("original")
        (run,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'first'")[:1]
        place = folder_of(run.info.artifact_uri)
        assert place is not None
        assert place == folder / "original" / run.info.run_id / "artifacts"
        assert (place / "report.txt").read_text() == "original"
        assert readable_uri() == readable_uri() != os.environ[VARIABLE]
        with pytest.raises(UserError, match="readonly"):
            Tracker("original").run("second")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
