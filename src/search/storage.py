"""Where studies are kept: an SQLite file, a database server, or Optuna's gRPC proxy before either of them."""

import hashlib
import logging
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from src.core.errors import UsageError, UserError
from src.core.locks import at_origin, lock, sqlite_file
from src.tracking.addresses import database_errors_as_user_errors, first_line_without_password

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, GrpcStorageProxy

T = TypeVar("T")
PROXY = "grpc://"
# SQLite's own limit is 5 s, which the searches of several models that share a file can exceed on a slow disk.
_WAIT_FOR_SQLITE_S = 60
# A database server that is started anew, or a network that comes back, within this time costs no trial.
_WAIT_FOR_SERVER_S = 600.0
_WAIT_FOR_PROXY_S = 30
_LONGEST_PAUSE_S = 10.0
_OPTION, _ADDRESSES = "--storage", "an SQLAlchemy URL or grpc://HOST:PORT"
_TAKES = f"{_OPTION} takes {_ADDRESSES}"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetryPolicy:
    """Tries again, for `limit_s` seconds, what a storage failed to do; nothing is tried again with a limit of 0."""

    where: str
    limit_s: float

    @staticmethod
    def of(url: str) -> "RetryPolicy":
        """A file fails for good, a server may come back."""
        database = sqlite_file(url)
        # The URL of a server may hold a password, so it is not repeated.
        return RetryPolicy(str(database), 0) if database else RetryPolicy("on the server", _WAIT_FOR_SERVER_S)

    def __call__(self, operation: Callable[[], T]) -> T:
        """The operation's result; it may be done twice, where only its answer was lost.

        Raises:
            UserError: the storage still fails.
        """
        begun_s, pause_s = time.monotonic(), 0.1
        while True:
            try:
                return operation()
            except _storage_errors() as error:
                if time.monotonic() - begun_s >= self.limit_s:
                    raise UserError(f"the storage of studies {self.where} fails: {_why(error)}") from error
                if 1 < pause_s < 2:  # once
                    _log.warning("the storage of studies does not answer: waiting for it")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def open_storage(url: str, limit_s: float = 0) -> "BaseStorage":
    """Open a storage by its SQLAlchemy URL, or grpc://HOST:PORT; a missing SQLite file is made, with its folder.

    Args:
        url: where it is.
        limit_s: how long to wait for a server that is known to be there, and does not answer now.

    Raises:
        UsageError: it is no such URL.
        UserError: it cannot be opened.
    """
    from optuna.storages import RDBStorage, get_storage

    # Of a server that goes away within a query it warns with the whole of the query; `RetryPolicy` says it in a line.
    logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)
    if url.startswith(PROXY):
        return _proxy(url, limit_s)
    url = at_origin(url)
    database = sqlite_file(url)
    if url.startswith("sqlite") and (database is None or database.name in ("", ":memory:")):
        raise UsageError(f"{_TAKES}: of SQLite's, that of a file, such as sqlite:///studies.db")
    with _opening(url):
        if database is None:
            # A connection that a restart of the server has cut is found out before it is used.
            found = partial(RDBStorage, url, engine_kwargs={"pool_pre_ping": True})
            return get_storage(RetryPolicy("on the server", limit_s)(found) if limit_s else found())
        # Two processes that both find no tables would both make them, and the second would fail.
        with lock(database.with_name(f"{database.name}.lock")):
            return get_storage(RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _WAIT_FOR_SQLITE_S}}))


@contextmanager
def remote_url(url: str, host: str) -> Iterator[str]:
    """A URL by which processes on other machines reach a storage: a server's own, else a proxy's on `host`.

    The proxy asks for no password: `host` must be an address that only the cluster reaches.
    """
    if sqlite_file(url) is None:
        yield url
        return
    from optuna.storages import run_grpc_proxy_server

    storage, port = open_storage(url), _free_port(host)
    with warnings.catch_warnings():
        _silence_grpc()
        # Its thread ends with the process: Optuna gives no way to end it before.
        serving = {"storage": storage, "host": host, "port": port}
        threading.Thread(target=run_grpc_proxy_server, kwargs=serving, daemon=True).start()
        address = f"{PROXY}{host}:{port}"
        _proxy(address).close()
    yield address


@contextmanager
def postgres_lock(url: str, study: str) -> Iterator[None]:
    """Hold a study on a PostgreSQL server, so that no command on another machine runs the same trials.

    The server keeps the lock for as long as the connection lives; started anew, it has forgotten. Other storages need
    none: a file is locked on its machine, and a proxy is somebody's who has locked it.

    Raises:
        UserError: another process holds it.
    """
    if not url.startswith("postgresql"):
        yield
        return
    from sqlalchemy import NullPool, create_engine, text

    key = int.from_bytes(hashlib.sha256(study.encode()).digest()[:8], signed=True)
    # Nothing is rolled back in the end: by then the server may have been started anew and know nothing of it.
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "pool_reset_on_return": None}
    with _opening(url):
        connection = create_engine(url, poolclass=NullPool, **options).connect()
    with closing(connection):
        if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}):
            raise UserError(f"another process is running the study {study} on this storage; wait or stop it")
        yield


def _opening(url: str) -> AbstractContextManager[None]:
    return database_errors_as_user_errors(url, "the storage of studies", _OPTION, _ADDRESSES)


def _proxy(url: str, limit_s: float = 0) -> "GrpcStorageProxy":
    from optuna.storages import GrpcStorageProxy

    host, colon, port = url.removeprefix(PROXY).rstrip("/").rpartition(":")
    if "@" in url:
        raise UsageError(f"{_TAKES}: a proxy takes no password")
    if not colon or not port.isdigit():
        raise UsageError(f"--storage {url}: a proxy is named grpc://HOST:PORT")
    with warnings.catch_warnings():
        _silence_grpc()
        proxy = GrpcStorageProxy(host=host, port=int(port))
    try:
        proxy.wait_server_ready(timeout=limit_s or _WAIT_FOR_PROXY_S)
    except ConnectionError as error:
        raise UserError(f"no storage proxy answers at {host}:{port}") from error
    return proxy


def _storage_errors() -> tuple[type[Exception], ...]:
    from grpc import RpcError  # type: ignore[import-untyped] # it has no stubs of its own
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DBAPIError

    return StorageInternalError, DBAPIError, RpcError


def _silence_grpc() -> None:
    # Read when gRPC is first imported, which otherwise writes a line whenever another program is started.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from optuna.exceptions import ExperimentalWarning

    warnings.simplefilter("ignore", ExperimentalWarning)


def _free_port(host: str) -> int:
    with closing(socket.socket()) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _why(error: Exception) -> str:
    """What Optuna and gRPC wrap, rather than the wrapping."""
    from grpc import RpcError

    said = error.details() if isinstance(error, RpcError) and hasattr(error, "details") else None
    return str(said) if said else first_line_without_password(error.__cause__ or error)
