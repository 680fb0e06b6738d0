"""A PostgreSQL server that tests start and remove."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

OWNER = "tests"
# A socket instead of a port, which another server might hold. The data is thrown away, so fsync only costs time.
SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
fsync = off
"""


class Postgres:
    """A PostgreSQL server with its data and socket in one folder. `start` runs it."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self._programs = programs
        self._data = folder / "data"
        user, group = _owner()
        os.chown(folder, user, group)
        # A program does it. For `subprocess` to do it Python would fork, and gRPC's handlers of a fork may then crash.
        self._as_owner = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"] if user >= 0 else []
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run("initdb", "--pgdata", str(self._data), "--username", OWNER, *options)
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(SETTINGS.format(folder=folder))

    def url(self, database: str, driver: str = "postgresql+psycopg") -> str:
        """Return a database's address for SQLAlchemy, or for psycopg with the driver `postgresql`."""
        return f"{driver}://{OWNER}@/{database}?host={self.folder}"

    def create(self, database: str) -> str:
        """Create an empty database. Return its address for SQLAlchemy."""
        with psycopg.connect(self.url("postgres", "postgresql"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        return self.url(database)

    def start(self) -> None:
        """Start the server and wait until it answers queries. Do nothing if it runs."""
        if not self.running:
            self._control("start", "--log", str(self.folder / "log"))

    def stop(self) -> None:
        """Stop as in a crash: connections break, committed data stays."""
        if self.running:
            self._control("stop", "--mode", "immediate")

    @property
    def running(self) -> bool:
        return (self._data / "postmaster.pid").exists()

    def _control(self, verb: str, *options: str) -> None:
        self._run("pg_ctl", verb, "--pgdata", str(self._data), "--wait", *options)

    def _run(self, program: str, *words: str) -> None:
        command = [*self._as_owner, str(self._programs / program), *words]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def postgres_server(programs: Path) -> Iterator[Postgres]:
    """Start a PostgreSQL server. Stop and remove it on exit, after errors too."""
    # All users may enter /tmp. pytest's folders can exceed the 107 bytes of a socket's path.
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    try:
        server = Postgres(programs, folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def needed_postgres_programs() -> Path:
    """Return the folder of PostgreSQL's programs. Without it, skip the test, or fail it under CI."""
    programs = postgres_programs()
    if programs:
        return programs
    message = "no PostgreSQL server is installed (Debian's package: postgresql)"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def postgres_programs() -> Path | None:
    """Return the folder of `initdb` on PATH, or the newest of Debian's folders outside of PATH."""
    initdb = shutil.which("initdb")
    if initdb:
        return Path(initdb).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in versions), key=lambda path: float(path.parent.name), default=None)


def _owner() -> tuple[int, int]:
    """Return the ids of user and group for PostgreSQL's programs, which refuse to run as root; else -1 for both."""
    if os.geteuid() != 0:
        return -1, -1
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = users.get("postgres") or users["nobody"]
    return user.pw_uid, user.pw_gid
