"""What draws the settings of a trial."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

from src.core.config import Range, Sampling
from src.services.spaces import is_whole
from src.services.trials import is_retry

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, TrialState


class Positioned(BaseSampler):
    """A sampler whose draws depend on a trial's place in the study, and on no process.

    A sampler's own generator starts anew with each process and would repeat its draws after a resume (optuna issue
    3255), and those of its neighbours in a search by many. Seeding each draw by the trial's place gives the trials of
    a study that was never interrupted; a trial run again has the place of the one that it replaces.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._inner = make(seed)

    def before_trial(self, study: "Study", trial: "FrozenTrial") -> None:
        """Begin with the trial's own seed."""
        others = study.get_trials(deepcopy=False)
        place = sum(other.number < trial.number and not is_retry(other) for other in others)
        self._inner = self._make(self._seed + place)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: "Study", trial: "FrozenTrial") -> dict[str, BaseDistribution]:
        """As the sampler behind it."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: "Study", trial: "FrozenTrial", search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler behind it."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: "Study", trial: "FrozenTrial", param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the sampler behind it."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: "Study", trial: "FrozenTrial", state: "TrialState", values: "Sequence[float] | None"
    ) -> None:
        """As the sampler behind it."""
        self._inner.after_trial(study, trial, state, values)


def sampler_of(kind: Sampling, startup_trials: int, seed: int) -> BaseSampler:
    """The sampler of a study.

    `tpe` is the multivariate tree-structured Parzen estimator (Falkner et al., ICML 2018) after `startup_trials` random
    trials; settings of trials that others still run count as poor, so that workers do not draw the same, and those of
    trials that did not fit count as worse than all that did. `gp` is Optuna's Gaussian process. `random` learns
    nothing.
    """
    makers: dict[Sampling, Callable[[int], BaseSampler]] = {
        "tpe": lambda seed: TPESampler(
            multivariate=True, constant_liar=True, n_startup_trials=startup_trials, seed=seed
        ),
        "gp": lambda seed: GPSampler(n_startup_trials=startup_trials, seed=seed),
        "random": lambda seed: RandomSampler(seed=seed),
    }
    return Positioned(makers[kind], seed)


def distribution_of(choice: Range) -> BaseDistribution:
    """What a sampler draws one setting from."""
    if choice.choices is not None:
        return CategoricalDistribution(choice.choices)
    if choice.powers_of_two is not None:
        low, high = choice.powers_of_two
        return IntDistribution(low, high)
    assert choice.low is not None and choice.high is not None
    if is_whole(choice):
        return IntDistribution(int(choice.low), int(choice.high), log=choice.log)
    return FloatDistribution(choice.low, choice.high, log=choice.log)
