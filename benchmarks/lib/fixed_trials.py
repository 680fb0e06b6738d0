"""Equal work on both sides of `benchmarks.search`: the same trials, each to its last epoch, in one run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.lib import project_side
from benchmarks.lib.hf_trainer_baseline import TrainerBaseline
from benchmarks.lib.task import Task, Trained, best_of
from benchmarks.lib.timing import Spent, timed
from src.core.training_config import TrainingConfig

# The sides multiply in another order, and bfloat16 keeps three digits.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.05}
# Not AdamW's default 1e-8. Rounding may turn the sign of a gradient below eps, and with it a whole step.
CHECK_EPS = 1e-6


@dataclass(frozen=True)
class Loss:
    """The mean loss per post, in nats, of one epoch on both sides."""

    epoch: int
    # train or val.
    part: str
    project: float
    baseline: float

    @property
    def difference(self) -> float:
        """The absolute difference between the sides."""
        return abs(self.project - self.baseline)


@dataclass(frozen=True)
class Side:
    """The times and the best score of one side."""

    name: str
    rounds: tuple[Spent, ...]
    # The best on validation.
    macro_f1: float
    # Seconds of steps within a round, such as building the cache.
    details: Mapping[str, float]

    @property
    def wall_s(self) -> float:
        """The median of the rounds."""
        return median(spent.wall_s for spent in self.rounds)

    @property
    def cpu_s(self) -> float:
        """The median of the rounds."""
        return median(spent.cpu_s for spent in self.rounds)

    def figures(self) -> dict[str, Any]:
        """Return the figures as JSON, rounded."""
        return {
            "wall_s": [round(spent.wall_s, 2) for spent in self.rounds],
            "cpu_s": [round(spent.cpu_s, 2) for spent in self.rounds],
            "val_macro_f1": round(self.macro_f1, 4),
            **{name: round(seconds, 2) for name, seconds in self.details.items()},
        }


def losses(task: Task, baseline: TrainerBaseline, settings: TrainingConfig) -> list[Loss]:
    """Return both sides' losses of one trial on the same batches. They must be equal.

    Three differences are switched off. Dropout is 0, because each side draws its own masks. Both sides decode large
    images at a fraction of their size, because the fraction shows in the fourth digit of the loss of a small model.
    AdamW's eps is `CHECK_EPS`, so that rounding decides no step.
    """
    exact = replace(settings, dropout=0.0, adam_eps=CHECK_EPS)
    (project_trial,), _ = project_side.run_trials(task, [exact])
    plan = project_side.plan_of(task, exact)
    same = TrainerBaseline.of(task, plan, "same", baseline.logits, baseline.loader_workers, decodes_at_fraction=True)
    (baseline_trial,) = replace(same, positions=settings.adapter_positions).run_trials([exact])
    epochs = zip(project_trial.history, baseline_trial.history, strict=True)
    return [
        Loss(epoch, part, project[f"{part}_loss"], other[f"{part}_loss"])
        for epoch, (project, other) in enumerate(epochs, start=1)
        for part in ("train", "val")
    ]


def race(
    task: Task, baselines: Mapping[str, TrainerBaseline], trials: Sequence[TrainingConfig], workers: int, rounds: int
) -> list[Side]:
    """Time the project and the named baselines in turn. Every second round runs in reverse order."""
    details: dict[str, float] = {}

    def run_project() -> list[Trained]:
        trained, seconds = project_side.run_trials(task, trials, workers)
        details.update(seconds)
        return trained

    runs: dict[str, Callable[[], list[Trained]]] = {
        "project": run_project,
        **{name: partial(baseline.run_trials, trials) for name, baseline in baselines.items()},
    }
    spent: dict[str, list[Spent]] = {name: [] for name in runs}
    scores: dict[str, float] = {}
    for number in range(rounds):
        for name in list(runs) if number % 2 == 0 else list(runs)[::-1]:
            trained, seconds = timed(runs[name])
            spent[name].append(seconds)
            scores[name] = best_of(trained).macro_f1
    return [Side(name, tuple(spent[name]), scores[name], details if name == "project" else {}) for name in runs]
