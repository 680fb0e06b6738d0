"""Both sides of `benchmarks.search` at equal work: the same trials, each to its last epoch, side by side in one run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks import ours
from benchmarks.clock import Spent, timed
from benchmarks.peer import Peer
from benchmarks.task import Task, Trained, best_of
from src.core.training_config import TrainingConfig

# In bfloat16, which keeps three digits, the sides multiply the same numbers in another order.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.05}
# Not AdamW's own 1e-8: some gradients in 100,000 are smaller, rounding may turn their sign, and with it a whole step.
CHECK_EPS = 1e-6


@dataclass(frozen=True)
class Loss:
    """One epoch's mean loss of a post in nats, `part` train or val, on each side."""

    epoch: int
    part: str
    ours: float
    peer: float

    @property
    def difference(self) -> float:
        """Between the two sides."""
        return abs(self.ours - self.peer)


@dataclass(frozen=True)
class Side:
    """What one side took, round by round, and the best validation macro-F1 that it found."""

    name: str
    rounds: tuple[Spent, ...]
    macro_f1: float
    details: Mapping[str, float]

    @property
    def wall_s(self) -> float:
        """The median round's."""
        return median(spent.wall_s for spent in self.rounds)

    @property
    def cpu_s(self) -> float:
        """The median round's."""
        return median(spent.cpu_s for spent in self.rounds)

    def figures(self) -> dict[str, Any]:
        """As JSON."""
        rounds = {"wall_s": [spent.wall_s for spent in self.rounds], "cpu_s": [spent.cpu_s for spent in self.rounds]}
        return {**{name: [round(each, 2) for each in values] for name, values in rounds.items()}, **self._rest()}

    def _rest(self) -> dict[str, float]:
        return {"val_macro_f1": round(self.macro_f1, 4), **{key: round(each, 2) for key, each in self.details.items()}}


def losses(task: Task, peer: Peer, settings: TrainingConfig) -> list[Loss]:
    """One trial without dropout on both sides, on the same batches: the losses that must be equal.

    Dropout is left out since each side draws its own; both decode large pictures at a fraction of their size, which
    else shows in the fourth digit where the model's own side is small; and neither lets rounding decide a step.
    """
    exact = replace(settings, dropout=0.0, adam_eps=CHECK_EPS)
    (mine,), _ = ours.run_trials(task, [exact])
    plan = ours.plan_of(task, exact)
    same = Peer.of(task, plan, "same", peer.logits, peer.loader_workers, decodes_like_us=True)
    (theirs,) = same.run_trials([exact])
    pairs = zip(mine.history, theirs.history, strict=True)
    return [
        Loss(epoch, part, row[f"{part}_loss"], other[f"{part}_loss"])
        for epoch, (row, other) in enumerate(pairs, start=1)
        for part in ("train", "val")
    ]


def race(
    task: Task, peers: Mapping[str, Peer], trials: Sequence[TrainingConfig], workers: int, rounds: int
) -> list[Side]:
    """Ours and the peers by their names, one after the other; every second round goes the other way."""
    details: dict[str, float] = {}

    def run_ours() -> list[Trained]:
        found, seconds = ours.run_trials(task, trials, workers)
        details.update(seconds)
        return found

    runs: dict[str, Callable[[], list[Trained]]] = {
        "ours": run_ours,
        **{name: partial(peer.run_trials, trials) for name, peer in peers.items()},
    }
    spent: dict[str, list[Spent]] = {name: [] for name in runs}
    scores: dict[str, float] = {}
    for number in range(rounds):
        for name in list(runs) if number % 2 == 0 else list(runs)[::-1]:
            found, seconds = timed(runs[name])
            spent[name].append(seconds)
            scores[name] = best_of(found).macro_f1
    return [Side(name, tuple(spent[name]), scores[name], details if name == "ours" else {}) for name in runs]
