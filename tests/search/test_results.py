"""What a study's run says of itself."""

from dataclasses import replace
from typing import Any

from src.core.config import Range
from src.search.results import study_note
from src.search.trial import TrialRecord
from tests.search.light import plan

TRIAL = TrialRecord(
    number=0,
    state="complete",
    params={"rank": 8, "lr": 3e-4},
    value=0.5,
    history=(),
    began_ms=None,
    ended_ms=None,
    reason="",
    cause="",
    outcome={},
    attrs={},
)


def trial(number: int, value: float, **changes: Any) -> TrialRecord:
    return replace(TRIAL, number=number, value=value, **changes)


def note(*trials: TrialRecord) -> str:
    return study_note("clip", plan("clip"), trials, lambda number: f"r{number}", "7")


def test_it_says_which_trial_is_best_and_by_how_much() -> None:
    said = note(trial(0, 0.5), trial(1, 0.9, state="pruned"), trial(2, 0.75), trial(3, 0.75))
    assert said.startswith("Best of 4 trials: **[trial 2](#/runs/r2)**, validation macro-F1 **0.7500**, 0.0000 above")


def test_a_trial_that_mlflow_has_no_run_of_is_named_without_a_link() -> None:
    assert "the next, trial 4." in study_note("clip", plan("clip"), [trial(2, 0.75), trial(4, 0.5)], _no_run, "7")


def _no_run(number: int) -> str:
    return ""


def test_a_single_trial_is_best_of_one() -> None:
    assert note(trial(0, 0.5)).startswith(
        "Best of 1 trials: **[trial 0](#/runs/r0)**, validation macro-F1 **0.5000**.\n"
    )


def test_it_says_what_was_searched_and_what_was_chosen() -> None:
    said = note(trial(0, 0.5))
    assert "| rank | 1, 2, 4, 8, 16 | 8 |" in said
    assert "| lr | 1e-05 to 0.01, on a log scale | 0.0003 |" in said
    choice = replace(plan("clip"), space={"loss": Range(choices=("cross_entropy", "focal"))})
    assert "| loss | cross_entropy, focal |  |" in study_note("clip", choice, [trial(0, 0.5)], _no_run, "7")


def test_it_leads_to_the_trials_and_the_versions() -> None:
    said = note(trial(0, 0.5))
    assert "(#/experiments/7/runs?" in said
    assert "(#/models/mvsa-clip)" in said
