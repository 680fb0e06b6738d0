"""Covers: the PostgreSQL server of `tests/servers.py`."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests import servers
from tests.servers import Postgres


@pytest.fixture
def running(postgres: Postgres) -> Iterator[Postgres]:
    """The server, which runs again after the test."""
    yield postgres
    postgres.start()


def test_database_answers_both_drivers(postgres: Postgres) -> None:
    engine = create_engine(postgres.create("answers"))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 6 * 7")).scalar_one() == 42
    engine.dispose()
    with psycopg.connect(postgres.url("answers", "postgresql")) as direct:
        assert direct.execute("SELECT current_database()").fetchone() == ("answers",)


def test_databases_share_no_tables(postgres: Postgres) -> None:
    for database in ("left", "right"):
        engine = create_engine(postgres.create(database))
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE trials (number integer)"))
        engine.dispose()


def test_restart_keeps_committed_data(running: Postgres) -> None:
    engine = create_engine(running.create("kept"), pool_pre_ping=True)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE trials AS SELECT 7 AS number"))
    with engine.connect() as open_one:
        running.stop()
        with pytest.raises(OperationalError):
            open_one.execute(text("SELECT number FROM trials"))
    with pytest.raises(OperationalError):
        engine.connect()
    running.start()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT number FROM trials")).scalar_one() == 7
    engine.dispose()


def test_start_and_stop_are_idempotent(running: Postgres) -> None:
    running.stop()
    running.stop()
    assert not running.running
    running.start()
    running.start()
    running.create("after")


def test_failed_test_removes_server() -> None:
    started: list[Postgres] = []

    def failing_test() -> None:
        with servers.postgres_server(servers.needed_postgres_programs()) as server:
            started.append(server)
            raise KeyError

    with pytest.raises(KeyError):
        failing_test()
    assert not started[0].folder.exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(started[0].url("postgres", "postgresql"))


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_missing_server_fails_under_ci(monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(servers, "postgres_programs", lambda: None)
    with pytest.raises(outcome, match="no PostgreSQL"):
        servers.needed_postgres_programs()


def test_programs_on_path_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "initdb"
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert servers.postgres_programs() == tmp_path.resolve()
