"""Trials run by crews that fail, die and are told to stop, on a real study."""

import random
import time
from collections.abc import Callable
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

NO_MEMORY = Failure("out of memory", "out of memory: 8 GiB", unfit=True)
DIVERGED = Failure("the loss is no number", "the loss is no longer a number", unfit=True)
Script = Callable[[int], Failure | str | None]


def work_well(count: int) -> None:
    """Nothing goes wrong."""


@dataclass
class FakeWorker:
    """Ends trials as a script says of each, counted from 1: with a failure, by dying ("dies"), or well."""

    study: Study
    script: Script
    name: str = "w"
    count: int = 0

    def run_one(self) -> TrialResult:
        self.count += 1
        ticket = self.study.ask(self.name)
        found = self.script(self.count)
        if isinstance(found, Failure):
            ticket.set_failure(found.cause, found.reason, unfit=found.unfit)
            return TrialResult(ticket.number, self.name, "failed", failure=found)
        if found == "stops":
            raise StopRequested
        return TrialResult(
            ticket.number, self.name, "complete", (float(ticket.params["lr"]),), adapter={"a": b"weights"}
        )


@dataclass
class FakeCrew:
    """Workers that are all at work at once and are done in an order of chance."""

    study: Study
    size: int
    script: Script = work_well
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    at_work: dict[str, int] = field(default_factory=dict)
    most: int = 0
    born: int = 0

    @property
    def busy(self) -> int:
        return len(self.at_work)

    def begin(self) -> None:
        self.born += 1
        self.at_work[f"w{self.born}"] = self.study.ask(f"w{self.born}").number
        self.most = max(self.most, self.busy)

    def next(self, timeout_s: float) -> TrialResult | WorkerDied | None:
        name = self.chance.choice(list(self.at_work))
        number = self.at_work.pop(name)
        if self.script(number) == "dies":
            return WorkerDied(name, "killed by signal 9")
        return TrialResult(number, name, "complete", (0.5,))

    def replace(self, name: str) -> None:
        raise AssertionError

    def close(self) -> None:
        self.at_work.clear()


URL = "sqlite:///studies.db"
SHELF = PendingAdapters(Path("trials"))


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


def solo(study: Study, script: Script = work_well) -> StudyRunner:
    return StudyRunner(study, LocalWorkerPool(FakeWorker(study, script)), SHELF, StopSignal())


def states(study: Study) -> list[str]:
    return [trial.state for trial in study.trials()]


def by_state(study: Study, state: str) -> list[TrialRecord]:
    return [trial for trial in study.trials() if trial.state == state]


@pytest.mark.parametrize("size", [1, 2, 4, 9])
def test_a_crew_runs_as_many_trials_as_are_asked_for_and_no_more(study: Study, size: int) -> None:
    crew = FakeCrew(study, size)
    StudyRunner(study, crew, SHELF, StopSignal()).run(6)
    assert states(study) == ["complete"] * 6
    assert crew.most == min(size, 6)
    StudyRunner(study, crew, SHELF, StopSignal()).run(6)
    assert len(study.trials()) == 6


def test_the_trial_of_a_worker_that_dies_is_run_again(study: Study) -> None:
    StudyRunner(study, FakeCrew(study, 2, lambda number: "dies" if number == 1 else None), SHELF, StopSignal()).run(5)
    assert len(study.finished()) == 5
    (lost,) = by_state(study, "failed")
    (again,) = (trial for trial in study.trials() if trial.attrs.get("retry_of") == lost.number)
    assert (lost.reason, again.state, again.params) == ("interrupted", "complete", lost.params)


def test_settings_that_kill_every_worker_are_given_up(study: Study) -> None:
    deadly: list[str] = []

    def script(number: int) -> str | None:
        params = str(study.trials()[number].params)
        if number == 1:
            deadly.append(params)
        return "dies" if params in deadly else None

    StudyRunner(study, FakeCrew(study, 3, script), SHELF, StopSignal()).run(12)
    assert len(study.finished()) == 12
    dead = [trial for trial in study.trials() if str(trial.params) in deadly]
    assert [trial.state for trial in dead] == ["failed"] * MOST_DEATHS
    assert "3 workers died of it, for lack of memory perhaps: killed by signal 9" in dead[-1].reason


def test_failures_do_not_count_and_the_search_goes_on(study: Study) -> None:
    solo(study, lambda count: NO_MEMORY if count in (2, 3, 5) else None).run(4)
    assert states(study) == ["complete", "failed", "failed", "complete", "failed", "complete", "complete"]
    assert {trial.cause for trial in by_state(study, "failed")} == {"out of memory"}


def test_three_failures_in_a_row_for_one_cause_end_the_search_with_it(study: Study) -> None:
    with pytest.raises(
        UserError, match=r"3 trials in a row failed for the same cause: out of memory \(out of memory: 8"
    ):
        solo(study, lambda count: NO_MEMORY if count > 1 else None).run(9)
    assert states(study) == ["complete", "failed", "failed", "failed"]


def test_failures_for_several_causes_do_not_end_it(study: Study) -> None:
    turns = [NO_MEMORY, NO_MEMORY, DIVERGED, DIVERGED, NO_MEMORY, None]
    solo(study, lambda count: turns[count - 1]).run(1)
    assert states(study) == ["failed"] * 5 + ["complete"]


def test_settings_that_do_not_fit_are_a_broken_constraint_to_the_sampler_and_others_are_not(study: Study) -> None:
    turns = [NO_MEMORY, Failure("KeyError: 'x'", "KeyError: 'x'"), None]
    solo(study, lambda count: turns[count - 1]).run(1)
    unfit, odd, fine = study.raw.get_trials()
    assert [trial.state.name for trial in (unfit, odd, fine)] == ["PRUNED", "FAIL", "COMPLETE"]
    assert [sum(trial.constraints.values()) for trial in (unfit, odd, fine)] == [1.0, 0, 0]


def test_the_sampler_learns_to_avoid_what_does_not_fit(study: Study) -> None:
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
        found = open_study(URL, plan)
        for _ in range(60):
            ticket = found.ask()
            large = int(ticket.params["rank"]) >= 16
            if large and unfit:
                ticket.set_failure("out of memory", "out of memory", unfit=True)
                found.fail(ticket.number)
            elif large:
                found.fail(ticket.number, "out of memory")  # a failure that teaches nothing
            else:
                found.tell(ticket.number, 0.5)
        later = found.trials()[20:]
        return sum(int(trial.params["rank"]) >= 16 for trial in later) / len(later)

    assert share_of_large(unfit=True) < share_of_large(unfit=False) / 2


def test_a_search_that_is_told_to_stop_queues_what_it_ran(study: Study) -> None:
    with pytest.raises(StopRequested):
        solo(study, lambda count: "stops" if count == 2 else None).run(4)
    assert states(study) == ["complete", "failed", "waiting"]
    assert [trial.reason for trial in study.trials()] == ["", "interrupted", ""]
    solo(study).run(4)
    assert states(study) == ["complete", "failed", "complete", "complete", "complete"]
    assert study.trials()[2].params == study.trials()[1].params


def test_no_trial_is_begun_when_time_is_over(study: Study) -> None:
    driver = solo(study)
    driver.deadline_s = time.time() + 3600
    driver.run(2)
    driver.deadline_s = time.time()
    driver.run(9)
    assert states(study) == ["complete"] * 2


def test_a_process_whose_gpu_has_failed_says_so_and_the_next_one_goes_on(study: Study) -> None:
    broken = Failure("the GPU failed", "CUDA error: device-side assert triggered", fatal=True)
    driver = solo(study, lambda count: broken)
    with pytest.raises(RestartRequired):
        driver.run(2)
    assert states(study) == ["failed"]
    follower = solo(study, lambda count: broken)
    follower.causes = driver.causes
    with pytest.raises(RestartRequired):
        follower.run(2)
    last = solo(study, lambda count: broken)
    last.causes = follower.causes
    with pytest.raises(UserError, match="3 trials in a row failed for the same cause: the GPU failed"):
        last.run(2)


def test_an_adapter_is_kept_before_its_trial_counts_as_finished(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = solo(study)

    def die(number: int, *values: float) -> None:
        assert driver.shelf.find(number) is not None
        raise UserError("the storage is gone")

    monkeypatch.setattr(study, "tell", die)
    with pytest.raises(UserError, match="the storage is gone"):
        driver.run(1)
    assert states(study) == ["failed", "waiting"]
    folder = driver.shelf.find(0)
    assert folder is not None
    assert (folder / "a").read_bytes() == b"weights"


def test_a_trial_that_nobody_runs_is_run(study: Study) -> None:
    crew = FakeCrew(study, 2)
    lost = study.ask("somebody")
    orphan: list[int] = []
    begin = crew.begin

    def begin_after_a_slip() -> None:
        if not orphan:  # drawn, but the answer never came
            orphan.append(study.ask("w0").number)
        begin()

    crew.begin = begin_after_a_slip  # type: ignore[method-assign]
    StudyRunner(study, crew, SHELF, StopSignal()).run(4)
    assert len(study.finished()) == 4
    assert not by_state(study, "running")
    assert {trial.reason for trial in study.trials() if trial.number in (lost.number, orphan[0])} == {"interrupted"}
