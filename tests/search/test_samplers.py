"""Powers of two in the storage, and their exponents in the samplers."""

from pathlib import Path

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from src.core.config import Range
from src.search.plan import StudyPlan
from src.search.samplers import distributions_of, on_even_scales, suggest
from src.search.study import open_study

SPACE = {
    "alpha": Range(low=1, high=32, scale="log2"),
    "loss": Range(choices=("cross_entropy", "focal")),
    "lr": Range(low=1e-5, high=1e-2, scale="log"),
    "rank": Range(low=4, high=64, scale="log2"),
}
EVEN: dict[str, BaseDistribution] = {
    "alpha": IntDistribution(0, 5),
    "loss": CategoricalDistribution(("cross_entropy", "focal")),
    "lr": FloatDistribution(1e-5, 1e-2, log=True),
    "rank": IntDistribution(2, 6),
}
SETTINGS = {"alpha": 16, "loss": "focal", "lr": 1e-3, "rank": 8}


def test_storage_lists_powers_of_two() -> None:
    assert distributions_of(SPACE)["rank"] == CategoricalDistribution((4, 8, 16, 32, 64))
    assert {name: distributions_of(SPACE)[name] for name in ("loss", "lr")} == {
        name: EVEN[name] for name in ("loss", "lr")
    }


def test_sampler_sees_exponents() -> None:
    unfit = create_trial(
        state=TrialState.PRUNED,
        params=SETTINGS,
        distributions=distributions_of(SPACE),
        intermediate_values={1: 0.25},
        constraints={"fits": 1.0},
    )
    failed = create_trial(state=TrialState.FAIL, params=SETTINGS, distributions=distributions_of(SPACE))
    other = create_trial(value=0.5, params={"rank": 3}, distributions={"rank": IntDistribution(1, 9)})
    seen, foreign = on_even_scales([optuna.study.StudyDirection.MAXIMIZE], [unfit, failed, other], SPACE).trials
    assert (seen.params, seen.distributions) == ({**SETTINGS, "alpha": 4, "rank": 3}, EVEN)
    assert (seen.state, seen.intermediate_values, seen.constraints) == (TrialState.PRUNED, {1: 0.25}, {"fits": 1.0})
    assert (foreign.params, foreign.value) == ({}, 0.5)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_draws_equal_those_of_exponents(tmp_path: Path, sampler: str) -> None:
    plan = StudyPlan(
        name="draws",
        space=SPACE,
        seed=5,
        startup_trials=3,
        sampler=sampler,  # type: ignore[arg-type] # the parameters are samplers
        pruner="none",
        min_epochs=1,
        max_epochs=1,
    )
    study = open_study(f"sqlite:///{tmp_path}/studies.db", plan)
    plain = optuna.create_study(direction="maximize")
    for number in range(9):
        plain.sampler = {
            "tpe": optuna.samplers.TPESampler(multivariate=True, n_startup_trials=3, seed=5 + number),
            "random": optuna.samplers.RandomSampler(seed=5 + number),
        }[sampler]
        exponents = plain.ask(EVEN)
        trial = study.ask()
        expected = {**exponents.params, **{name: 2 ** exponents.params[name] for name in ("alpha", "rank")}}
        assert trial.params == expected
        plain.tell(exponents, float(expected["lr"]))
        study.tell(trial.number, float(expected["lr"]))


@pytest.mark.parametrize("num_interruptions", [1, 2])
def test_retry_draws_what_was_interrupted(tmp_path: Path, num_interruptions: int) -> None:
    plan = StudyPlan(
        name="draws", space=SPACE, seed=5, startup_trials=9, sampler="random", pruner="none", min_epochs=1, max_epochs=1
    )
    whole = open_study(f"sqlite:///{tmp_path}/whole.db", plan)
    drawn = [whole.ask().params for _ in range(4)]
    cut = open_study(f"sqlite:///{tmp_path}/cut.db", plan)
    cut.tell(cut.ask().number, 0.5)
    # Killed within `ask`: the trial runs and has no settings yet.
    cut.raw.ask()
    for _ in range(num_interruptions - 1):
        cut.recover()
        cut.raw.ask()
    cut.recover()
    assert suggest(cut.raw.ask(), SPACE) == drawn[1]
    assert [cut.ask().params for _ in range(2)] == drawn[2:]


def test_single_choice_is_fixed() -> None:
    space = {"rank": Range(low=8, high=8, scale="log2"), "lr": Range(low=0.001, high=0.001)}
    study = optuna.create_study()
    assert [suggest(study.ask(), space) for _ in range(2)] == [{"rank": 8, "lr": 0.001}] * 2
