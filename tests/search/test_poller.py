"""Showing a study while it runs, by views that are slow and from a storage that does not always answer."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from src.core.errors import UserError
from src.search import poller as follower_module
from src.search.poller import StudyPoller
from src.search.study import Study, open_study
from src.search.trial import TrialRecord
from tests.search.light import LightWorker, plan


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return open_study(f"sqlite:///{tmp_path}/studies.db", plan("clip"))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "_LOOK_EVERY_S", 0.01)


class View:
    """Keeps what it is shown, and can be waited for."""

    def __init__(self) -> None:
        self.seen: list[TrialRecord] = []
        self._news = threading.Condition()

    def __call__(self, trial: TrialRecord) -> None:
        with self._news:
            self.seen.append(trial)
            self._news.notify_all()

    def wait_for(self, shown: Callable[[TrialRecord], bool]) -> None:
        with self._news:
            assert self._news.wait_for(lambda: any(map(shown, self.seen)), timeout=30)


def test_every_view_sees_a_trial_as_it_goes_and_nothing_twice(study: Study) -> None:
    first, second = View(), View()

    def during(number: int) -> None:
        first.wait_for(lambda trial: (trial.number, trial.state, trial.epochs) == (number, "running", 1))

    worker = LightWorker(study, during=during)
    with StudyPoller(study.try_trials, [first, second]):
        for _ in range(3):
            study.tell(worker.run_one().number, 0.5)
    assert first.seen == second.seen
    for number in range(3):
        shown = [trial for trial in first.seen if trial.number == number]
        assert len(shown) == len({str(trial) for trial in shown})
        assert shown[-1] == study.trials()[number]
        assert [trial.epochs for trial in shown] == sorted(trial.epochs for trial in shown)


def test_what_happens_last_is_seen_even_if_nobody_had_time_to_look(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "_LOOK_EVERY_S", 3600)
    view = View()

    def search() -> None:
        with StudyPoller(study.try_trials, [view]):
            study.tell(LightWorker(study).run_one().number, 0.5)
            raise KeyError

    with pytest.raises(KeyError):
        search()
    assert view.seen == study.trials()
    assert "follower" not in {thread.name for thread in threading.enumerate()}


def test_a_view_that_hangs_holds_up_no_trial(study: Study) -> None:
    released = threading.Event()
    seen: list[TrialRecord] = []

    def hang(trial: TrialRecord) -> None:
        released.wait(30)
        seen.append(trial)

    with StudyPoller(study.try_trials, [hang]):
        for _ in range(3):
            study.tell(LightWorker(study, epoch_s=0).run_one().number, 0.5)
        assert not seen
        assert study.remaining(3) == 0
        released.set()
    assert seen[-3:] == study.trials()


def test_a_storage_that_does_not_answer_is_looked_at_again(study: Study) -> None:
    answers: Iterator[bool] = iter([False, False, False, True])
    view = View()

    def trials() -> list[TrialRecord]:
        if not next(answers, True):
            raise UserError("the storage of studies on the server fails")
        return study.trials()

    with StudyPoller(trials, [view]):
        study.tell(LightWorker(study).run_one().number, 0.5)
        view.wait_for(lambda trial: trial.state == "complete")
    assert view.seen[-1] == study.trials()[0]
