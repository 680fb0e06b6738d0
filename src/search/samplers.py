"""What draws the settings of a trial, and how they stand in Optuna's storage.

The storage has the names and values that people see. A power of two is one of a list there, a `rank` of 1, 2, 4, 8 or
16, so that no tool that reads or fills the storage takes a rank of 3 for possible. Optuna's samplers take a list for
unordered, however, and so they see an exponent in its place (`on_even_scales`). Without that the regret of 30 trials
by TPE rises from 0.6 to 0.9 points of a synthetic macro-F1 (0.33 ± 0.10 over 100 searches).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import create_trial

from src.core.config import Range, Sampling, Space
from src.search.plan import StudyPlan
from src.search.space import allowed, even, from_even, is_whole, to_even
from src.search.trial import is_retry

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial

# The states of trials whose settings are known and whose scores are, or will be.
_BEGUN = ("RUNNING", "COMPLETE", "PRUNED")


class SeededByTrialSampler(BaseSampler):
    """A sampler whose draws depend on a trial's place in the study, and on no process.

    A sampler's own generator starts anew with each process and would repeat its draws after a resume (optuna issue
    3255), and those of its neighbours in a search by many. Seeding each draw by the trial's place gives the trials of
    a study that was never interrupted; a trial run again has the place of the one that it replaces.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int, space: Space) -> None:
        self._make = make
        self._seed = seed
        self._space = space

    def infer_relative_search_space(self, study: "Study", trial: "FrozenTrial") -> dict[str, BaseDistribution]:
        """Return the whole space: all settings of a trial are drawn together."""
        return distributions_of(self._space)

    def sample_relative(
        self, study: "Study", trial: "FrozenTrial", search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw all settings as the sampler behind it draws them on even scales."""
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        place = sum(other.number < trial.number and not is_retry(other) for other in others)
        twin = on_even_scales(study.directions, others, self._space, self._make(self._seed + place))
        return from_even(self._space, twin.ask(distributions_of(even(self._space))).params)

    def sample_independent(
        self, study: "Study", trial: "FrozenTrial", param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one setting alone."""
        return self.sample_relative(study, trial, {})[param_name]


def sampler_of(plan: StudyPlan) -> BaseSampler:
    """Return the sampler of a study.

    `tpe` is the multivariate tree-structured Parzen estimator (Falkner et al., ICML 2018) after `startup_trials` random
    trials; settings of trials that others still run count as poor, so that workers do not draw the same, and those of
    trials that did not fit count as worse than all that did. `gp` is Optuna's Gaussian process. `random` learns
    nothing.
    """
    startup = plan.startup_trials
    makers: dict[Sampling, Callable[[int], BaseSampler]] = {
        "tpe": lambda seed: TPESampler(multivariate=True, constant_liar=True, n_startup_trials=startup, seed=seed),
        "gp": lambda seed: GPSampler(n_startup_trials=startup, seed=seed),
        "random": lambda seed: RandomSampler(seed=seed),
    }
    return SeededByTrialSampler(makers[plan.sampler], plan.seed, plan.space)


def suggest(trial: "Trial", space: Space) -> dict[str, Any]:
    """Draw all settings of a trial, but for those that it was queued with."""
    return {name: _suggest(trial, name, choice) for name, choice in space.items()}


def on_even_scales(
    directions: "Sequence[StudyDirection]",
    trials: "Sequence[FrozenTrial]",
    space: Space,
    sampler: BaseSampler | None = None,
) -> "Study":
    """Return a study in memory of the trials begun, in which an exponent stands for a power of two.

    Optuna's samplers and forests compare values by their differences, which are the same between 1 and 2 as between 8
    and 16 on the scale of exponents alone.
    """
    study = optuna.create_study(directions=directions, sampler=sampler)
    study.add_trials(_on_even_scales(trial, space) for trial in trials if trial.state.name in _BEGUN)
    return study


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """Return what the settings are drawn from, as Optuna's storage has it."""
    return {name: _distribution_of(choice) for name, choice in space.items()}


def _distribution_of(choice: Range) -> BaseDistribution:
    listed = choice.listed()
    if listed is not None:
        return CategoricalDistribution(listed)
    low, high = choice.bounds()
    if is_whole(choice):
        return IntDistribution(int(low), int(high), log=choice.scale == "log")
    return FloatDistribution(low, high, log=choice.scale == "log")


def _suggest(trial: "Trial", name: str, choice: Range) -> Any:
    listed = choice.listed()
    if listed is not None:
        return trial.suggest_categorical(name, listed)
    low, high = choice.bounds()
    if is_whole(choice):
        return trial.suggest_int(name, int(low), int(high), log=choice.scale == "log")
    return trial.suggest_float(name, low, high, log=choice.scale == "log")


def _on_even_scales(trial: "FrozenTrial", space: Space) -> "FrozenTrial":
    params = to_even(space, allowed(space, trial.params))
    distributions = distributions_of(even(space))
    return create_trial(
        state=trial.state,
        values=trial.values,
        params=params,
        distributions={name: distributions[name] for name in params},
        intermediate_values=trial.intermediate_values,
        constraints=trial.constraints,
    )
