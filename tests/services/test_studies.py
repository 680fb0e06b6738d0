"""Searches on real Optuna storages, resumed, interrupted and opened by several processes at once."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from src.core.config import Range, Setting
from src.core.errors import Pruned, Refusal, UsageRefusal
from src.services.locks import exclusive
from src.services.studies import Study, Ticket, open_study, space_digest, study_name

SPACE = {
    "rank": Range(powers_of_two=(2, 6)),
    "lr": Range(low=1e-5, high=1e-2, log=True),
    "head_layers": Range(low=0, high=2),
    "objective": Range(choices=("head", "words")),
}
GOOD: dict[str, Setting] = {"rank": 16, "lr": 3e-4, "head_layers": 1, "objective": "head"}

Opener = Callable[[], Study]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new/studies.db"


@pytest.fixture
def reopen(url: str) -> Opener:
    return lambda: opened(url, "clip-tiny")


def opened(url: str, name: str) -> Study:
    return open_study(url, name, SPACE, known_good=[GOOD], seed=1, startup_trials=3, warmup_epochs=1)


def score(ticket: Ticket) -> float:
    return 1 / int(ticket.params["rank"]) + float(ticket.params["lr"])


def run(study: Study, total: int) -> None:
    while study.remaining(total):
        ticket = study.ask()
        study.tell(ticket, score(ticket))


def run_python(code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_settings_stay_in_the_space_and_powers_of_two_are_powers(reopen: Opener) -> None:
    study = reopen()
    run(study, 8)
    for trial in study.trials():
        assert list(trial.params) == list(SPACE)
        assert trial.params["rank"] in (4, 8, 16, 32, 64)
        assert 1e-5 <= float(trial.params["lr"]) <= 1e-2
        assert trial.params["head_layers"] in (0, 1, 2)
        assert trial.params["objective"] in ("head", "words")


def test_known_good_settings_come_first_and_once(reopen: Opener) -> None:
    run(reopen(), 3)
    study = reopen()
    run(study, 5)
    assert [trial.params == GOOD for trial in study.trials()] == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"rank": 12}, "rank: 12 lies outside of the search space (a power of two from 4 to 64)"),
        ({"lr": 1.0}, "lr: 1.0 lies outside of the search space (from 1e-05 to 0.01)"),
        ({"lr": "fast"}, "lr: fast lies outside"),
        ({"head_layers": 1.5}, "head_layers: 1.5 lies outside of the search space (a whole number from 0 to 2)"),
        ({"objective": "word"}, "objective: word lies outside of the search space (one of head, words)"),
        ({"rnak": 8}, "unknown search parameter 'rnak'; did you mean 'rank'?"),
    ],
)
def test_known_good_settings_outside_of_the_space_are_refused(url: str, bad: dict[str, str], message: str) -> None:
    with pytest.raises(UsageRefusal) as refusal:
        open_study(url, "bad", SPACE, known_good=[bad], seed=1, startup_trials=3, warmup_epochs=2)
    assert message in str(refusal.value)


def test_a_resumed_study_draws_what_an_uninterrupted_one_would(reopen: Opener, url: str) -> None:
    for total in (2, 3, 5, 9):
        run(reopen(), total)
    whole = opened(url, "whole")
    run(whole, 9)
    settings = [tuple(trial.params.values()) for trial in whole.trials()]
    assert len(set(settings)) == 9
    assert [tuple(trial.params.values()) for trial in reopen().trials()] == settings


def test_an_interrupted_trial_is_run_again_with_its_settings_and_nothing_else_changes(reopen: Opener, url: str) -> None:
    for total in (1, 4, 6):
        run(reopen(), total)
        lost = reopen().ask()  # and never told
        again = reopen()
        assert [(trial.number, trial.reason) for trial in again.recover()] == [(lost.number, "interrupted")]
        assert again.recover() == []
        assert again.ask().params == lost.params
        again.recover()
    run(reopen(), 9)
    whole = opened(url, "whole")
    run(whole, 9)
    assert [trial.params for trial in reopen().finished()] == [trial.params for trial in whole.finished()]
    assert {trial.state for trial in reopen().trials()} == {"complete", "failed"}


def test_a_killed_process_loses_nothing(reopen: Opener, url: str) -> None:
    process = run_python(
        "from tests.services.test_studies import *\n"
        f"study = opened({url!r}, 'clip-tiny')\n"
        "run(study, 2); ticket = study.ask(); ticket.report(1, 0.5); print(ticket.params, flush=True)\n"
        "import time; time.sleep(60)"
    )
    assert process.stdout is not None
    drawn = process.stdout.readline().strip()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    study = reopen()
    assert [trial.state for trial in study.trials()] == ["complete", "complete", "running"]
    assert [str(trial.params) for trial in study.recover()] == [drawn]
    run(study, 3)
    last = study.trials()[-1]
    assert (str(last.params), last.state, last.attrs["retry_of"]) == (drawn, "complete", 2)


def test_a_hopeless_trial_is_pruned_and_counts_against_the_budget(reopen: Opener) -> None:
    study = reopen()
    for _ in range(3):
        ticket = study.ask()
        for epoch in (1, 2, 3):
            ticket.report(epoch, 0.5)
        study.tell(ticket, 0.5)
    ticket = study.ask()
    ticket.report(1, 0.1)  # the warm-up
    with pytest.raises(Pruned):
        ticket.report(2, 0.1)
    study.prune(ticket)
    pruned = study.trials()[-1]
    assert (pruned.state, pruned.value, pruned.epochs) == ("pruned", 0.1, 2)
    assert pruned.reason == "below the median after epoch 2"
    assert study.remaining(5) == 1


def test_failed_trials_keep_their_reason_and_do_not_count(reopen: Opener) -> None:
    study = reopen()
    ticket = study.ask()
    ticket.note("run_id", "abc")
    study.fail(ticket, "out of memory")
    study.tell(study.ask(), float("nan"))
    failed, nan = reopen().trials()
    assert (failed.state, failed.reason, failed.attrs) == ("failed", "out of memory", {"run_id": "abc"})
    assert (nan.state, nan.reason) == ("failed", "the score is nan")
    assert study.remaining(3) == 3


def test_the_best_depends_on_the_budget_and_not_on_what_ran_later(reopen: Opener) -> None:
    study = reopen()
    for value in (0.4, 0.6, 0.6, 0.9):
        study.tell(study.ask(), value)
    assert study.best(3).number == 1
    assert study.best(4).number == 3
    assert study.remaining(3) == 0


def test_a_study_without_a_complete_trial_has_no_best(reopen: Opener) -> None:
    with pytest.raises(Refusal, match="no trial of study clip-tiny is complete"):
        reopen().best(10)


def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_bytes(b"not a database" * 100)
    with pytest.raises(Refusal, match=r"studies\.db cannot be opened: .*file is not a database$"):
        opened(f"sqlite:///{tmp_path}/studies.db", "clip-tiny")


def test_the_name_tells_spaces_apart() -> None:
    other = SPACE | {"rank": Range(powers_of_two=(2, 5))}
    assert space_digest(SPACE) == space_digest(dict(reversed(SPACE.items())))
    assert space_digest(SPACE) != space_digest(other)
    assert study_name("clip", "tiny", "aa", "bb") == "clip-tiny-aa-bb"


def test_processes_may_make_the_storage_at_the_same_time(url: str) -> None:
    code = f"from tests.services.test_studies import *\nrun(opened({url!r}, 'race-' + sys.argv[1]), 3)"
    racers = [subprocess.Popen([sys.executable, "-c", code, str(i)], stderr=subprocess.PIPE) for i in range(3)]
    for racer in racers:
        _, errors = racer.communicate()
        assert (racer.returncode, errors) == (0, b"")


def test_a_second_process_is_turned_away_while_the_first_lives(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "clip.lock"
    code = (
        "import sys, time; from pathlib import Path; from src.services.locks import exclusive\n"
        f"with exclusive(Path({str(lock)!r}), 'study clip'): print('in', flush=True); time.sleep(60)"
    )
    holder = run_python(code)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    refused = pytest.raises(Refusal, match=rf"another process \(pid {holder.pid}\) is running study clip; wait or stop")
    with refused, exclusive(lock, "study clip"):
        pass
    holder.kill()
    holder.communicate()
    with exclusive(lock, "study clip"):
        assert lock.read_text() == str(os.getpid())


def test_importing_loads_no_optuna() -> None:
    code = "import sys, src.services.studies; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
