"""Polling of a running study, with slow listeners and a storage that fails at times."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from src.core.errors import UserError
from src.search import poller as poller_module
from src.search.poller import StudyPoller
from src.search.study import Study, open_study
from src.search.trial import TrialRecord
from tests.search.light import LightWorker, plan


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return open_study(f"sqlite:///{tmp_path}/studies.db", plan("clip"))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller_module, "_POLL_EVERY_S", 0.01)


class Listener:
    """Keeps the trials that it is passed. A test can wait for one."""

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


def test_listeners_see_each_change_once(study: Study) -> None:
    first = Listener()
    second = Listener()

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


def test_last_changes_are_always_seen(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller_module, "_POLL_EVERY_S", 3600)
    listener = Listener()

    def search() -> None:
        with StudyPoller(study.try_trials, [listener]):
            study.tell(LightWorker(study).run_one().number, 0.5)
            raise KeyError

    with pytest.raises(KeyError):
        search()
    assert listener.seen == study.trials()
    assert "study-poller" not in {thread.name for thread in threading.enumerate()}


def test_hanging_listener_delays_no_trial(study: Study) -> None:
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


def test_polling_survives_storage_errors(study: Study) -> None:
    answers: Iterator[bool] = iter([False, False, False, True])
    listener = Listener()

    def trials() -> list[TrialRecord]:
        if not next(answers, True):
            raise UserError("the storage of studies on the server fails")
        return study.trials()

    with StudyPoller(trials, [listener]):
        study.tell(LightWorker(study).run_one().number, 0.5)
        listener.wait_for(lambda trial: trial.state == "complete")
    assert listener.seen[-1] == study.trials()[0]
