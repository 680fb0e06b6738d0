"""Studies in real Optuna storages: resumed, interrupted, and opened by several processes at once."""

import math
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from src.core.config import Range
from src.core.errors import UsageError, UserError
from src.core.training_config import Setting
from src.search.plan import StudyPlan, space_digest, study_name
from src.search.study import RunningTrial, Study, open_study
from src.search.trial import TrialRecord

if TYPE_CHECKING:
    import optuna

SPACE = {
    "rank": Range(low=4, high=64, scale="log2"),
    "lr": Range(low=1e-5, high=1e-2, scale="log"),
    "head_layers": Range(low=0, high=2),
    "readout": Range(choices=("head", "verbalizer")),
}
GOOD: dict[str, Setting] = {"rank": 16, "lr": 3e-4, "head_layers": 1, "readout": "head"}

Opener = Callable[[], Study]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new/studies.db"


@pytest.fixture
def reopen(url: str) -> Opener:
    return lambda: opened(url, "clip-tiny")


def opened(url: str, name: str, **changes: Any) -> Study:
    return open_study(url, plan(name, **changes))


def plan(name: str, **changes: Any) -> StudyPlan:
    settings = {"pruner": "halving", "min_epochs": 1, "max_epochs": 9, "initial_trials": (GOOD,), **changes}
    return StudyPlan(name=name, space=SPACE, seed=1, startup_trials=3, **settings)


def score(trial: RunningTrial) -> float:
    return 1 / int(trial.params["rank"]) + float(trial.params["lr"])


def run(study: Study, total: int) -> None:
    while study.remaining(total):
        study.enqueue_initial_trials(1)
        trial = study.ask()
        study.tell(trial.number, score(trial))


def report(trial: RunningTrial, epoch: int, value: float, *, last: bool = False) -> bool:
    return trial.report(epoch, {"epoch": epoch, "val_macro_f1": value}, last=last)


def train(study: Study, *scores: float) -> TrialRecord:
    """Train a trial with these scores until it is pruned or ends."""
    trial = study.ask()
    if all(report(trial, epoch, value) for epoch, value in enumerate(scores, start=1)):
        study.tell(trial.number, max(scores))
    else:
        study.prune(trial.number)
    return study.trials()[trial.number]


def ends(trials: Sequence[TrialRecord]) -> list[tuple[str, int]]:
    return [(trial.state, trial.epochs) for trial in trials]


def run_python(code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_settings_stay_in_space(reopen: Opener) -> None:
    study = reopen()
    run(study, 8)
    for trial in study.trials():
        assert list(trial.params) == list(SPACE)
        assert trial.params["rank"] in (4, 8, 16, 32, 64)
        assert 1e-5 <= float(trial.params["lr"]) <= 1e-2
        assert trial.params["head_layers"] in (0, 1, 2)
        assert trial.params["readout"] in ("head", "verbalizer")


def test_initial_trials_run_first_once(reopen: Opener) -> None:
    run(reopen(), 3)
    study = reopen()
    run(study, 5)
    assert [trial.params == GOOD for trial in study.trials()] == [True, False, False, False, False]


def test_interrupted_settings_precede_initial_trials(url: str) -> None:
    other = {**GOOD, "rank": 4}
    study = opened(url, "two", initial_trials=(GOOD, other))
    study.enqueue_initial_trials(1)
    study.ask()
    again = opened(url, "two", initial_trials=(GOOD, other))
    again.recover()
    run(again, 3)
    assert [trial.params for trial in again.finished()][:2] == [GOOD, other]


def test_initial_trials_wait_for_workers(url: str) -> None:
    study = opened(url, "two", initial_trials=(GOOD, {**GOOD, "rank": 4}))
    study.enqueue_initial_trials(2)
    study.enqueue_initial_trials(2)
    assert [trial.state for trial in study.trials()] == ["waiting", "waiting"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"rank": 12}, "rank: 12 lies outside of the search space (a power of two from 4 to 64)"),
        ({"lr": 1.0}, "lr: 1.0 lies outside of the search space (from 1e-05 to 0.01)"),
        ({"lr": "fast"}, "lr: fast lies outside"),
        ({"head_layers": 1.5}, "head_layers: 1.5 lies outside of the search space (a whole number from 0 to 2)"),
        ({"readout": "word"}, "readout: word lies outside of the search space (one of head, verbalizer)"),
        ({"rnak": 8}, "unknown search parameter 'rnak'; did you mean 'rank'?"),
    ],
)
def test_initial_trial_outside_space_fails(url: str, bad: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        opened(url, "bad", initial_trials=(bad,))
    assert message in str(refusal.value)


def test_last_epoch_is_never_pruned(url: str) -> None:
    study = opened(url, "ends")
    for _ in range(3):
        train(study, 0.9, 0.9, 0.9)
    trial = study.ask()
    assert report(trial, 1, 0.1, last=True)
    study.tell(trial.number, 0.1)
    assert study.trials()[trial.number].state == "complete"


def test_resumed_study_draws_the_same(reopen: Opener, url: str) -> None:
    for total in (2, 3, 5, 9):
        run(reopen(), total)
    whole = opened(url, "whole")
    run(whole, 9)
    settings = [tuple(trial.params.values()) for trial in whole.trials()]
    assert len(set(settings)) == 9
    assert [tuple(trial.params.values()) for trial in reopen().trials()] == settings


def test_interruption_changes_no_other_trial(reopen: Opener, url: str) -> None:
    for total in (1, 4, 6):
        run(reopen(), total)
        lost = reopen().ask()  # a lost trial
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


def test_killed_process_loses_nothing(reopen: Opener, url: str) -> None:
    process = run_python(
        "from tests.search.test_study import *\n"
        f"study = opened({url!r}, 'clip-tiny')\n"
        "run(study, 2); trial = study.ask(); report(trial, 1, 0.5); print(trial.params, flush=True)\n"
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


@pytest.mark.parametrize("min_epochs", [1, 2])
def test_halving_prunes_after_min_epochs(url: str, min_epochs: int) -> None:
    study = opened(url, "clip-tiny", min_epochs=min_epochs)
    trials = [train(study, *[value] * 9) for value in (0.5, 0.1, 0.6)]
    assert ends(trials) == [("complete", 9), ("pruned", min_epochs), ("complete", 9)]


def test_pruned_trial_keeps_last_score(reopen: Opener) -> None:
    study = reopen()
    train(study, 0.5, 0.5)
    pruned = train(study, 0.1, 0.9)
    assert (pruned.state, pruned.value, pruned.epochs) == ("pruned", 0.1, 1)
    assert pruned.reason == "others were better at epoch 1"
    assert study.remaining(5) == 3


def test_halving_rungs_grow_threefold(reopen: Opener) -> None:
    study = reopen()
    train(study, *[0.5] * 10)
    assert ends([train(study, 0.6, 0.1, 0.4, 0.9)]) == [("pruned", 3)]
    assert ends([train(study, 0.7, 0.1, 0.6, *[0.1] * 5, 0.4, 0.9)]) == [("pruned", 9)]
    assert ends([train(study, 0.8, 0.1, 0.7, *[0.1] * 5, 0.6, 0.1)]) == [("complete", 10)]


@pytest.mark.parametrize(("reduction_factor", "state"), [(2, "complete"), (3, "pruned")])
def test_halving_respects_reduction_factor(url: str, reduction_factor: int, state: str) -> None:
    study = opened(url, "clip-tiny", reduction_factor=reduction_factor)
    for value in (0.1, 0.2, 0.5):
        train(study, value)
    assert train(study, 0.4, 0.4).state == state


def test_reopened_study_prunes_the_same(reopen: Opener, url: str) -> None:
    curves = [[start, start, end, end] for start in (0.5, 0.2, 0.6, 0.7, 0.4) for end in (0.6, 0.3, 0.8)]
    whole = opened(url, "whole")
    trials = [train(whole, *scores) for scores in curves]
    assert {trial.epochs for trial in trials} == {1, 3, 4}
    assert ends([train(reopen(), *scores) for scores in curves]) == ends(trials)


@pytest.mark.parametrize("end", ["interrupted", "failed"])
def test_unfinished_trials_do_not_compete(reopen: Opener, end: str) -> None:
    study = reopen()
    lost = study.ask()
    report(lost, 1, 0.9)
    if end == "failed":
        study.fail(lost.number, "out of memory")
    reopen().recover()
    assert train(reopen(), 0.8, 0.8).state == "complete"


def test_nan_scores_do_not_compete(reopen: Opener) -> None:
    study = reopen()
    hopeless = train(study, math.nan, 0.9)
    assert (hopeless.state, hopeless.epochs, hopeless.value) == ("pruned", 1, None)
    assert ends([train(study, 0.1, math.nan, 0.2), train(reopen(), 0.2, 0.2)]) == [("complete", 3), ("complete", 2)]
    assert study.best(3).number == 1


def test_median_pruner_waits(url: str) -> None:
    study = opened(url, "clip-tiny", pruner="median", min_epochs=2)
    trials = [train(study, value, value, value) for value in (0.5, 0.4, 0.6, 0.1, 0.55)]
    assert [trial.state for trial in trials] == ["complete", "complete", "complete", "pruned", "complete"]
    assert (trials[3].epochs, trials[3].reason) == (2, "others were better at epoch 2")


def test_no_pruner_prunes_nothing(url: str) -> None:
    study = opened(url, "clip-tiny", pruner="none")
    assert ends([train(study, *[value] * 9) for value in (0.5, 0.1, 0.0)]) == [("complete", 9)] * 3


def test_failed_trials_keep_reason(reopen: Opener) -> None:
    study = reopen()
    trial = study.ask()
    trial.set_attr("run_id", "abc")
    study.fail(trial.number, "out of memory")
    study.tell(study.ask().number, float("nan"))
    failed, nan = reopen().trials()
    assert (failed.state, failed.reason) == ("failed", "out of memory")
    assert failed.attrs == {"run_id": "abc", "worker": ""}
    assert (nan.state, nan.reason) == ("failed", "the score is nan")
    assert study.remaining(3) == 3


def test_best_depends_on_budget(reopen: Opener) -> None:
    study = reopen()
    for value in (0.4, 0.6, 0.6, 0.9):
        study.tell(study.ask().number, value)
    assert study.best(3).number == 1
    assert study.best(4).number == 3
    assert study.remaining(3) == 0


def test_no_best_without_complete_trial(reopen: Opener) -> None:
    with pytest.raises(UserError, match="no trial of study clip-tiny is complete"):
        reopen().best(10)


def test_damaged_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match=r"studies\.db cannot be opened: .*file is not a database$"):
        opened(f"sqlite:///{tmp_path}/studies.db", "clip-tiny")


def test_study_name_covers_space() -> None:
    other = SPACE | {"rank": Range(low=4, high=32, scale="log2")}
    assert space_digest(SPACE) == space_digest(dict(reversed(SPACE.items())))
    assert space_digest(SPACE) != space_digest(other)
    assert study_name("clip", "tiny", "aa", "bb") == "clip-tiny-aa-bb"


def test_processes_create_storage_together(url: str) -> None:
    code = f"from tests.search.test_study import *\nrun(opened({url!r}, 'race-' + sys.argv[1]), 3)"
    racers = [subprocess.Popen([sys.executable, "-c", code, str(i)], stderr=subprocess.PIPE) for i in range(3)]
    for racer in racers:
        _, errors = racer.communicate()
        assert (racer.returncode, errors) == (0, b"")


# Optuna by hand


def by_hand(url: str, name: str) -> "optuna.Study":
    import optuna

    return optuna.load_study(study_name=name, storage=url)


def test_storage_holds_plain_names(url: str) -> None:
    run(opened(url, "clip-tiny"), 2)
    table = by_hand(url, "clip-tiny").trials_dataframe()
    assert {f"params_{name}" for name in SPACE} == {name for name in table.columns if name.startswith("params_")}
    assert table["params_rank"][0] == GOOD["rank"]


def test_settings_queued_by_hand_run(url: str) -> None:
    study = opened(url, "clip-tiny", initial_trials=())
    for settings in ({"rank": 4}, {"rank": 32.0, "lr": 0.001, "readout": "verbalizer"}):
        by_hand(url, "clip-tiny").enqueue_trial(settings)
    first, second = study.ask(), study.ask()
    assert first.params["rank"] == 4 and list(first.params) == list(SPACE)
    assert second.params == {
        "rank": 32,
        "lr": 0.001,
        "readout": "verbalizer",
        "head_layers": second.params["head_layers"],
    }
    assert type(second.params["rank"]) is int


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rank": 3}, "rank: 3"),
        ({"rank": True}, "rank: True"),
        ({"lr": 1.0}, "lr: 1.0"),
        ({"lr": "fast"}, "lr: fast"),
        ({"lr": None}, "lr: None"),
        ({"rnak": 8, "lr": 0.001}, "'rnak'"),
    ],
)
def test_wrong_settings_by_hand_fail(url: str, settings: dict[str, Any], named: str) -> None:
    study = opened(url, "clip-tiny", initial_trials=())
    by_hand(url, "clip-tiny").enqueue_trial(settings)
    drawn = study.ask()
    refused = study.trials()[0]
    assert drawn.number == 1 and list(drawn.params) == list(SPACE)
    assert refused.state == "failed" and named in refused.reason
    assert set(refused.params) <= set(settings) - {named.partition(":")[0]}
    assert study.remaining(1) == 1
