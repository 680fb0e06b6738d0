"""A simulation of pruners: searches of 30 trials of 9 epochs on synthetic learning curves.

python -m benchmarks.pruner_simulation

No model is trained. A trial draws its learning rate log-uniformly from 5e-6 to 1e-2. Its macro-F1 rises from 30 points
towards a final value: 60 at a rate of 5e-4, less 6 times the squared distance in decades, less up to 2 at random.

There are two worlds. If all learn equally fast, every trial covers 63% of the rise in 1.5 epochs. If low rates learn
late, a rate ten times as high is 3.2 times as fast. Each epoch is measured with independent noise of 1.2 points.

Regret is the true score of the best trial and epoch less the true score of the chosen ones. Without pruning some regret
remains, because the choice is noisy. `added` is the regret that pruning adds on the same curves. `error` is the
standard error of `added` over the searches. The simulation ignores the sampler: trials do not improve with the study.

The study is the project's own, with Optuna's in-memory storage. The first search of each pruner runs on SQLite too, by
`open_study`, and must give the same result. Seeds are fixed. 120 searches took 90 s on one core with Optuna 5.0:

    world                    pruner   from epoch epochs of 270  regret   added  error
    all learn equally fast   none              1           270    0.63   +0.00   0.00
    all learn equally fast   median            1           100    0.58   -0.06   0.06
    all learn equally fast   halving           1            75    0.73   +0.10   0.08
    all learn equally fast   halving           2           114    0.65   +0.02   0.07
    low rates learn late     none              1           270    0.59   +0.00   0.00
    low rates learn late     median            1           102    1.07   +0.49   0.09
    low rates learn late     halving           1            75    1.30   +0.71   0.10
    low rates learn late     halving           2           112    0.79   +0.21   0.06
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt
import optuna
from optuna.samplers import RandomSampler

from src.core.config import Pruning, Range, Space
from src.search.plan import StudyPlan
from src.search.pruners import pruner_of
from src.search.storage import RetryPolicy
from src.search.study import RunningTrial, Study, open_study

SEARCHES, TRIALS, EPOCHS = 120, 30, 9
STARTUP_TRIALS, REDUCTION_FACTOR = 4, 3
# Pruners with `min_epochs`. The first is the reference.
PRUNERS: list[tuple[Pruning, int]] = [("none", 1), ("median", 1), ("halving", 1), ("halving", 2)]
# The factors of ten by which a trial learns faster if its learning rate is ten times as high.
WORLDS = {"all learn equally fast": 0.0, "low rates learn late": 0.5}
LOWEST_LR, BEST_LR, HIGHEST_LR = 5e-6, 5e-4, 1e-2
GUESSING, BEST, NOISE = 30.0, 60.0, 1.2
# A study needs a space. The simulated curves hold the learning rates, so nothing reads what is drawn.
SPACE: Space = {"dropout": Range(low=0.0, high=0.3)}


@dataclass(frozen=True)
class Curves:
    """Macro-F1 in points of every trial (T) after every epoch (E)."""

    true_TE: npt.NDArray[np.float64]
    # The true values with noise.
    measured_TE: npt.NDArray[np.float64]


@dataclass(frozen=True)
class SimulatedSearch:
    """The outcome of one search."""

    # Epochs trained in all trials together.
    epochs: int
    # Points of macro-F1 by which the chosen epoch truly lies below the best.
    regret: float


@dataclass(frozen=True)
class Row:
    """The means of one pruner over all searches of a world."""

    world: str
    pruner: str
    min_epochs: int
    epochs: float
    regret: float
    # Regret above the regret without pruning.
    added: float
    standard_error: float


def main() -> None:
    """Print the table, then its rows as one line of JSON."""
    begun = time.perf_counter()
    rows = [row for world in WORLDS for row in _compare(world)]
    print(f"{'world':24} {'pruner':8} from epoch epochs of {TRIALS * EPOCHS}  regret   added  error")
    for row in rows:
        cost = f"{row.regret:7.2f} {row.added:+7.2f} {row.standard_error:6.2f}"
        print(f"{row.world:24} {row.pruner:8} {row.min_epochs:10} {row.epochs:13.0f} {cost}")
    seconds = round(time.perf_counter() - begun)
    print(json.dumps({"searches": SEARCHES, "seconds": seconds, "rows": [asdict(row) for row in rows]}))


def _compare(world: str) -> Iterator[Row]:
    searches = [_curves(WORLDS[world], seed) for seed in range(SEARCHES)]
    unpruned: list[SimulatedSearch] = []
    for pruner, min_epochs in PRUNERS:
        outcomes = [_search(_in_memory(pruner, min_epochs), curves) for curves in searches]
        stored = _search(_stored(pruner, min_epochs), searches[0])
        assert outcomes[0] == stored, "the storage must make no difference"
        unpruned = unpruned or outcomes
        yield _row(world, pruner, min_epochs, outcomes, unpruned)


def _curves(speed: float, seed: int) -> Curves:
    rng = np.random.default_rng(seed)
    decades_off_T = np.log10(np.exp(rng.uniform(math.log(LOWEST_LR), math.log(HIGHEST_LR), TRIALS)) / BEST_LR)
    final_T = np.maximum(GUESSING, BEST - 6 * decades_off_T**2 - rng.uniform(0, 2, TRIALS))
    epochs_to_learn_T = 1.5 * 10 ** (-speed * decades_off_T)
    learned_TE = 1 - np.exp(-np.arange(1, EPOCHS + 1) / epochs_to_learn_T[:, None])
    true_TE = GUESSING + (final_T - GUESSING)[:, None] * learned_TE
    return Curves(true_TE, true_TE + rng.normal(0, NOISE, true_TE.shape))


def _plan(pruner: Pruning, min_epochs: int) -> StudyPlan:
    return StudyPlan(
        name="pruning",
        space=SPACE,
        seed=0,
        startup_trials=STARTUP_TRIALS,
        sampler="random",
        pruner=pruner,
        min_epochs=min_epochs,
        max_epochs=EPOCHS,
        reduction_factor=REDUCTION_FACTOR,
    )


def _in_memory(pruner: Pruning, min_epochs: int) -> Study:
    plan = _plan(pruner, min_epochs)
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(
        storage=storage, study_name=plan.name, direction="maximize", sampler=RandomSampler(), pruner=pruner_of(plan)
    )
    return Study(study, storage, plan, RetryPolicy("in memory", 0))


def _stored(pruner: Pruning, min_epochs: int) -> Study:
    return open_study("sqlite://", _plan(pruner, min_epochs))


def _search(study: Study, curves: Curves) -> SimulatedSearch:
    while study.remaining(TRIALS):
        trial = study.ask()
        _train(study, trial, curves.measured_TE[trial.number].tolist())
    chosen = study.best(TRIALS).number
    epoch = curves.measured_TE[chosen].argmax()
    regret = float(curves.true_TE.max() - curves.true_TE[chosen, epoch])
    return SimulatedSearch(sum(trial.epochs for trial in study.trials()), regret)


def _train(study: Study, trial: RunningTrial, scores: list[float]) -> None:
    if all(trial.report(epoch, {"val_macro_f1": score}) for epoch, score in enumerate(scores, start=1)):
        study.tell(trial.number, max(scores))
    else:
        study.prune(trial.number)


def _row(
    world: str,
    pruner: Pruning,
    min_epochs: int,
    outcomes: list[SimulatedSearch],
    unpruned: list[SimulatedSearch],
) -> Row:
    added = [outcome.regret - reference.regret for outcome, reference in zip(outcomes, unpruned, strict=True)]
    return Row(
        world,
        pruner,
        min_epochs,
        epochs=round(fmean(outcome.epochs for outcome in outcomes), 3),
        regret=round(fmean(outcome.regret for outcome in outcomes), 3),
        added=round(fmean(added), 3),
        standard_error=round(stdev(added) / math.sqrt(len(added)), 3),
    )


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    main()
