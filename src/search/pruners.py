"""Optuna's pruners, with epochs counted from 1 as their steps."""

from typing import TYPE_CHECKING, Any, cast

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner

from src.search.plan import StudyPlan
from src.search.trial import FITS

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


class Halving(SuccessiveHalvingPruner):
    """Asynchronous successive halving (L. Li et al., MLSys 2020) among the trials that have not failed.

    Optuna's pruner compares a trial with every trial that reached the rung, failed ones included. The retry of an
    interrupted trial would then have to beat the interrupted one. On a GPU, where no two trainings are equal, that
    would be left to chance.
    """

    def prune(self, study: "Study", trial: "FrozenTrial") -> bool:
        """Return whether a trial is pruned at the rung that it reached, because others are better there."""
        return super().prune(cast("Study", _StudyWithoutFailures(study)), trial)


def pruner_of(plan: StudyPlan) -> BasePruner:
    """Return the pruner of a study. It decides for the first time right after epoch `min_epochs` of a trial.

    `halving` compares trials after `min_epochs` epochs, after `reduction_factor` times as many, and so on. One in
    `reduction_factor` of the trials that reached the rung goes on. `hyperband` (L. Li et al., JMLR 2018) does so in
    several brackets, some of which compare later. `median` (Golovin et al., KDD 2017) prunes a trial whose best score
    so far is below the median of the complete trials at that epoch, once `startup_trials` are complete. `none` prunes
    nothing.

    Halving trains least. In simulated searches of 30 trials of 9 epochs it trains 75 of 270 epochs, and the median
    pruner 101. Halving adds 0.1 points of macro-F1 to the regret if all settings learn equally fast, and 0.7 if some
    learn late. The median pruner adds 0 and 0.5. The noise of choosing among the trials alone costs 0.6
    (benchmarks/pruner_simulation.py).
    """
    if not plan.single or plan.pruner == "none":
        return NopPruner()
    if plan.pruner == "halving":
        return Halving(min_resource=plan.min_epochs, reduction_factor=plan.reduction_factor)
    if plan.pruner == "hyperband":
        return HyperbandPruner(plan.min_epochs, max(plan.min_epochs, plan.max_epochs), plan.reduction_factor)
    # This pruner may already decide at the step that equals `n_warmup_steps`.
    return MedianPruner(n_startup_trials=plan.startup_trials, n_warmup_steps=plan.min_epochs)


class _StudyWithoutFailures:
    """A study whose `get_trials` leaves out failed trials."""

    def __init__(self, study: "Study") -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, deepcopy: bool = True) -> "list[FrozenTrial]":
        trials = self._study.get_trials(deepcopy)
        # Trials with a broken constraint failed too (see `Study.fail`).
        return [trial for trial in trials if trial.state.name != "FAIL" and trial.constraints.get(FITS, 0) <= 0]
