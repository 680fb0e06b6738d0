"""Requests of a person to a search: in one process, from many at once, and about trials whose worker dies."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.core.errors import StopRequested, UsageError, UserError
from src.core.signals import StopSignal
from src.search import runner as runner_module
from src.search.adapters import PendingAdapters
from src.search.plan import StudyPlan
from src.search.pool import LocalWorkerPool
from src.search.runner import StudyRunner
from src.search.steering import Option, obey, requests_of, steer, total_of
from src.search.study import Study, open_study
from src.search.trial import TrialRecord
from tests.search.light import InProcess, LightWorker, nothing, plan

GOOD = {"rank": 16, "lr": 1e-3}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "_WAIT_S", 0.01)


def ask(url: str, option: Option, value: str | int = "", **changes: Any) -> str:
    return steer(url, plan("clip", **changes), "clip", option, value)


def runner(study: Study, tmp_path: Path, during: Callable[[int], object] = nothing) -> StudyRunner:
    pool = LocalWorkerPool(InProcess(LightWorker(study, epoch_s=0, during=during)))
    return StudyRunner(study, pool, PendingAdapters(tmp_path / "trials"), StopSignal())


def opened(url: str, **changes: Any) -> Study:
    return open_study(url, plan("clip", **changes))


def requested(study: Study) -> list[TrialRecord]:
    return [trial for trial in study.trials() if "request" in trial.attrs]


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--try", "rnk=16", "rank"),
        ("--try", "rank=3", "power of two"),
        ("--try", "rank=many", "power of two"),
        ("--try", "lr=1", "lr"),
        ("--try", "rank", "NAME=VALUE"),
        ("--try", "", "NAME=VALUE"),
        ("--try", "rank=4,rank=8", "two values"),
        ("--clone", "one", "number"),
        ("--clone", "0", "no search has begun"),
        ("--clone", "0,lr=nan", "lr"),
        ("--stop-trial", "0", "no search has begun"),
    ],
)
def test_senseless_requests_begin_nothing(url: str, option: Option, value: str, part: str) -> None:
    with pytest.raises(UsageError, match=part) as raised:
        ask(url, option, value)
    assert "\n" not in str(raised.value)
    with pytest.raises(UsageError, match="no search has begun"):
        ask(url, "--stop-trial", 0)


@pytest.mark.parametrize("option", ["--clone", "--stop-trial"])
def test_requests_need_a_known_trial(url: str, option: Option) -> None:
    study = opened(url)
    with pytest.raises(UsageError, match="none yet"):
        ask(url, option, 0)
    study.ask()
    with pytest.raises(UsageError, match="0 to 0"):
        ask(url, option, 7)
    assert len(study.trials()) == 1


def test_clone_needs_settings_of_space(url: str) -> None:
    study = opened(url)
    study.raw.enqueue_trial({**GOOD, "rank": 64})
    with pytest.raises(UsageError, match="rank: 64"):
        ask(url, "--clone", "0,lr=1e-4")
    ask(url, "--clone", "0,rank=4")
    assert requested(study)[0].params == {**GOOD, "rank": 4}


def test_tried_settings_run_next(url: str, tmp_path: Path) -> None:
    first, second = {"rank": 1, "lr": 1e-4}, {"rank": 2, "lr": 1e-4}
    study = opened(url, initial_trials=(first, second))

    def during(number: int) -> None:
        if number == 0:
            answer = ask(url, "--try", "rank=16, lr=1e-3")
            assert "trial 1 " in answer

    runner(study, tmp_path, during).run(3)
    assert [trial.params for trial in study.trials()] == [first, GOOD, second]
    (tried,) = requested(study)
    assert tried.attrs["request"].startswith("--try at 20")


def test_sampler_draws_what_is_not_tried(url: str, tmp_path: Path) -> None:
    assert "the sampler draws rank. No search has begun" in ask(url, "--try", "lr=1e-3")
    study = opened(url)
    runner(study, tmp_path).run(2)
    assert study.trials()[0].params["lr"] == 1e-3
    assert study.trials()[0].params["rank"] in (1, 2, 4, 8, 16)


def test_retry_remembers_who_asked(url: str) -> None:
    study = opened(url)
    ask(url, "--try", "rank=16")
    lost = study.ask("w")
    study.recover()
    again = study.ask("w")
    assert again.params == lost.params
    assert study.trials()[1].attrs["request"] == study.trials()[0].attrs["request"]


def test_tried_trial_without_room_is_told(url: str, tmp_path: Path) -> None:
    study = opened(url)
    runner(study, tmp_path).run(2)
    assert "2 trials without it: --more 1" in ask(url, "--try", "rank=16")
    ask(url, "--more", 2)
    assert "--more" not in ask(url, "--clone", "0")
    assert "4 trials without it" in ask(url, "--clone", "0")
    assert runner(study, tmp_path).run(2) == 4
    assert study.trials()[2].params["rank"] == 16


def test_more_trials_belong_to_their_search(url: str, tmp_path: Path) -> None:
    study = opened(url)
    ask(url, "--more", 1)
    assert runner(study, tmp_path, lambda number: number == 1 and ask(url, "--more", 2)).run(2) == 5
    assert len(study.finished()) == 5
    again = opened(url)
    assert [obey(again, given).total for given in (2, 4, 2, 9)] == [5, 4, 5, 9]
    assert total_of(again, 2) == 5


def test_requests_at_once_are_all_kept(url: str) -> None:
    study = opened(url)
    threads = [threading.Thread(target=ask, args=[url, "--more", number]) for number in range(1, 7)]
    threads += [threading.Thread(target=ask, args=[url, "--try", f"rank={rank}"]) for rank in (1, 2, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert obey(study, 10).total == 10 + 21
    assert len({request.key for request in requests_of(study)}) == 6
    assert sorted(int(trial.params["rank"]) for trial in requested(study)) == [1, 2, 4]


def test_paused_search_begins_no_trial(url: str, tmp_path: Path) -> None:
    study = opened(url)
    paused = runner(study, tmp_path, lambda number: number == 0 and ask(url, "--pause"))
    thread = threading.Thread(target=paused.run, args=[3])
    thread.start()
    while not study.finished():
        time.sleep(0.01)
    ask(url, "--pause")  # once more changes nothing
    time.sleep(0.2)
    assert [trial.state for trial in study.trials()] == ["complete"]
    assert thread.is_alive()
    ask(url, "--resume")
    thread.join(30)
    assert [trial.state for trial in study.trials()] == ["complete"] * 3
    assert [request.option for request in requests_of(study)] == ["--pause", "--resume"]


def test_pause_outlives_the_search(url: str, tmp_path: Path) -> None:
    ask(url, "--pause")
    study = opened(url)
    stopped = runner(study, tmp_path)

    def stop() -> None:
        if len(stopped_at) == 3:
            raise StopRequested
        stopped_at.append(len(study.trials()))

    stopped_at: list[int] = []
    stopped.stop.check = stop  # type: ignore[method-assign]
    with pytest.raises(StopRequested):
        stopped.run(1)
    assert stopped_at == [0, 0, 0]
    in_time = runner(study, tmp_path)
    in_time.deadline_s = time.time()
    in_time.run(1)  # a search whose time is over does not wait
    assert not study.trials()


def test_stopped_trial_counts_as_pruned(url: str, tmp_path: Path) -> None:
    study = opened(url)
    runner(study, tmp_path, lambda number: number == 1 and ask(url, "--stop-trial", 1)).run(3)
    trials = study.trials()
    assert [(trial.state, trial.epochs) for trial in trials] == [("complete", 3), ("pruned", 2), ("complete", 3)]
    assert trials[1].reason.startswith("stopped by --stop-trial at 20")
    assert trials[1].cause == ""
    with pytest.raises(UsageError, match="has ended"):
        ask(url, "--stop-trial", 1)


def test_trial_that_just_ended_is_refused(url: str) -> None:
    study = opened(url)
    number = study.ask().number
    study.tell(number, 0.5)
    with pytest.raises(UsageError, match="has ended"):
        study.request_stop(number, "--stop-trial")


def test_stopped_trial_of_dead_worker_ends(url: str, tmp_path: Path) -> None:
    study = opened(url)
    trial = study.ask("w")
    trial.report(1, {"val_macro_f1": 0.25})
    ask(url, "--stop-trial", trial.number)  # its worker is dead, and no search runs
    runner(study, tmp_path).run(2)
    assert [trial.state for trial in study.trials()] == ["pruned", "complete"]
    assert study.trials()[0].value == 0.25


def test_two_objectives_can_be_stopped(url: str) -> None:
    study = opened(url, objectives=("macro_f1", "parameters"))
    trial = study.ask()
    assert trial.report(1, {"val_macro_f1": 0.25})
    ask(url, "--stop-trial", 0, objectives=("macro_f1", "parameters"))
    assert not trial.report(2, {"val_macro_f1": 0.25})
    study.prune(0)
    study.ask()
    assert study.trials()[0].state == "pruned"


def test_silent_storage_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.search.storage._WAIT_FOR_PROXY_S", 0.1)
    with pytest.raises(UserError, match="no storage proxy answers"):
        ask("grpc://127.0.0.1:9", "--pause")


def test_requests_leave_other_draws_alone(url: str, tmp_path: Path) -> None:
    """The trials beside a requested one are those of a search with that initial trial, whatever came in between."""

    def draws(name: str, ask_for: Callable[[StudyPlan], object]) -> list[dict[str, Any]]:
        changed = plan(name)
        study = open_study(url, changed)
        runner(study, tmp_path / name, lambda number: ask_for(changed) if number == 1 else None).run(5)
        return [trial.params for trial in study.trials()]

    def ask_for_two(changed: StudyPlan) -> None:
        steer(url, changed, "clip", "--try", "rank=16,lr=1e-3")
        steer(url, changed, "clip", "--pause", "")
        steer(url, changed, "clip", "--resume", "")

    alone = draws("alone", lambda _: None)
    steered = draws("steered", ask_for_two)
    assert steered[2] == GOOD
    assert [*steered[:2], *steered[3:]] == [*alone[:2], *alone[3:]]
