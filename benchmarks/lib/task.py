"""The input of both sides of `benchmarks.search`, and the result of one trial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

from torch import Tensor

from benchmarks.lib.posts import Parts
from benchmarks.lib.sizes import Sized
from src.core.labels import TONES
from src.core.records import Post, Prediction
from src.core.training_config import TrainingConfig
from src.evaluation.metrics import scores

# Rank, alpha, learning rate and dropout, all within the search spaces of params.yaml.
LORA_TRIALS = (
    (8, 16, 0.002, 0.1),
    (2, 4, 0.001, 0.0),
    (16, 32, 0.0005, 0.1),
    (4, 8, 0.003, 0.2),
    (8, 16, 0.003, 0.0),
    (2, 4, 0.005, 0.1),
    (16, 32, 0.002, 0.2),
    (4, 8, 0.0005, 0.05),
)
# Learning rate and dropout of trials that train only the head.
HEAD_TRIALS = (
    (0.002, 0.1),
    (0.0005, 0.0),
    (0.005, 0.1),
    (0.001, 0.2),
    (0.003, 0.0),
    (0.01, 0.2),
    (0.0002, 0.1),
    (0.008, 0.05),
)


@dataclass(frozen=True)
class Task:
    """A model, the posts to train it on, the seed, and the machine's threads."""

    sized: Sized
    posts: Parts
    seed: int
    # For all processes of one side together.
    threads: int


@dataclass(frozen=True)
class Plan:
    """The facts from which the baseline repeats the project's training."""

    # Tokens of each train post, by which batches are ordered.
    lengths: tuple[int, ...]
    # Names of the modules that take adapters.
    adapted: tuple[str, ...]


@dataclass(frozen=True)
class Trained:
    """The result of one trial."""

    settings: TrainingConfig
    # One row per epoch: `epoch`, `train_loss`, `val_loss` and `val_macro_f1`.
    history: tuple[Mapping[str, float], ...]
    # The trained weights of the best epoch.
    state: Mapping[str, Any]
    # False if the trial was pruned or failed. Such a trial wins no search.
    complete: bool = True

    @property
    def macro_f1(self) -> float:
        """The validation macro-F1 of the best epoch."""
        return max(row["val_macro_f1"] for row in self.history)


def macro_f1(posts: Sequence[Post], logits_NK: Tensor) -> float:
    """Return the macro-F1 of logits_NK on labelled posts."""
    rows = zip(posts, logits_NK.softmax(dim=-1).tolist(), strict=True)
    return scores([Prediction.of(post, TONES, row) for post, row in rows]).macro_f1


def fixed_settings(settings: TrainingConfig, count: int) -> list[TrainingConfig]:
    """Return the settings of `count` trials, the same on every call. The list repeats beyond its end."""
    if settings.rank == 0:
        return [replace(settings, lr=lr, dropout=dropout) for lr, dropout in islice(cycle(HEAD_TRIALS), count)]
    return [
        replace(settings, rank=rank, alpha=alpha, lr=lr, dropout=dropout)
        for rank, alpha, lr, dropout in islice(cycle(LORA_TRIALS), count)
    ]


def best_of(trials: Sequence[Trained]) -> Trained:
    """Return the trial with the best epoch. Ties go to the earliest trial."""
    return max(trials, key=lambda trial: trial.macro_f1)
