"""The runner on a real study, with workers that fail, die and stop."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from src.core.config import Range
from src.core.errors import StopRequested, UserError
from src.core.signals import StopSignal
from src.search.adapters import PendingAdapters
from src.search.plan import StudyPlan
from src.search.pool import LocalWorkerPool, RestartRequired, WorkerDied
from src.search.runner import MOST_DEATHS, StudyRunner
from src.search.study import Study, open_study
from src.search.trial import TrialRecord
from src.search.worker import TrialResult
from src.training.failures import Failure
from tests.search.light import OneByOne

NO_MEMORY = Failure("out of memory", "out of memory: 8 GiB", unfit=True)
DIVERGED = Failure("the loss is no number", "the loss is no longer a number", unfit=True)
Script = Callable[[int], Failure | str | None]


def work_well(count: int) -> None:
    """End every trial well."""


@dataclass
class FakeWorker(OneByOne):
    """Ends trials as a script says, by their count from 1: with a failure, by a stop ("stops"), or well."""

    study: Study
    script: Script
    name: str = "w"
    count: int = 0

    def run_one(self) -> TrialResult:
        self.count += 1
        trial = self.study.ask(self.name)
        end = self.script(self.count)
        if isinstance(end, Failure):
            trial.set_failure(end.cause, end.reason, unfit=end.unfit)
            return TrialResult(trial.number, self.name, "failed", failure=end)
        if end == "stops":
            raise StopRequested
        return TrialResult(trial.number, self.name, "complete", (float(trial.params["lr"]),), adapter={"a": b"weights"})


@dataclass
class _Tasks:
    """The tasks of a pool by worker: the number of the trial, or None while the worker waits for a slot."""

    study: Study
    size: int
    tasks: dict[str, int | None] = field(default_factory=dict, kw_only=True)

    @property
    def busy(self) -> int:
        return len(self.tasks)

    @property
    def idle(self) -> int:
        return self.size - self.busy

    def replace(self, name: str) -> None:
        raise AssertionError

    def close(self) -> None:
        self.tasks.clear()


@dataclass
class FakePool(_Tasks):
    """Workers that are all busy at once, and end in a random order."""

    script: Script = work_well
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    started_s: dict[str, float] = field(default_factory=dict)
    max_busy: int = 0

    # Each task has a new worker.
    num_spare = 0

    def submit(self, count: int = 1) -> None:
        assert count == 1
        name = f"w{len(self.started_s)}"
        self.started_s[name] = time.monotonic()
        self.tasks[name] = self.study.ask(name).number
        self.max_busy = max(self.max_busy, self.busy)

    def wait_any(self, timeout_s: float) -> TrialResult | WorkerDied | None:
        name = self.rng.choice(list(self.tasks))
        number = self.tasks.pop(name)
        assert number is not None
        if self.script(number) == "dies":
            return WorkerDied(name, "killed by signal 9", self.started_s[name])
        return TrialResult(number, name, "complete", (0.5,))

    def withdraw(self, count: int) -> list[str]:
        return []


@dataclass
class CrowdedPool(_Tasks):
    """Workers of which only as many are started as there are slots. A started worker keeps its slot."""

    slots: int
    started: set[str] = field(default_factory=set)
    num_asked: int = 0

    @property
    def num_spare(self) -> int:
        return len(self.started - set(self.tasks))

    def submit(self, count: int = 1) -> None:
        spare = sorted(self.started - set(self.tasks))
        self.num_asked += not spare
        name = spare[0] if spare else f"w{self.num_asked}"
        if not spare and len(self.started) < self.slots:
            self.started.add(name)
        self.tasks[name] = self.study.ask(name).number if name in self.started else None

    def wait_any(self, timeout_s: float) -> TrialResult | None:
        for name, number in self.tasks.items():
            if number is not None:
                del self.tasks[name]
                return TrialResult(number, name, "complete", (0.5,))
        return None

    def withdraw(self, count: int) -> list[str]:
        waiting = [name for name, number in self.tasks.items() if number is None][:count]
        for name in waiting:
            del self.tasks[name]
        return waiting


URL = "sqlite:///studies.db"
PENDING_ADAPTERS = PendingAdapters(Path("trials"))


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    plan = StudyPlan(
        name="clip",
        space={"lr": Range(low=1e-5, high=1e-2, scale="log")},
        seed=1,
        startup_trials=3,
        pruner="none",
        min_epochs=1,
        max_epochs=3,
    )
    return open_study(URL, plan)


def test_trials_at_once_draw_together(study: Study) -> None:
    drawn: list[int] = []

    class Together(FakeWorker):
        def run(self, count: int) -> Iterator[TrialResult]:
            drawn.append(count)
            trials = [self.study.ask(self.name) for _ in range(count)]
            for trial in trials:
                yield TrialResult(trial.number, self.name, "complete", (0.5,), adapter={"a": b"weights"})

    pool = LocalWorkerPool(Together(study, work_well))
    StudyRunner(study, pool, PENDING_ADAPTERS, StopSignal(), trials_at_once=3).run(4)
    assert drawn == [3, 1]
    assert states(study) == ["complete"] * 4


def test_trials_of_a_killed_process_run_alone(study: Study) -> None:
    drawn: list[int] = []

    class Together(FakeWorker):
        def run(self, count: int) -> Iterator[TrialResult]:
            drawn.append(count)
            return (self.run_one() for _ in range(count))

    pool = LocalWorkerPool(Together(study, work_well))
    StudyRunner(study, pool, PENDING_ADAPTERS, StopSignal(), trials_at_once=3, num_suspects=2).run(5)
    assert drawn == [1, 1, 3]


def local_runner(study: Study, script: Script = work_well, causes: list[str] | None = None) -> StudyRunner:
    pool = LocalWorkerPool(FakeWorker(study, script))
    return StudyRunner(study, pool, PENDING_ADAPTERS, StopSignal(), failure_causes=[] if causes is None else causes)


def states(study: Study) -> list[str]:
    return [trial.state for trial in study.trials()]


def by_state(study: Study, state: str) -> list[TrialRecord]:
    return [trial for trial in study.trials() if trial.state == state]


@pytest.mark.parametrize("size", [1, 2, 4, 9])
def test_pool_runs_exactly_total_trials(study: Study, size: int) -> None:
    pool = FakePool(study, size)
    StudyRunner(study, pool, PENDING_ADAPTERS, StopSignal()).run(6)
    assert states(study) == ["complete"] * 6
    assert pool.max_busy == min(size, 6)
    StudyRunner(study, pool, PENDING_ADAPTERS, StopSignal()).run(6)
    assert len(study.trials()) == 6


def test_dead_workers_trial_runs_again(study: Study) -> None:
    StudyRunner(
        study, FakePool(study, 2, lambda number: "dies" if number == 1 else None), PENDING_ADAPTERS, StopSignal()
    ).run(5)
    assert len(study.finished()) == 5
    (lost,) = by_state(study, "failed")
    (again,) = (trial for trial in study.trials() if trial.attrs.get("retry_of") == lost.number)
    assert (lost.reason, again.state, again.params) == ("interrupted", "complete", lost.params)


def test_deadly_settings_are_given_up(study: Study) -> None:
    deadly: list[str] = []

    def script(number: int) -> str | None:
        params = str(study.trials()[number].params)
        if number == 1:
            deadly.append(params)
        return "dies" if params in deadly else None

    StudyRunner(study, FakePool(study, 3, script), PENDING_ADAPTERS, StopSignal()).run(12)
    assert len(study.finished()) == 12
    dead = [trial for trial in study.trials() if str(trial.params) in deadly]
    assert [trial.state for trial in dead] == ["failed"] * MOST_DEATHS
    assert "killed by signal 9" in dead[-1].reason


def test_failures_do_not_count(study: Study) -> None:
    local_runner(study, lambda count: NO_MEMORY if count in (2, 3, 5) else None).run(4)
    assert states(study) == ["complete", "failed", "failed", "complete", "failed", "complete", "complete"]
    assert {trial.cause for trial in by_state(study, "failed")} == {"out of memory"}


def test_three_equal_failures_end_search(study: Study) -> None:
    with pytest.raises(UserError, match="out of memory: 8 GiB"):
        local_runner(study, lambda count: NO_MEMORY if count > 1 else None).run(9)
    assert states(study) == ["complete", "failed", "failed", "failed"]


def test_different_failures_end_nothing(study: Study) -> None:
    ends = [NO_MEMORY, NO_MEMORY, DIVERGED, DIVERGED, NO_MEMORY, None]
    local_runner(study, lambda count: ends[count - 1]).run(1)
    assert states(study) == ["failed"] * 5 + ["complete"]


def test_unfit_settings_break_constraint(study: Study) -> None:
    ends = [NO_MEMORY, Failure("KeyError: 'x'", "KeyError: 'x'"), None]
    local_runner(study, lambda count: ends[count - 1]).run(1)
    unfit, odd, fine = study.raw.get_trials()
    assert [trial.state.name for trial in (unfit, odd, fine)] == ["PRUNED", "FAIL", "COMPLETE"]
    assert [sum(trial.constraints.values()) for trial in (unfit, odd, fine)] == [1.0, 0, 0]


@pytest.mark.slow
def test_sampler_avoids_unfit_settings(study: Study) -> None:
    def share_of_large(unfit: bool) -> float:
        plan = StudyPlan(
            name=f"unfit {unfit}",
            space={"rank": Range(low=1, high=128, scale="log2")},
            seed=1,
            startup_trials=8,
            pruner="none",
            min_epochs=1,
            max_epochs=1,
        )
        study = open_study(URL, plan)
        for _ in range(60):
            trial = study.ask()
            large = int(trial.params["rank"]) >= 16
            if large and unfit:
                trial.set_failure("out of memory", "out of memory", unfit=True)
                study.fail(trial.number)
            elif large:
                study.fail(trial.number, "out of memory")  # Optuna learns nothing from such a failure
            else:
                study.tell(trial.number, 0.5)
        later = study.trials()[20:]
        return sum(int(trial.params["rank"]) >= 16 for trial in later) / len(later)

    assert share_of_large(unfit=True) < share_of_large(unfit=False) / 2


def test_stopped_search_queues_running_trial(study: Study) -> None:
    with pytest.raises(StopRequested):
        local_runner(study, lambda count: "stops" if count == 2 else None).run(4)
    assert states(study) == ["complete", "failed", "waiting"]
    assert [trial.reason for trial in study.trials()] == ["", "interrupted", ""]
    local_runner(study).run(4)
    assert states(study) == ["complete", "failed", "complete", "complete", "complete"]
    assert study.trials()[2].params == study.trials()[1].params


def test_no_trial_begins_after_deadline(study: Study) -> None:
    runner = local_runner(study)
    runner.deadline_s = time.time() + 3600
    runner.run(2)
    runner.deadline_s = time.time()
    runner.run(9)
    assert states(study) == ["complete"] * 2


def test_spare_workers_run_what_waits(study: Study) -> None:
    pool = CrowdedPool(study, size=4, slots=2)
    StudyRunner(study, pool, PENDING_ADAPTERS, StopSignal()).run(9)
    assert states(study) == ["complete"] * 9
    assert pool.started == {"w1", "w2"}


@pytest.mark.parametrize("slots", [0, 1])
def test_no_worker_waits_after_deadline(study: Study, slots: int) -> None:
    pool = CrowdedPool(study, size=3, slots=slots)
    runner = StudyRunner(study, pool, PENDING_ADAPTERS, StopSignal(), deadline_s=time.time() + 0.2)
    runner.run(10_000)
    assert bool(study.finished()) == bool(slots)
    assert not pool.tasks


def test_deaths_of_one_moment_count_once(study: Study) -> None:
    pool = FakePool(study, 8, lambda number: "dies" if number < 8 else None)
    StudyRunner(study, pool, PENDING_ADAPTERS, StopSignal()).run(9)
    assert len(study.finished()) == 9
    assert len(by_state(study, "failed")) == 8


def test_death_of_every_worker_ends_search(study: Study) -> None:
    with pytest.raises(UserError, match="a worker died"):
        StudyRunner(study, FakePool(study, 8, lambda number: "dies"), PENDING_ADAPTERS, StopSignal()).run(9)


def test_gpu_failures_count_across_processes(study: Study) -> None:
    broken = Failure("the GPU failed", "CUDA error: device-side assert triggered", fatal=True)
    causes: list[str] = []
    for num_failures in (1, 2):
        with pytest.raises(RestartRequired):
            local_runner(study, lambda count: broken, causes).run(2)
        assert causes == ["the GPU failed"] * num_failures
    with pytest.raises(UserError, match="the GPU failed"):
        local_runner(study, lambda count: broken, causes).run(2)
    assert states(study) == ["failed"] * 3


def test_adapter_is_saved_before_tell(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = local_runner(study)

    def die(number: int, *values: float) -> None:
        assert runner.pending_adapters.find(number) is not None
        raise UserError("the storage is gone")

    monkeypatch.setattr(study, "tell", die)
    with pytest.raises(UserError, match="gone"):
        runner.run(1)
    assert states(study) == ["failed", "waiting"]
    folder = runner.pending_adapters.find(0)
    assert folder is not None
    assert (folder / "a").read_bytes() == b"weights"


def test_orphaned_trials_are_recovered(study: Study) -> None:
    pool = FakePool(study, 2)
    lost = study.ask("an earlier runner")
    orphan: list[int] = []
    submit = pool.submit

    def submit_after_a_slip(count: int = 1) -> None:
        if not orphan:  # a worker drew it and never returned a result
            orphan.append(study.ask("w0").number)
        submit(count)

    pool.submit = submit_after_a_slip  # type: ignore[method-assign]
    StudyRunner(study, pool, PENDING_ADAPTERS, StopSignal()).run(4)
    assert len(study.finished()) == 4
    assert not by_state(study, "running")
    assert {trial.reason for trial in study.trials() if trial.number in (lost.number, orphan[0])} == {"interrupted"}
