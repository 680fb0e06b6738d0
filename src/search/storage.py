"""Storages of studies: an SQLite file, a database server, or Optuna's gRPC proxy in front of either."""

import hashlib
import logging
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from src.core.errors import UsageError, UserError
from src.core.locks import lock, try_lock
from src.core.paths import at_origin, sqlite_file
from src.tracking.addresses import database_errors_as_user_errors, first_line_without_password
from src.training.callbacks import noop

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, GrpcStorageProxy

T = TypeVar("T")
PROXY = "grpc://"
# SQLite waits 5 s for a lock by default. Searches of several models on one file can exceed that on a slow disk.
_WAIT_FOR_SQLITE_S = 60
# A restart of the server, or an outage of the network, costs no trial if it is shorter.
_WAIT_FOR_SERVER_S = 600.0
_WAIT_FOR_PROXY_S = 30
_LONGEST_PAUSE_S = 10.0
_OPTION = "--storage"
_ADDRESSES = "an SQLAlchemy URL or grpc://HOST:PORT"
_TAKES = f"{_OPTION} takes {_ADDRESSES}"
_log = logging.getLogger(__name__)


class StorageError(UserError):
    """A storage of studies that fails, or does not answer."""


@dataclass(frozen=True)
class RetryPolicy:
    """Repeats operations that a storage failed to do, with growing pauses."""

    # The storage, as messages name it.
    where: str
    # Operations are repeated for so long. With 0 they are not repeated.
    limit_s: float
    # Is called before each pause, and may raise `StopRequested`.
    check: Callable[[], None] = noop

    @staticmethod
    def of(url: str) -> "RetryPolicy":
        """Return the policy of a storage: an error of a file is final, but a server may come back."""
        database = sqlite_file(url)
        # The URL of a server may hold a password, so no message repeats it.
        return RetryPolicy(str(database), 0) if database else RetryPolicy("on the server", _WAIT_FOR_SERVER_S)

    def once(self) -> "RetryPolicy":
        """Return the policy that repeats nothing."""
        return replace(self, limit_s=0)

    def __call__(self, operation: Callable[[], T]) -> T:
        """Return the operation's result. The operation may be done twice: a server may do it and its answer be lost.

        Raises:
            StorageError: the storage still fails after `limit_s`.
            StopRequested: `check` raised it.
        """
        begun_s = time.monotonic()
        pause_s = 0.1
        is_logged = False
        while True:
            try:
                return operation()
            except _storage_errors() as error:
                if time.monotonic() - begun_s >= self.limit_s:
                    raise StorageError(f"the storage of studies {self.where} fails: {_cause_of(error)}") from error
                # Short failures, such as a lost connection, are not worth a message.
                if pause_s > 1 and not is_logged:
                    _log.warning("the storage of studies does not answer: waiting for it")
                    is_logged = True
            self.check()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def open_storage(url: str, limit_s: float = 0) -> "BaseStorage":
    """Open a storage. A missing SQLite file is made, with its folder.

    Args:
        url: an SQLAlchemy URL or grpc://HOST:PORT.
        limit_s: how long to wait for a server that does not answer.

    Raises:
        UsageError: `url` is neither.
        UserError: the storage cannot be opened.
    """
    from optuna.storages import RDBStorage, get_storage

    # If a server goes away, this logger prints the whole query. `RetryPolicy` reports the same in one line.
    logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)  # private API of Optuna 5.0
    if url.startswith(PROXY):
        return _proxy(url, limit_s)
    url = at_origin(url)
    database = _database_file(url)
    with _opening(url):
        if database is None:
            # `pool_pre_ping` replaces connections that a restart of the server has cut.
            open_server = partial(RDBStorage, url, engine_kwargs={"pool_pre_ping": True})
            return get_storage(RetryPolicy("on the server", limit_s)(open_server) if limit_s else open_server())
        # Without the lock two processes could both make the missing tables, and the second would fail.
        with lock(database.with_name(f"{database.name}.lock")):
            return get_storage(RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _WAIT_FOR_SQLITE_S}}))


@contextmanager
def remote_url(url: str, host: str) -> Iterator[str]:
    """Yield a URL by which other machines reach a storage: a server's own URL, or that of a proxy on `host`.

    The proxy asks for no password. So only the cluster may reach the address `host`.
    """
    if sqlite_file(url) is None:
        yield url
        return
    from optuna.storages import run_grpc_proxy_server

    storage = open_storage(url)
    port = _free_port(host)
    with warnings.catch_warnings():
        _silence_grpc()
        # One thread, so that one call ends before the next begins. In two transactions that read before they write,
        # SQLite lets two workers draw the same waiting trial (optuna/optuna, issue 4621).
        serving = {"storage": storage, "host": host, "port": port, "thread_pool": ThreadPoolExecutor(max_workers=1)}
        # Optuna cannot stop the proxy. A daemon thread ends with the process.
        threading.Thread(target=run_grpc_proxy_server, kwargs=serving, daemon=True).start()
        address = f"{PROXY}{host}:{port}"
        _proxy(address).close()
    yield address


@contextmanager
def study_lock(url: str, study: str) -> Iterator[None]:
    """Lock a study in its storage, so that no command of another clone or machine runs the same trials.

    An SQLite file has a lock file for each study beside it, which protects on one machine. On a PostgreSQL server it is
    an advisory lock. That lasts as long as the connection, and is lost if the server restarts. Behind a proxy, and on
    other servers, nothing is locked.

    Raises:
        UsageError: `url` is of SQLite and names no file.
        UserError: another process holds the lock.
    """
    database = _database_file(at_origin(url))
    if database:
        with try_lock(database.with_name(f"{database.name}.{study}.lock"), f"the study {study} on this storage"):
            yield
    elif url.startswith("postgresql"):
        with _postgres_lock(url, study):
            yield
    else:
        yield


@contextmanager
def _postgres_lock(url: str, study: str) -> Iterator[None]:
    from sqlalchemy import NullPool, create_engine, text

    key = int.from_bytes(hashlib.sha256(study.encode()).digest()[:8], signed=True)
    # Without AUTOCOMMIT the connection would be rolled back at the end, which fails if the server has restarted.
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "pool_reset_on_return": None}
    with _opening(url):
        connection = create_engine(url, poolclass=NullPool, **options).connect()
    with closing(connection):
        if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}):
            raise UserError(f"another process is running the study {study} on this storage; wait or stop it")
        yield


def _database_file(url: str) -> Path | None:
    """Return the file of an SQLite storage, or None for a server.

    Raises:
        UsageError: `url` is of SQLite and names no file.
    """
    database = sqlite_file(url)
    if url.startswith("sqlite") and (database is None or database.name in ("", ":memory:")):
        raise UsageError(f"{_TAKES}: of SQLite's, that of a file, such as sqlite:///studies.db")
    return database


def _opening(url: str) -> AbstractContextManager[None]:
    return database_errors_as_user_errors(url, "the storage of studies", _OPTION, _ADDRESSES)


def _proxy(url: str, limit_s: float = 0) -> "GrpcStorageProxy":
    from optuna.storages import GrpcStorageProxy

    host, colon, port = url.removeprefix(PROXY).rstrip("/").rpartition(":")
    if "@" in url:
        raise UsageError(f"{_TAKES}: a proxy takes no password")
    if not colon or not port.isdigit():
        raise UsageError(f"{_OPTION} {url}: a proxy is named grpc://HOST:PORT")
    with warnings.catch_warnings():
        _silence_grpc()
        proxy = GrpcStorageProxy(host=host, port=int(port))
    try:
        proxy.wait_server_ready(timeout=limit_s or _WAIT_FOR_PROXY_S)
    except ConnectionError as error:
        raise UserError(f"no storage proxy answers at {host}:{port}") from error
    return proxy


def _storage_errors() -> tuple[type[Exception], ...]:
    from grpc import RpcError  # type: ignore[import-untyped] # gRPC has no stubs
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DBAPIError

    return StorageInternalError, DBAPIError, RpcError


def _silence_grpc() -> None:
    # gRPC reads it at its first import. Without it, gRPC writes a line whenever this process starts a program.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from optuna.exceptions import ExperimentalWarning

    warnings.simplefilter("ignore", ExperimentalWarning)


def _free_port(host: str) -> int:
    with closing(socket.socket()) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _cause_of(error: Exception) -> str:
    """Return the first line of the error that Optuna or gRPC wraps, without passwords."""
    from grpc import RpcError

    details = error.details() if isinstance(error, RpcError) and hasattr(error, "details") else None
    return str(details) if details else first_line_without_password(error.__cause__ or error)
