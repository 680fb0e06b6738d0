"""Runs in MLflow, through its client: no global run, nothing logged that was not asked for."""

import logging
import os
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from src.core.errors import Pruned, Refusal
from src.core.locks import sqlite_file, turn
from src.core.paths import MLRUNS

if TYPE_CHECKING:
    from mlflow import MlflowClient

_FAILURE_LENGTH = 250
# MLflow's own upper limit to one search.
_MOST_RUNS = 50_000
_QUIET = {
    # Its usage reports go to the network.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Its default of 7 retries leaves a mistyped server unanswered for four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
}
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


@contextmanager
def refusing() -> Iterator[None]:
    """Turn an error of MLflow's into a `Refusal` of one line, so that nobody else has to know MLflow's errors."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        # The address of a database server may hold a password, so it is not repeated.
        where = sqlite_file(tracking_uri()) or "at MLFLOW_TRACKING_URI"
        raise Refusal(f"the MLflow store {where} refuses: {_one_line(error)}") from error


class Run:
    """A run that is open. As a context it ends the run: FINISHED, KILLED if `Pruned` was raised, else FAILED.

    A failed run says why in its tag `failure`. No error is swallowed. Every method raises `Refusal` where MLflow fails.
    """

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self._client = client
        self.id = run_id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self._end("FINISHED")
        elif isinstance(error, Pruned):
            self._end("KILLED")
        else:
            self.tags({"failure": _one_line(error)})
            self._end("FAILED")

    @refusing()
    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics; `step` is the epoch, counted from 1, where there are several."""
        from mlflow.entities import Metric

        now_ms = time.time_ns() // 1_000_000
        batch = [Metric(name, float(value), now_ms, step or 0) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=batch)

    @refusing()
    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters. Logging them again is harmless; MLflow refuses to change one."""
        from mlflow.entities import Param

        self._client.log_batch(self.id, params=[Param(name, str(value)) for name, value in values.items()])

    @refusing()
    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags, over those of the same name."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.id, tags=[RunTag(name, str(value)) for name, value in values.items()])

    @refusing()
    def json(self, name: str, content: Any) -> None:
        """Log an artifact `name` (a path ending in .json)."""
        self._client.log_dict(self.id, content, name)

    @refusing()
    def text(self, name: str, text: str) -> None:
        """Log a text as an artifact `name` (a path such as report.txt or gallery.html)."""
        self._client.log_text(self.id, text, name)

    @refusing()
    def figure(self, name: str, png: bytes | Path) -> None:
        """Log a picture, given as bytes or as a file, as an artifact `name` (a path ending in .png)."""
        target = Path(name)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / target.name
            file.write_bytes(png if isinstance(png, bytes) else png.read_bytes())
            parent = str(target.parent) if target.parent.name else None
            self._client.log_artifact(self.id, str(file), parent)

    @refusing()
    def folder(self, path: Path, artifact_path: str) -> None:
        """Log the files of a folder under `artifact_path`."""
        self._client.log_artifacts(self.id, str(path), artifact_path)

    @refusing()
    def _end(self, status: str) -> None:
        self._client.set_terminated(self.id, status)


class Tracker:
    """The runs of one experiment, which is made with its Markdown description if it is new.

    Raises:
        Refusal: the tracking store cannot be opened.
    """

    def __init__(self, experiment: str, description: str = "") -> None:
        self._client = open_store()
        self._experiment_id = _experiment(self._client, experiment, description)

    @refusing()
    def run(
        self,
        name: str,
        *,
        parent: str | None = None,
        tags: Mapping[str, object] | None = None,
        params: Mapping[str, object] | None = None,
    ) -> Run:
        """Begin a run, as a child of the run with the id `parent` if there is one. To be used as a context."""
        lineage = {"mlflow.parentRunId": parent} if parent else {}
        labels = {key: str(value) for key, value in (tags or {}).items()}
        info = self._client.create_run(self._experiment_id, run_name=name, tags={**labels, **lineage}).info
        run = Run(self._client, info.run_id)
        if params:
            run.params(params)
        return run

    @refusing()
    def resume(self, run_id: str) -> Run:
        """Open a run that has ended, or whose process died. To be used as a context."""
        self._client.update_run(run_id, status="RUNNING")
        return Run(self._client, run_id)

    def find(self, tags: Mapping[str, object]) -> list[str]:
        """The ids of the runs that bear all these tags, the newest first."""
        return self._search([f"tags.`{key}` = '{value}'" for key, value in tags.items()])

    @refusing()
    def close_abandoned(self, parent: str) -> list[str]:
        """Mark the children of a run that still run as failed by interruption; returns their ids.

        To be called only when no other process works on that parent run.
        """
        abandoned = self._search([f"tags.`mlflow.parentRunId` = '{parent}'", "attributes.status = 'RUNNING'"])
        for run_id in abandoned:
            self._client.set_tag(run_id, "state", "interrupted")
            self._client.set_terminated(run_id, "FAILED")
        return abandoned

    @refusing()
    def _search(self, conditions: list[str]) -> list[str]:
        found = self._client.search_runs(
            [self._experiment_id], " and ".join(conditions), max_results=_MOST_RUNS, order_by=["start_time DESC"]
        )
        return [run.info.run_id for run in found]


def tracking_uri() -> str:
    """Where runs are kept: the environment's MLFLOW_TRACKING_URI, else an SQLite file under mlruns/."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{MLRUNS}/mlflow.db"


def open_store() -> "MlflowClient":
    """A client of the store at `tracking_uri`, which is made if it is new: seconds, as MLflow replays its migrations.

    Several processes may do so at once. A store whose folder was moved is told where its artifacts are now.

    Raises:
        Refusal: the store cannot be opened.
    """
    os.environ.update({key: value for key, value in _QUIET.items() if key not in os.environ})
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = tracking_uri()
    database = sqlite_file(uri)
    if database is None:
        return MlflowClient(uri)
    # Two processes that both find no tables would both make them, and the second would fail.
    with refusing(), turn(database.with_name(f"{database.name}.lock")):
        client = MlflowClient(uri)
        _follow_move(database)
    return client


def code_version() -> dict[str, str]:
    """Tags that tell which code ran: the commit, and whether src/ differs from it. Empty outside of a repository."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return {}
    return {"git_commit": commit, "git_dirty": str(bool(_git("status", "--porcelain", "--", "src"))).lower()}


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


@refusing()
def _experiment(client: "MlflowClient", name: str, description: str) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, _artifact_location(name), {"mlflow.note.content": description}))
        except MlflowException as error:
            # Another process was faster.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage == "deleted":
        raise Refusal(f"the MLflow experiment {name} was deleted: bring it back with `mlflow experiments restore`")
    return str(experiment.experiment_id)


def _artifact_location(experiment: str) -> str | None:
    """Beside the database, whatever the working directory; a server knows its own place."""
    database = sqlite_file(tracking_uri())
    return str(database.resolve().parent / experiment) if database else None


def _follow_move(database: Path) -> None:
    """MLflow keeps absolute paths, so a folder that was moved or downloaded (CI's mlruns) would show no artifacts."""
    here = str(database.resolve().parent)
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        experiments = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
        ours = {place.removesuffix(f"/{name}") for name, place in experiments if place.endswith(f"/{name}")}
        for old in ours - {here}:
            if old.startswith("/") and not Path(old).exists():
                _rewrite(connection, old, here)


def _rewrite(connection: sqlite3.Connection, old: str, new: str) -> None:
    for table, column in _LOCATIONS:
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
            (f"{new}/", len(old) + 2, len(old) + 1, f"{old}/"),
        )


def _one_line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return (f"{type(error).__name__}: {words}" if words else type(error).__name__)[:_FAILURE_LENGTH]
