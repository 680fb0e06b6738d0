"""Searches of 30 trials of 9 epochs, pruned in each way, on learning curves that are made up.

python -m benchmarks.pruning

No model is trained. A trial draws its learning rate evenly on a log scale from 5e-6 to 1e-2, and its macro-F1 rises
from 30 points towards a final value: 60 at a rate of 5e-4, less 6 times the square of the factors of ten that it is
off, less up to 2 at random. It covers 63% of the way in 1.5 epochs: every trial, where all learn equally fast; where
low rates learn late, a rate ten times as high is 3.2 times as fast. Each epoch is measured with a noise of 1.2 points,
independent of the others. Regret is how far the epoch chosen by what was measured truly lies below the best of all
trials and epochs, so that some is left without pruning: the noise of choosing. `added` is what pruning adds, on the
same curves. What a sampler learns from pruned trials is left out, and so is that it draws better and better ones.

The study is the search's own, in Optuna's memory; each way's first search runs on `open_study`'s SQLite as well, and
must end alike. Measured in a minute and a half on one core, 120 searches each, with Optuna 5.0:

    world                    pruner   from epoch epochs of 270  regret   added  error
    all learn equally fast   none              1           270    0.63   +0.00   0.00
    all learn equally fast   median            1           100    0.58   -0.06   0.06
    all learn equally fast   halving           1            75    0.73   +0.10   0.08
    all learn equally fast   halving           2           114    0.65   +0.02   0.07
    low rates learn late     none              1           270    0.59   +0.00   0.00
    low rates learn late     median            1           102    1.07   +0.49   0.09
    low rates learn late     halving           1            75    1.30   +0.71   0.10
    low rates learn late     halving           2           112    0.79   +0.21   0.06

Seeds are fixed, so that a repetition prints the same; `error` is the standard error of `added` over the searches.
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
# A pruner and its `min_epochs`; the others are compared to the first.
WAYS: list[tuple[Pruning, int]] = [("none", 1), ("median", 1), ("halving", 1), ("halving", 2)]
# By how many factors of ten a trial learns faster whose learning rate is ten times as high.
WORLDS = {"all learn equally fast": 0.0, "low rates learn late": 0.5}
LOWEST_LR, BEST_LR, HIGHEST_LR = 5e-6, 5e-4, 1e-2
GUESSING, BEST, NOISE = 30.0, 60.0, 1.2
# What a trial draws stands in the curves, so the study's own space is for form's sake.
SPACE: Space = {"dropout": Range(low=0.0, high=0.3)}


@dataclass(frozen=True)
class Curves:
    """The macro-F1 in points of every trial (T) after every epoch (E): what is true, and what is measured."""

    true_TE: npt.NDArray[np.float64]
    seen_TE: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What one search spent, and how far the adapter that it chose truly lies below the best that it could have."""

    epochs: int
    regret: float


@dataclass(frozen=True)
class Row:
    """A way of pruning on average of all searches; `added` is the regret above that of no pruning."""

    world: str
    pruner: str
    min_epochs: int
    epochs: float
    regret: float
    added: float
    standard_error: float


def main() -> None:
    """Print the table, then the same as one line of JSON."""
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
    unpruned: list[Outcome] = []
    for way in WAYS:
        found = [_search(_in_memory(*way), curves) for curves in searches]
        assert found[0] == _search(_stored(*way), searches[0]), "the storage must make no difference"
        unpruned = unpruned or found
        yield _row(world, way, found, unpruned)


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
    plan, storage = _plan(pruner, min_epochs), optuna.storages.InMemoryStorage()
    study = optuna.create_study(
        storage=storage, study_name=plan.name, direction="maximize", sampler=RandomSampler(), pruner=pruner_of(plan)
    )
    return Study(study, storage, plan, RetryPolicy("in memory", 0))


def _stored(pruner: Pruning, min_epochs: int) -> Study:
    return open_study("sqlite://", _plan(pruner, min_epochs))


def _search(study: Study, curves: Curves) -> Outcome:
    while study.remaining(TRIALS):
        ticket = study.ask()
        _train(study, ticket, curves.seen_TE[ticket.number].tolist())
    chosen = study.best(TRIALS).number
    epoch = curves.seen_TE[chosen].argmax()
    regret = float(curves.true_TE.max() - curves.true_TE[chosen, epoch])
    return Outcome(sum(trial.epochs for trial in study.trials()), regret)


def _train(study: Study, ticket: RunningTrial, scores: list[float]) -> None:
    if all(ticket.report(epoch, {"val_macro_f1": score}) for epoch, score in enumerate(scores, start=1)):
        study.tell(ticket.number, max(scores))
    else:
        study.prune(ticket.number)


def _row(world: str, way: tuple[Pruning, int], found: list[Outcome], unpruned: list[Outcome]) -> Row:
    added = [one.regret - other.regret for one, other in zip(found, unpruned, strict=True)]
    epochs, regret = fmean(each.epochs for each in found), fmean(each.regret for each in found)
    rounded = [round(value, 3) for value in (epochs, regret, fmean(added), stdev(added) / math.sqrt(len(added)))]
    return Row(world, *way, *rounded)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    main()
