"""Storages: a file, a server, and a proxy in front of either; refusals, retries and locks."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from src.core.errors import StopRequested, UsageError, UserError
from src.search import storage
from src.search.storage import RetryPolicy, open_storage, remote_url, study_lock
from src.search.study import Study, join_study, open_study
from tests.ports import free_port
from tests.search.light import plan
from tests.servers import Postgres
from tests.warm import WarmPython

T = TypeVar("T")
PASSWORD = "correct-horse"
CLIENTS = 3
DRAWS = 5


@pytest.fixture
def running(postgres: Postgres) -> Iterator[Postgres]:
    """The database server. It is started again after a test that stops it."""
    yield postgres
    postgres.start()


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("nonsense", UsageError, "--storage takes an SQLAlchemy URL or grpc://HOST:PORT: Could not parse"),
        ("postgres://u:{}@h/db", UsageError, "Can't load plugin: sqlalchemy.dialects:postgres"),
        ("mysql://u:{}@h/db", UsageError, "Failed to import DB access module"),
        ("postgresql://u:{}@h:port/db", UsageError, "password is not percent-encoded"),
        ("postgresql://u:{}:5432/db", UsageError, "password is not percent-encoded"),
        ("sqlite://", UsageError, "that of a file, such as sqlite:///studies.db"),
        ("sqlite:///", UsageError, "that of a file"),
        ("sqlite:///:memory:", UsageError, "that of a file"),
        ("grpc://host", UsageError, "a proxy is named grpc://HOST:PORT"),
        ("grpc://host:port", UsageError, "a proxy is named grpc://HOST:PORT"),
        ("grpc://u:{}@host:13000", UsageError, "a proxy takes no password"),
        ("postgresql://u:{}@127.0.0.1:{port}/db", UserError, "on the server cannot be opened: .* refused"),
        ("postgresql://u:{}@/db?host=/nowhere", UserError, "on the server cannot be opened: .* No such file"),
        ("grpc://127.0.0.1:{port}", UserError, r"no storage proxy answers at 127\.0\.0\.1:\d+"),
    ],
)
def test_wrong_url_is_refused(url: str, kind: type[UserError], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_WAIT_FOR_PROXY_S", 0.2)
    given = url.format(PASSWORD, port=free_port())
    with pytest.raises(UserError, match=message) as refused:
        open_study(given, plan("clip"))
    assert (type(refused.value), str(refused.value).count("\n")) == (kind, 0)
    assert not any(part in str(refused.value) for part in (PASSWORD, "correct", "horse"))
    if url.startswith(("postgresql", "sqlite")):
        with pytest.raises(UserError, match=message) as refused, study_lock(given, "clip"):
            pass
        assert (type(refused.value), PASSWORD in str(refused.value)) == (kind, False)


def test_missing_database_is_refused(postgres: Postgres) -> None:
    with pytest.raises(UserError, match=r'cannot be opened: .* database "nowhere" does not exist'):
        open_storage(postgres.url("nowhere"))


WORK = """
import sys
from src.search.study import join_study
from tests.search.light import LightWorker, plan
study = join_study(sys.argv[1], plan("clip"))
while study.remaining(int(sys.argv[2])):
    done = LightWorker(study, sys.argv[3]).run_one()
    study.tell(done.number, 0.5)
"""


HOLD = """
import sys, time
from src.search.storage import study_lock
with study_lock(sys.argv[1], sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


class Start(Protocol):
    def __call__(self, code: str, *words: object) -> "subprocess.Popen[str]": ...


@pytest.fixture
def start(repo_root: Path) -> Iterator[Start]:
    """Start Python processes in the repository's root, and end them with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *words: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", code, *map(str, words)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=repo_root, text=True, stdout=pipe, stderr=pipe))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_processes_share_a_study(tmp_path: Path, repo_root: Path, warm_python: WarmPython) -> None:
    """On a file behind a proxy. Workers of `test_many.py` share studies on a server."""
    url = f"sqlite:///{tmp_path}/studies.db"
    study = open_study(url, plan("clip"))
    with remote_url(url, "127.0.0.1") as address:
        assert address.startswith("grpc://127.0.0.1:")
        (tmp_path / "work.py").write_text(WORK)
        environment = {"PYTHONPATH": str(repo_root)}
        names = ("left", "right")
        workers = [warm_python.start(tmp_path, "work", address, "10", name, environment=environment) for name in names]
        assert [worker.wait() for worker in workers] == [(0, "")] * 2
    trials = study.trials()
    assert len(trials) in (10, 11)  # a worker that looked while the tenth trial ran began another one
    assert {(trial.state, trial.epochs) for trial in trials} == {("complete", 3)}
    assert {trial.attrs["worker"] for trial in trials} == {"left", "right"}
    assert len({str(trial.params) for trial in trials}) == len(trials)


def test_waiting_trial_is_drawn_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    study = open_study(url, plan("clip"))
    for i in range(DRAWS * CLIENTS):
        study.enqueue({"rank": 4, "lr": 1e-5 * (i + 1)}, "")
    at_once = threading.Barrier(CLIENTS)

    def draw(client: Study) -> list[int]:
        numbers = []
        for _ in range(DRAWS):
            at_once.wait()
            numbers.append(client.ask().number)
        return numbers

    with remote_url(url, "127.0.0.1") as address, ThreadPoolExecutor(CLIENTS) as pool:
        clients = [join_study(address, plan("clip")) for _ in range(CLIENTS)]
        drawn = [number for numbers in pool.map(draw, clients) for number in numbers]
    assert sorted(drawn) == list(range(DRAWS * CLIENTS))


@pytest.mark.parametrize("kind", ["file", "server"])
def test_study_lock_lasts_until_death(request: pytest.FixtureRequest, tmp_path: Path, start: Start, kind: str) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    if kind == "server":
        url = request.getfixturevalue("postgres").create("held")
    holder = start(HOLD, url, "clip")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(UserError, match="is running the study clip on this storage"),
        study_lock(url, "clip"),
    ):
        pass
    with study_lock(url, "llava"):
        pass
    holder.kill()
    holder.communicate()
    within_a_second(lambda: hold(url))


def hold(url: str) -> None:
    with study_lock(url, "clip"):
        pass


def within_a_second(act: Callable[[], None]) -> None:
    """Retry: the server notices a lost connection after a moment."""
    for _ in range(20):
        try:
            return act()
        except UserError:
            time.sleep(0.05)
    return act()


def test_study_lock_survives_server_restart(running: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    url = running.create("anew")
    with study_lock(url, "clip"):
        running.stop()
        running.start()
    assert not caplog.records


def test_proxy_has_no_study_lock() -> None:
    with study_lock("grpc://nowhere:1", "clip"), study_lock("grpc://nowhere:1", "clip"):
        pass


class Storage:
    """An operation that fails some times, like a server that restarts."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls = 0

    def __call__(self) -> str:
        from sqlalchemy.exc import OperationalError

        self.calls += 1
        if self.calls <= self.failures:
            raise OperationalError("SELECT 'secret'", {}, ConnectionError("server closed the connection\nbadly"))
        return "done"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record pauses, and return from them at once."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(slept))
    return slept


def test_retry_pauses_grow(clock: list[float]) -> None:
    storage = Storage(failures=12)
    assert RetryPolicy("on the server", 600)(storage) == "done"
    assert storage.calls == 13
    assert clock == sorted(clock)
    assert clock[0] < 0.2
    assert clock[-1] == clock[-2] == 10


def test_retry_ends_after_limit(clock: list[float]) -> None:
    with pytest.raises(
        UserError, match=r"^the storage of studies on the server fails: .*server closed the connection$"
    ):
        RetryPolicy("on the server", 600)(Storage(failures=10**6))
    assert 600 <= sum(clock) < 620


def test_signal_ends_wait(clock: list[float]) -> None:
    def check() -> None:
        if len(clock) == 3:
            raise StopRequested

    with pytest.raises(StopRequested):
        RetryPolicy("on the server", 600, check)(Storage(failures=10**6))


def test_file_errors_are_final(clock: list[float]) -> None:
    storage = Storage(failures=1)
    with pytest.raises(UserError, match=r"the storage of studies a/studies\.db fails: "):
        RetryPolicy.of("sqlite:///a/studies.db")(storage)
    assert (storage.calls, clock) == (1, [])


class AnswersLost(RetryPolicy):
    """Does everything twice, as if the first answer were lost."""

    def __call__(self, operation: Callable[[], T]) -> T:
        operation()
        return operation()


def test_repeated_operations_count_once(tmp_path: Path) -> None:
    good = ({"rank": 4, "lr": 1e-3}, {"rank": 8, "lr": 1e-3})
    study = open_study(f"sqlite:///{tmp_path}/studies.db", plan("clip", initial_trials=good))
    study._retry = AnswersLost("on the server", 0)
    study.enqueue_initial_trials(2)
    assert [trial.state for trial in study.trials()] == ["waiting", "waiting"]
    trial = study.ask("w")
    trial.report(1, {"val_macro_f1": 0.5})
    study.tell(trial.number, 0.5)
    assert [(trial.state, trial.epochs) for trial in study.trials()] == [("running", 0), ("complete", 1)]
    assert [trial.number for trial in study.recover()] == [0]
    trials = study.trials()
    assert [(trial.state, trial.attrs.get("retry_of")) for trial in trials] == [
        ("failed", None),
        ("complete", None),
        ("waiting", 0),
    ]
    assert trials[2].params == trials[0].params


def test_other_errors_are_not_retried(clock: list[float]) -> None:
    def wrong() -> None:
        raise KeyError("trial 7")

    with pytest.raises(KeyError):
        RetryPolicy("on the server", 600)(wrong)
    assert clock == []


def test_only_joining_waits_for_server(running: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    url = running.create("joined")
    open_study(url, plan("clip"))
    running.stop()
    with pytest.raises(UserError, match="cannot be opened"):
        open_study(url, plan("clip"))
    joined: list[Study] = []
    thread = threading.Thread(target=lambda: joined.append(join_study(url, plan("clip"))), daemon=True)
    thread.start()
    while thread.is_alive() and not caplog.messages:
        time.sleep(0.05)
    assert caplog.messages == ["the storage of studies does not answer: waiting for it"]
    assert thread.is_alive() and not joined
    running.start()
    thread.join()
    (study,) = joined
    assert study.trials() == []
