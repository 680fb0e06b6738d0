"""The results of a search: the summary in MLflow and the printed lines."""

from dataclasses import replace
from typing import Any

from src.core.config import Range, load_params
from src.core.outputs import SearchSummary
from src.search.results import SearchResult, study_summary
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


LINK = "[trial {0}](#/experiments/7/runs/r{0}?workflowType=machine_learning)"


def trial(number: int, value: float, **changes: Any) -> TrialRecord:
    return replace(TRIAL, number=number, value=value, **changes)


def summary(*trials: TrialRecord) -> str:
    return study_summary("clip", plan("clip"), trials, lambda number: f"r{number}", "7")


def test_summary_names_best_trial() -> None:
    output = summary(trial(0, 0.5), trial(1, 0.9, state="pruned"), trial(2, 0.75), trial(3, 0.75))
    assert output.startswith(f"Best of 4 trials: **{LINK.format(2)}**, validation macro-F1 **0.7500**, level with")


def test_missing_run_has_no_link() -> None:
    assert "the next, trial 4." in study_summary("clip", plan("clip"), [trial(2, 0.75), trial(4, 0.5)], _no_run, "7")


def _no_run(number: int) -> str:
    return ""


def test_single_trial_is_best() -> None:
    assert summary(trial(0, 0.5)).startswith(
        f"Best of 1 trials: **{LINK.format(0)}**, validation macro-F1 **0.5000**.\n"
    )


def test_summary_lists_space_and_choice() -> None:
    output = summary(trial(0, 0.5))
    assert "| rank | 1, 2, 4, 8, 16 | 8 |" in output
    assert "| lr | 1e-05 to 0.01, on a log scale | 0.0003 |" in output
    choice = replace(plan("clip"), space={"loss": Range(choices=("cross_entropy", "focal"))})
    assert "| loss | cross_entropy, focal |  |" in study_summary("clip", choice, [trial(0, 0.5)], _no_run, "7")


def test_summary_links_trials_and_versions() -> None:
    output = summary(trial(0, 0.5))
    assert "(#/experiments/7/runs?" in output
    assert "(#/models/mvsa-clip?" in output


def test_dvc_command_names_storage() -> None:
    params = load_params()
    usual = replace(params, models=("clip",), tune=replace(params.tune, trials=1, pruner="none"))
    cost = SearchSummary(finished=1, pruned=0, failed=0, reasons={}, epochs=3, epochs_unpruned=3, importances={})
    result = SearchResult("clip", plan("clip"), [TRIAL], TRIAL, cost)
    assert not any("dvc" in line for line in result.lines(usual))
    assert "`MVSA_STORAGE=sqlite:///a.db dvc exp run register@clip`" in result.lines(usual, "sqlite:///a.db")[-1]
    # As many as are finished, and not as were asked for: none is run again.
    more = replace(usual, tune=replace(usual.tune, trials=9))
    assert "`dvc exp run -S tune.trials=1 register@clip`" in result.lines(more)[-1]
    others = replace(usual, models=("llava",))
    assert "`dvc exp run -S 'models=[llava,clip]' register@clip`" in result.lines(others)[-1]
    assert "secret" not in str(result.lines(usual, "postgresql://me:secret@host/db"))
