"""Where MLflow keeps runs: an SQLite file beside their artifacts, or a server."""

import atexit
import logging
import os
import shlex
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from src.core.errors import UsageError, UserError
from src.core.locks import at_origin, lock, sqlite_file
from src.core.paths import MLRUNS
from src.tracking.addresses import database_errors_as_user_errors, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

_OPTION = "MLFLOW_TRACKING_URI"
_ADDRESSES = "sqlite:///FILE, postgresql://USER@HOST/DATABASE or http://HOST:PORT"
_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")
_COPY = "mlflow-read-only-"
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
def mlflow_errors_as_user_errors() -> Iterator[None]:
    """Turn an error of MLflow's into a `UserError` of one line, so that nobody else has to know MLflow's errors.

    Those of the operating system are among them: artifacts are files, or go through a network.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        where = sqlite_file(tracking_uri()) or "at MLFLOW_TRACKING_URI"
        raise UserError(f"the MLflow store {where} refuses: {one_line(error)}") from error


def tracking_uri() -> str:
    """Where runs are kept: the environment's MLFLOW_TRACKING_URI, else an SQLite file under mlruns/."""
    return at_origin(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{MLRUNS}/mlflow.db")


def readable_uri() -> str:
    """The address by which MLflow can read the store: `tracking_uri`, or a copy where nobody may write."""
    database = sqlite_file(tracking_uri())
    if database is None or not database.exists() or os.access(database.parent, os.W_OK):
        return tracking_uri()
    return _copy_of(database.resolve())


def _is_copy(database: Path) -> bool:
    # MLflow puts the address that it is given into the environment.
    return database.parent.name.startswith(_COPY)


def restore_command(experiment_id: str) -> str:
    """Return the command that brings a deleted experiment back.

    MLflow's command takes a server from the environment, as this process does, but a file has to be named to it.
    """
    uri = tracking_uri()
    store = f"MLFLOW_TRACKING_URI={shlex.quote(uri)} " if sqlite_file(uri) else ""
    return f"{store}mlflow experiments restore --experiment-id {experiment_id}"


def open_store() -> "MlflowClient":
    """A client of the store at `tracking_uri`, which is made if it is new: seconds, as MLflow replays its migrations.

    Several processes may do so at once. A store whose folder was moved or copied is told where its artifacts are now.

    Raises:
        UsageError: MLFLOW_TRACKING_URI is no address of a store.
        UserError: the store cannot be opened.
    """
    os.environ.update({key: value for key, value in _QUIET.items() if key not in os.environ})
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It writes a stack trace for each error that it raises as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    uri = readable_uri()
    _require_address(uri)
    database = sqlite_file(uri)
    if database is None or _is_copy(database):
        with mlflow_errors_as_user_errors():
            return MlflowClient(uri)
    # Two processes that both find no tables would both make them, and the second would fail.
    with mlflow_errors_as_user_errors(), lock(database.with_name(f"{database.name}.lock")):
        if not database.exists():
            _make(database)
        client = MlflowClient(uri)
        _follow_move(database, database.resolve().parent)
    return client


def _make(database: Path) -> None:
    """Make a store under another name first: what a process killed in MLflow's migrations leaves can't be mended."""
    from mlflow import MlflowClient

    temporary = database.with_name(f".{database.name}.new")
    for left in temporary.parent.glob(f"{temporary.name}*"):
        left.unlink()
    MlflowClient(f"sqlite:///{temporary}")
    temporary.rename(database)


def _require_address(uri: str) -> None:
    """MLflow itself takes a path for an address, and waits minutes for a database that does not answer."""
    scheme = uri.partition(":")[0].partition("+")[0]
    database = sqlite_file(uri)
    in_memory = scheme == "sqlite" and (database is None or database.name in ("", ":memory:"))
    if scheme not in _SCHEMES or "://" not in uri or in_memory:
        shown = without_password(uri, uri)
        raise UsageError(f"{_OPTION} takes {_ADDRESSES}, and {shown} is none")
    if database is None and not scheme.startswith("http"):
        from sqlalchemy import NullPool, create_engine

        with database_errors_as_user_errors(uri, "the MLflow store", _OPTION, _ADDRESSES):
            create_engine(uri, poolclass=NullPool).connect().close()


@cache
def _copy_of(database: Path) -> str:
    """The address of a copy that lasts as long as this process, and that nobody may write either."""
    folder = tempfile.TemporaryDirectory(prefix=_COPY)
    atexit.register(folder.cleanup)
    copy = Path(folder.name) / database.name
    shutil.copyfile(database, copy)
    _follow_move(copy, database.parent)
    with copy.open("r+b") as file:
        # SQLite only reads a file whose write version it does not know. MLflow would take mode=ro for a folder's name.
        file.seek(18)
        file.write(b"\x03")
    return f"sqlite:///{copy}"


def location_of(folder: Path) -> str:
    """A folder as MLflow has it: a path, but as a URI where it would read something else in the path."""
    return str(folder) if quote(str(folder)) == str(folder) else folder.as_uri()


def artifact_location(experiment: str) -> str | None:
    """Beside the database, whatever the working directory; a server knows its own place."""
    database = sqlite_file(tracking_uri())
    return location_of(database.resolve().parent / experiment) if database else None


def folder_of(location: str) -> Path | None:
    """The folder on this machine at a location of MLflow's; None if it is a server's."""
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return None
    return Path(unquote(parts.path) if parts.scheme else location)


def _follow_move(database: Path, folder: Path) -> None:
    """MLflow keeps absolute paths: a folder that was moved or downloaded (CI's mlruns) would show no artifacts.

    A copy would write into the original. A place that holds no store of its own was somebody's choice and stays.
    """
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        experiments = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
        ours = {place.removesuffix(f"/{name}") for name, place in experiments if place.endswith(f"/{name}")}
        for old in ours - {location_of(folder)}:
            place = folder_of(old)
            if place and place.is_absolute() and (not place.exists() or (place / database.name).exists()):
                _rewrite(connection, old, location_of(folder))


def _rewrite(connection: sqlite3.Connection, old: str, new: str) -> None:
    for table, column in _LOCATIONS:
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
            (f"{new}/", len(old) + 2, len(old) + 1, f"{old}/"),
        )


def one_line(error: BaseException) -> str:
    """An error in one line of bounded length, without a password."""
    words = without_password(" ".join(str(error).split()), tracking_uri())
    return (f"{type(error).__name__}: {words}" if words else type(error).__name__)[:_FAILURE_LENGTH]
