"""What both sides of `benchmarks.search` are given, and what each gives back for a trial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

from torch import Tensor

from benchmarks.posts import Parts
from benchmarks.sizes import Sized
from src.core.labels import TONES
from src.core.records import Post, Prediction
from src.core.training_config import TrainingConfig
from src.evaluation.metrics import scores

# Rank, alpha, learning rate, dropout: all within the search spaces of params.yaml.
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
# Learning rate and dropout of trials that train the head alone.
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
    """A model at a size and the posts to train it on; `threads` is how many the whole machine is worth."""

    sized: Sized
    posts: Parts
    seed: int
    threads: int


@dataclass(frozen=True)
class Plan:
    """How our side trains: what its order of batches goes by, post by post of train, and the modules it adapts."""

    lengths: tuple[int, ...]
    adapted: tuple[str, ...]


@dataclass(frozen=True)
class Trained:
    """One trial: a row an epoch of `epoch`, `train_loss`, `val_loss`, `val_macro_f1`, and the best epoch's weights.

    `complete` is false of one that was pruned or failed, which wins no search.
    """

    settings: TrainingConfig
    history: tuple[Mapping[str, float], ...]
    state: Mapping[str, Any]
    complete: bool = True

    @property
    def macro_f1(self) -> float:
        """That of the best epoch, on the validation part."""
        return max(row["val_macro_f1"] for row in self.history)


def macro_f1(posts: Sequence[Post], logits_NK: Tensor) -> float:
    """The score of logits_NK on labelled posts."""
    rows = zip(posts, logits_NK.softmax(dim=-1).tolist(), strict=True)
    return scores([Prediction(post.id, post.label, TONES[row.index(max(row))], *row) for post, row in rows]).macro_f1


def fixed_trials(settings: TrainingConfig, count: int) -> list[TrainingConfig]:
    """The same trials every time; beyond the list's end they begin again, for the time they take is the same."""
    if settings.rank == 0:
        return [replace(settings, lr=lr, dropout=dropout) for lr, dropout in islice(cycle(HEAD_TRIALS), count)]
    return [
        replace(settings, rank=rank, alpha=alpha, lr=lr, dropout=dropout)
        for rank, alpha, lr, dropout in islice(cycle(LORA_TRIALS), count)
    ]


def best_of(trials: Sequence[Trained]) -> Trained:
    """The trial with the best epoch, the earliest of equals."""
    return max(trials, key=lambda trial: trial.macro_f1)
