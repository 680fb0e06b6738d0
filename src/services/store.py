"""Where MLflow keeps runs: an SQLite file beside their artifacts, or a server."""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.errors import Refusal
from src.core.locks import at_origin, sqlite_file, turn
from src.core.paths import MLRUNS

if TYPE_CHECKING:
    from mlflow import MlflowClient

_FAILURE_LENGTH = 250
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
    """Turn an error of MLflow's into a `Refusal` of one line, so that nobody else has to know MLflow's errors.

    Those of the operating system are among them: artifacts are files, or go through a network.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        # The address of a server may hold a password, so it is not repeated.
        where = sqlite_file(tracking_uri()) or "at MLFLOW_TRACKING_URI"
        said = re.sub(r"//[^/\s]*@", "//", one_line(error))
        raise Refusal(f"the MLflow store {where} refuses: {said}") from error


def tracking_uri() -> str:
    """Where runs are kept: the environment's MLFLOW_TRACKING_URI, else an SQLite file under mlruns/."""
    return at_origin(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{MLRUNS}/mlflow.db")


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
    # It writes a stack trace for each error that it raises as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    uri = tracking_uri()
    database = sqlite_file(uri)
    if database is None:
        return MlflowClient(uri)
    # Two processes that both find no tables would both make them, and the second would fail.
    with refusing(), turn(database.with_name(f"{database.name}.lock")):
        if not database.exists():
            _make(database)
        client = MlflowClient(uri)
        _follow_move(database)
    return client


def _make(database: Path) -> None:
    """Make a store under another name first: what a process killed in MLflow's migrations leaves can't be mended."""
    from mlflow import MlflowClient

    temporary = database.with_name(f".{database.name}.new")
    for left in temporary.parent.glob(f"{temporary.name}*"):
        left.unlink()
    MlflowClient(f"sqlite:///{temporary}")
    temporary.rename(database)


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


def one_line(error: BaseException) -> str:
    """An error in one line of bounded length."""
    words = " ".join(str(error).split())
    return (f"{type(error).__name__}: {words}" if words else type(error).__name__)[:_FAILURE_LENGTH]
