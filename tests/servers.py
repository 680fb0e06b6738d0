"""Servers that the tests start and throw away."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

OWNER = "tests"
# No network, hence no port to be taken. Nothing here outlives the machine, so nothing waits for its disk.
SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
fsync = off
"""


class Postgres:
    """A PostgreSQL server with its data and its socket in one folder; not running until `start`."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self._programs = programs
        self._data = folder / "data"
        self._as_owner = _as_owner()
        os.chown(folder, self._as_owner.get("user", -1), self._as_owner.get("group", -1))
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run("initdb", "--pgdata", str(self._data), "--username", OWNER, *options)
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(SETTINGS.format(folder=folder))

    def url(self, database: str, driver: str = "postgresql+psycopg") -> str:
        """The address for SQLAlchemy; with `postgresql` for a driver, for psycopg itself."""
        return f"{driver}://{OWNER}@/{database}?host={self.folder}"

    def create(self, database: str) -> str:
        """Make an empty database and say its address for SQLAlchemy."""
        with psycopg.connect(self.url("postgres", "postgresql"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        return self.url(database)

    def start(self) -> None:
        """Run, and wait until queries are answered; nothing if it runs already."""
        if not self.running:
            self._control("start", "--log", str(self.folder / "log"))

    def stop(self) -> None:
        """Stop as in a crash: no connection is closed in good order, and what was committed is kept."""
        if self.running:
            self._control("stop", "--mode", "immediate")

    @property
    def running(self) -> bool:
        return (self._data / "postmaster.pid").exists()

    def _control(self, verb: str, *options: str) -> None:
        self._run("pg_ctl", verb, "--pgdata", str(self._data), "--wait", *options)

    def _run(self, program: str, *words: str) -> None:
        command = [str(self._programs / program), *words]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, **self._as_owner)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def postgres_server(programs: Path) -> Iterator[Postgres]:
    """A running PostgreSQL server of one's own, stopped and removed in the end whatever happens."""
    # Every user may enter /tmp, and a socket's path has 107 bytes at most, which pytest's own folders can exceed.
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
    """The folder of PostgreSQL's programs; without one the test is skipped, and under CI it fails."""
    programs = postgres_programs()
    if programs:
        return programs
    said = "no PostgreSQL server is installed (Debian's package: postgresql)"
    if os.environ.get("CI"):
        pytest.fail(said)
    pytest.skip(said)


def postgres_programs() -> Path | None:
    """The folder of the initdb on PATH, else the newest of those that Debian keeps out of it."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in versions), key=lambda path: float(path.parent.name), default=None)


def _as_owner() -> dict[str, Any]:
    """How `subprocess` starts a program of PostgreSQL, which refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = users.get("postgres") or users["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
