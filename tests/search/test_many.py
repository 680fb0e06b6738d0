"""Covers: many workers on one study, in processes of Ray's that are killed."""

import errno
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from src.core.config import load_params
from src.core.errors import UsageError, UserError
from src.core.labels import TONE_LABELS
from src.core.signals import StopSignal
from src.search.adapters import PendingAdapters
from src.search.plan import StudyPlan, plan_of
from src.search.pool import WorkerDied, WorkerPool
from src.search.ray_pool import Cluster, RayWorkerPool, cluster, require_gpus
from src.search.runner import StudyRunner
from src.search.steering import Option, steer
from src.search.storage import remote_url
from src.search.study import Study, open_study
from src.search.trial import TrialRecord
from src.training.workspace import checkpoint_of, facts_of
from tests.search.light import ADAPTER, Hold, InProcesses, Process, Raising, nothing, open_light_worker, plan
from tests.search.logged import runs, trial_runs
from tests.search.warm import WarmCommand, hold_from, running, wait
from tests.servers import Postgres
from tests.warm import WarmPython

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shares(warm_python: WarmPython) -> Iterator[Cluster]:
    with warm_python.in_place(), cluster(None, 4, 0, None) as shares:
        yield shares


def search(
    shares: Cluster,
    url: str,
    plan: StudyPlan,
    size: int,
    total: int,
    folder: Path,
    epoch_s: float = 0.1,
    at_once: int = 1,
    during: Callable[[int], object] = nothing,
) -> None:
    with remote_url(url, shares.host) as address:
        make = partial(open_light_worker, url=address, plan=plan, epoch_s=epoch_s, during=during)
        pool = InProcesses(RayWorkerPool(make, size, shares))
        adapters = PendingAdapters(folder)
        StudyRunner(open_study(url, plan), pool, adapters, StopSignal(), trials_at_once=at_once).run(total)


class Killer(threading.Thread):
    """Kills the worker of the first trial numbered `least` or higher, after the trial's first epoch."""

    def __init__(self, study: Study, least: int) -> None:
        super().__init__(daemon=True)
        self._study = study
        self._least = least
        self.victim: TrialRecord | None = None

    def run(self) -> None:
        while self.victim is None:
            time.sleep(0.02)
            for trial in self._study.trials()[self._least :]:
                if trial.state == "running" and trial.epochs:
                    self.victim = trial
                    os.kill(int(trial.attrs["process"].removeprefix(f"{socket.gethostname()}:")), signal.SIGKILL)
                    break


def test_killed_worker_costs_only_time(shares: Cluster, postgres: Postgres, tmp_path: Path) -> None:
    """On a server. The command below searches with workers on a file behind a proxy."""
    size, total, url = 3, 8, postgres.create("many")
    study = open_study(url, plan("many"))
    killer = Killer(study, size)
    killer.start()
    search(shares, url, plan("many"), size, total, tmp_path / "trials")
    trials = study.trials()
    (lost,) = (trial for trial in trials if trial.state == "failed")
    assert killer.victim is not None
    assert (lost.number, lost.reason) == (killer.victim.number, "interrupted")
    (again,) = (trial for trial in trials if trial.attrs.get("retry_of") == lost.number)
    assert (again.state, again.params) == ("complete", lost.params)
    assert len(study.finished()) == total
    assert len({str(trial.params) for trial in study.finished()}) == total
    assert {trial.state for trial in trials} == {"complete", "failed"}
    assert again.attrs["worker"] != lost.attrs["worker"]
    for trial in study.finished():
        assert {path.name for path in (tmp_path / "trials" / str(trial.number)).iterdir()} == ADAPTER.keys()


def test_killed_workers_trials_run_again(shares: Cluster, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    study = open_study(url, plan("pairs"))
    killer = Killer(study, 2)
    killer.start()
    search(shares, url, plan("pairs"), 2, 9, tmp_path / "trials", at_once=2)
    trials = study.trials()
    lost = [trial for trial in trials if trial.state == "failed"]
    assert 1 <= len(lost) <= 2
    assert len({trial.attrs["worker"] for trial in lost}) == 1
    assert {trial.attrs.get("retry_of") for trial in trials} - {None} == {trial.number for trial in lost}
    assert len(study.finished()) == 9


def test_workers_wait_for_database_restart(shares: Cluster, postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.create("workers_anew")
    study = open_study(url, plan("many"))

    def outage() -> None:
        while not any(trial.state == "running" and trial.epochs for trial in study.trials()):
            time.sleep(0.02)
        postgres.stop()
        time.sleep(0.5)
        postgres.start()

    thread = threading.Thread(target=outage)
    thread.start()
    search(shares, url, plan("many"), 2, 8, tmp_path / "trials")
    thread.join()
    trials = study.trials()
    assert len(study.finished()) == 8
    assert len({str(trial.params) for trial in study.finished()}) == 8
    # A trial whose drawing was cut short may still wait when all eight are done.
    assert all(trial.finished or trial.reason == "interrupted" or trial.state == "waiting" for trial in trials)


@pytest.mark.parametrize("error", [UserError("no checkpoint"), OSError(errno.ENOSPC, "No space left on device")])
def test_worker_errors_are_raised_unchanged(shares: Cluster, error: Exception) -> None:
    pool = RayWorkerPool(partial(Raising, error=error), 1, shares)
    pool.submit()
    with pytest.raises(type(error)) as raised:
        next_result(pool)
    assert (type(raised.value), str(raised.value)) == (type(error), str(error))
    pool.close()


def test_waiting_workers_are_withdrawn(shares: Cluster) -> None:
    pool = RayWorkerPool(Process, 2, replace(shares, gpus=1))
    pool.submit()
    pool.submit()
    assert pool.wait_any(0.1) is None
    assert pool.withdraw(1) == ["worker-1"]
    assert (pool.busy, pool.idle, pool.num_spare) == (1, 1, 0)
    pool.close()
    pool = RayWorkerPool(Process, 2, shares)
    pool.submit()
    next_result(pool)
    pool.submit()
    assert pool.withdraw(1) == []
    pool.close()


def test_worker_is_kept_until_replaced(shares: Cluster) -> None:
    pool = RayWorkerPool(Process, 1, shares)
    process_ids = []
    for dismissed in (None, None, "worker-1"):
        if dismissed:
            pool.replace(dismissed)
        pool.submit()
        process_ids.append(next_result(pool))
    assert process_ids[0] == process_ids[1] != process_ids[2]
    pool.close()


def next_result(pool: WorkerPool[Any]) -> Any:
    """Return the pool's next result."""
    while (result := pool.wait_any(1)) is None:
        continue
    assert not isinstance(result, WorkerDied)
    return result


def test_missing_gpus_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    require_gpus(4, 0.5, 2, grows=False)
    with pytest.raises(UserError, match="need 4, and there are 2"):
        require_gpus(4, 1, 2, grows=False)
    with pytest.raises(UsageError, match="more than one GPU must be a whole number"):
        require_gpus(1, 1.5, 2, grows=True)
    require_gpus(4, 1, 2, grows=True)
    (message,) = caplog.messages
    assert "need 4, and there are 2" in message


TRIALS = 3


def test_stopped_ray_search_goes_on(repository: Path, warm: WarmCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    # The environment of a process shows who started it, even after it has detached itself.
    mark = str(uuid.uuid4())
    monkeypatch.setenv("MVSA_TEST", mark)
    words = ["--trials", str(TRIALS), "--workers", "2"]
    study = open_study(
        "sqlite:///outputs/studies.db",
        plan_of(load_params(), "clip", facts_of("clip", checkpoint_of(load_params(), "clip"), TONE_LABELS)),
    )
    hold_from(0)
    process = warm.start_held(*words)
    wait(lambda: len(running(study)) == 2, process)
    hold_from(2)
    wait(lambda: [trial.number for trial in running(study)] == [2], process)
    process.kill(signal.SIGTERM)
    output = process.output(128 + signal.SIGTERM)
    assert left_behind(mark) == []
    assert "Traceback" not in output
    this = f"python -m src.tune --model clip {' '.join(words)}"
    assert "stopped by SIGTERM" in output and this in output
    assert {run.info.status for run in runs()} <= {"FAILED", "FINISHED"}
    before = study.trials()
    assert [trial.state for trial in before] == ["complete", "complete", "failed", "waiting"]
    assert len({trial.attrs["process"] for trial in before[:2]}) == 2

    assert f"best of {TRIALS} trials" in warm.run(*words)
    assert left_behind(mark) == []
    trials = study.trials()
    assert trials[:3] == before[:3]
    assert [(trial.state, trial.params) for trial in trials[3:]] == [("complete", before[2].params)]
    assert sorted(trial_runs()) == [trial.number for trial in trials]
    for trial in trials:
        agree(trial, trial_runs()[trial.number])
    assert not list(Path("outputs/trials").glob("*/*"))


def left_behind(mark: str) -> list[str]:
    """Return the processes with a mark that still run after some seconds, and kill them."""
    marked: list[Path] = []
    for _ in range(50):
        others = (place for place in Path("/proc").glob("[0-9]*") if place.name != str(os.getpid()))
        marked = [place for place in others if bears(place, mark)]
        if not marked:
            return []
        time.sleep(0.1)
    names = [(place / "cmdline").read_text() for place in marked]
    for place in marked:
        os.kill(int(place.name), signal.SIGKILL)
    return names


def bears(place: Path, mark: str) -> bool:
    try:
        return f"MVSA_TEST={mark}".encode() in (place / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def agree(trial: TrialRecord, run: Any) -> None:
    """Check that the storage and MLflow agree about a trial."""
    assert run.info.status == {"complete": "FINISHED", "failed": "FAILED"}[trial.state]
    settings = {name: run.data.params[name] for name in trial.params}
    assert settings == {name: str(value) for name, value in trial.params.items()}
    if trial.state == "complete":
        assert run.data.metrics["best_val_macro_f1"] == pytest.approx(trial.value)
        assert (Path(run.info.artifact_uri) / "adapter" / "head.safetensors").is_file()


def test_steered_search_survives_killed_worker(shares: Cluster, tmp_path: Path) -> None:
    """A person sends every request while two workers run, and one of the workers is killed during the pause."""
    url = f"sqlite:///{tmp_path}/studies.db"
    study = open_study(url, plan("many"))

    def ask(option: Option, value: str | int = "") -> None:
        steer(url, plan("many"), "clip", option, value)

    hold = Hold(tmp_path / "hold")
    hold.file.touch()

    def search_in_thread() -> None:
        search(shares, url, plan("many"), 2, 4, tmp_path / "trials", during=hold)

    thread = threading.Thread(target=search_in_thread)
    thread.start()
    wait(lambda: len(running(study)) == 2)
    both = running(study)
    stopped, killed = (trial.number for trial in both)
    ask("--pause")
    ask("--stop-trial", stopped)
    os.kill(int(both[1].attrs["process"].removeprefix(f"{socket.gethostname()}:")), signal.SIGKILL)
    ask("--try", "rank=4,lr=3e-3")
    ask("--clone", f"{killed},lr=2e-3")
    ask("--more", 1)
    hold.file.unlink()
    while any(trial.state == "running" for trial in study.trials()):
        time.sleep(0.05)
    assert len([trial for trial in study.trials() if trial.state == "waiting"]) == 3
    ask("--resume")
    thread.join()
    trials = study.trials()
    assert [trials[stopped].state, trials[killed].reason] == ["pruned", "interrupted"]
    assert len(study.finished()) == 5
    by_request = {trial.attrs["request"].split()[0]: trial for trial in trials if "request" in trial.attrs}
    assert by_request["--try"].params == {"rank": 4, "lr": 3e-3}
    assert by_request["--clone"].params == {**trials[killed].params, "lr": 2e-3}
    (again,) = (trial for trial in trials if trial.attrs.get("retry_of") == killed)
    assert again.params == trials[killed].params
    others = [trial for trial in trials if trial.number not in (stopped, killed)]
    assert {trial.state for trial in others} == {"complete"}
