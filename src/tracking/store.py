"""The MLflow store: an SQLite file beside the artifacts of runs, or a server.

MLflow stores absolute paths of artifacts. `open_store` updates them when a file store was moved or copied.
"""

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
from src.core.files import atomic_file
from src.core.locks import lock
from src.core.paths import MLRUNS, at_origin, sqlite_file
from src.tracking.addresses import database_errors_as_user_errors, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

STORE_VARIABLE = "MLFLOW_TRACKING_URI"
_ADDRESSES = "sqlite:///FILE, postgresql://USER@HOST/DATABASE or http://HOST:PORT"
_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")
_COPY_PREFIX = "mlflow-read-only-"
_MAX_MESSAGE_LENGTH = 250
_DEFAULT_SETTINGS = {
    # Telemetry sends usage reports over the network.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # With MLflow's 7 retries a mistyped server address blocks for four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
}
# Columns with absolute locations of artifacts.
_LOCATION_COLUMNS = (  # private API of MLflow 3.17
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


@contextmanager
def mlflow_errors_as_user_errors() -> Iterator[None]:
    """Turn errors of MLflow, its database and its files into a `UserError` of one line.

    Callers therefore handle one class of errors. `OSError` is included because artifacts are files or network requests.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        where = sqlite_file(tracking_uri()) or "at MLFLOW_TRACKING_URI"
        raise UserError(f"the MLflow store {where} refuses: {one_line_message(error)}") from error


def tracking_uri() -> str:
    """Return the address of the store: MLFLOW_TRACKING_URI, or by default an SQLite file in mlruns/."""
    return at_origin(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{MLRUNS}/mlflow.db")


def readable_uri() -> str:
    """Return an address by which MLflow can read the store: `tracking_uri`, or a copy if its folder is read-only."""
    database = sqlite_file(tracking_uri())
    if database is None or not database.exists() or os.access(database.parent, os.W_OK):
        return tracking_uri()
    return _copy_of(database.resolve())


def absolute_uri() -> str:
    """Return `readable_uri` for processes in other folders."""
    uri = readable_uri()
    database = sqlite_file(uri)
    return uri if database is None else f"{uri.partition(':///')[0]}:///{database.resolve()}"


def _is_copy(database: Path) -> bool:
    # MLflow writes the address that it opens into MLFLOW_TRACKING_URI, so `tracking_uri` may be that of a copy.
    return database.parent.name.startswith(_COPY_PREFIX)


def restore_command(experiment_id: str) -> str:
    """Return the command line that restores a deleted experiment.

    A server's address is in the user's environment already. The default SQLite file is not, so the command names it.
    """
    uri = tracking_uri()
    store = f"MLFLOW_TRACKING_URI={shlex.quote(uri)} " if sqlite_file(uri) else ""
    return f"{store}mlflow experiments restore --experiment-id {experiment_id}"


def open_store() -> "MlflowClient":
    """Open the store at `tracking_uri` and return a client. A missing SQLite store is created, which takes seconds.

    Several processes may open a store at the same time. If the store's folder was moved or copied, the locations of
    artifacts in its database are updated.

    Raises:
        UsageError: MLFLOW_TRACKING_URI is not the address of a store.
        UserError: the store cannot be opened.
    """
    os.environ.update({key: value for key, value in _DEFAULT_SETTINGS.items() if key not in os.environ})
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # This logger prints a stack trace for each error that MLflow also raises.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    uri = readable_uri()
    _require_address(uri)
    database = sqlite_file(uri)
    if database is None or _is_copy(database):
        with mlflow_errors_as_user_errors():
            return MlflowClient(uri)
    # Without the lock two processes would both create the tables, and the second would fail.
    with mlflow_errors_as_user_errors(), lock(database.with_name(f"{database.name}.lock")):
        if not database.exists():
            _create(database)
        client = MlflowClient(uri)
        _follow_move(database, database.resolve().parent)
    return client


def _create(database: Path) -> None:
    """Create an SQLite store whole or not at all.

    MLflow replays its migrations on a new database. It cannot open one that a killed process left half-migrated.
    """
    from mlflow import MlflowClient

    with atomic_file(database) as temporary, _unsynced_sqlite():
        temporary.unlink(missing_ok=True)  # left half-migrated by a killed process that had the same id
        MlflowClient(f"sqlite:///{temporary}")
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())


@contextmanager
def _unsynced_sqlite() -> Iterator[None]:
    """Let SQLite connections that open in this context leave it to the system when data reach the disk.

    The migrations of a new store commit some hundred times, and each commit would wait for the disk. An incomplete
    store is removed if its process dies, and a complete one is flushed once.
    """
    from sqlalchemy import Engine, event

    def unsync(connection: object, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", unsync)
    try:
        yield
    finally:
        event.remove(Engine, "connect", unsync)


def _require_address(uri: str) -> None:
    """Check the address and, for a database server, that it answers.

    MLflow would take a path for an address, and would wait minutes for a database server that does not answer.
    """
    scheme = uri.partition(":")[0].partition("+")[0]
    database = sqlite_file(uri)
    in_memory = scheme == "sqlite" and (database is None or database.name in ("", ":memory:"))
    if scheme not in _SCHEMES or "://" not in uri or in_memory:
        raise UsageError(f"{STORE_VARIABLE} takes {_ADDRESSES}, not {without_password(uri, uri)}")
    if database is None and not scheme.startswith("http"):
        from sqlalchemy import NullPool, create_engine

        with database_errors_as_user_errors(uri, "the MLflow store", STORE_VARIABLE, _ADDRESSES):
            create_engine(uri, poolclass=NullPool).connect().close()


@cache
def _copy_of(database: Path) -> str:
    """Copy a database for this process, make the copy read-only, and return its address."""
    folder = tempfile.TemporaryDirectory(prefix=_COPY_PREFIX)
    atexit.register(folder.cleanup)
    copy = Path(folder.name) / database.name
    shutil.copyfile(database, copy)
    _follow_move(copy, database.parent)
    with copy.open("r+b") as file:
        # Byte 18 is the write version of the file format; SQLite opens a file with an unknown one as read-only. The
        # URL parameter mode=ro is no alternative, because MLflow takes it for a part of the file's name.
        file.seek(18)
        file.write(b"\x03")
    return f"sqlite:///{copy}"


def location_of(folder: Path) -> str:
    """Return the location of a folder for MLflow: its path, or a URI if MLflow would misread the path."""
    return str(folder) if quote(str(folder)) == str(folder) else folder.as_uri()


def artifact_location(experiment: str) -> str | None:
    """Return the location for an experiment's artifacts, beside the database; None if a server decides."""
    database = sqlite_file(tracking_uri())
    return location_of(database.resolve().parent / experiment) if database else None


def folder_of(location: str) -> Path | None:
    """Return the local folder at a location of MLflow's; None if a server keeps it."""
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return None
    return Path(unquote(parts.path) if parts.scheme else location)


def _follow_move(database: Path, folder: Path) -> None:
    """Update the artifact locations in a database that was moved or copied to `folder`.

    MLflow stores absolute paths. After a move it would find no artifacts, and a copy would write into the original. An
    old folder that exists and holds no store was chosen by the user for artifacts, so its locations stay.
    """
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        rows = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
        parents = {location.removesuffix(f"/{name}") for name, location in rows if location.endswith(f"/{name}")}
        for old in parents - {location_of(folder)}:
            old_folder = folder_of(old)
            if old_folder is None or not old_folder.is_absolute():
                continue
            if not old_folder.exists() or (old_folder / database.name).exists():
                _replace_location(connection, old, location_of(folder))


def _replace_location(connection: sqlite3.Connection, old: str, new: str) -> None:
    """Replace the folder `old` by `new` at the beginning of all locations."""
    for table, column in _LOCATION_COLUMNS:
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
            (f"{new}/", len(old) + 2, len(old) + 1, f"{old}/"),
        )


def one_line_message(error: BaseException) -> str:
    """Return an error's class and message as one line of bounded length, without passwords."""
    # The password goes before the text is cut, because a piece of it would not be recognised.
    message = without_password(" ".join(str(error).split()), tracking_uri())
    return (f"{type(error).__name__}: {message}" if message else type(error).__name__)[:_MAX_MESSAGE_LENGTH]
