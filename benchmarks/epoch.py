"""Seconds of one training epoch with validation, on as many posts as the agreement protocol gives.

python -m benchmarks.epoch --model clip --size tiny

If the folder has fewer posts, they repeat. The cache is built before. The first epoch warms up and does not count. A
line of JSON follows each epoch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import click
import torch
from transformers.utils.logging import set_verbosity_error

from benchmarks.lib import posts, project_side, sizes
from benchmarks.lib.task import Task
from src.cli.options import command, model_option
from src.cli.output import say
from src.core.config import load_params
from src.core.labels import TONES
from src.core.paths import SAMPLE
from src.core.training_config import TrainingConfig
from src.models.catalog import MODELS
from src.training.adapter import fresh_adapter
from src.training.cache import FeatureTable
from src.training.dataset import LabelledFeatures
from src.training.memory import keep_freed_memory
from src.training.trainer import TrainingContext, fit

# Sizes of train and val of MVSA-Single under the agreement protocol.
TRAIN_POSTS, VAL_POSTS = 1555, 518


@dataclass
class Stopwatch:
    """A training callback that prints the seconds of epochs."""

    # Fields of every printed object.
    head: Mapping[str, Any]
    # Start of the current epoch.
    began: float = 0.0
    # Of the epochs that count.
    seconds: list[float] = field(default_factory=list)

    def on_batch(self) -> None:
        """Do nothing."""

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Record the end of an epoch. The first epoch only starts the clock."""
        now = perf_counter()
        if epoch > 1:
            self.seconds.append(now - self.began)
            rounded = [round(seconds, 3) for seconds in self.seconds]
            say(json.dumps({**self.head, "epoch_s": round(median(self.seconds), 3), "epochs_s": rounded}))
        self.began = now
        return True


@command(example="python -m benchmarks.epoch --model clip --size tiny")
@model_option(MODELS)
@click.option("--size", type=click.Choice(sizes.SIZES), default="tiny")
@click.option("--posts", "folder", type=click.Path(path_type=Path), default=SAMPLE, help="A folder in MVSA's layout.")
@click.option("--train-posts", type=click.IntRange(min=1), default=TRAIN_POSTS)
@click.option("--val-posts", type=click.IntRange(min=1), default=VAL_POSTS)
@click.option("--epochs", type=click.IntRange(min=1), default=4, help="Number of epochs that count.")
def main(model: str, size: str, folder: Path, train_posts: int, val_posts: int, epochs: int) -> None:
    """Time epochs of training."""
    set_verbosity_error()
    params = load_params()
    settings = params.training_config(model, epochs=epochs + 1, patience=epochs + 1)
    parts = posts.read(folder, train_posts + val_posts, params.seed)
    counts = {"train": train_posts, "val": val_posts, "distinct": len(parts.train) + len(parts.val)}
    watch = Stopwatch({"benchmark": "epoch", "model": model, "size": size, "posts": counts})
    with TemporaryDirectory() as place:
        sized = sizes.make(model, size, Path(place), [post.caption for post in parts.train])
        task = Task(sized, parts, params.seed, torch.get_num_threads())
        _train(task, settings, (train_posts, val_posts), watch, Path(place) / "cache")


def _train(task: Task, settings: TrainingConfig, counts: tuple[int, int], watch: Stopwatch, cache: Path) -> None:
    model = task.sized.load()
    with fresh_adapter(model, settings, task.seed):
        data = project_side.features(model, (*task.posts.train, *task.posts.val), cache)
        places = (range(len(task.posts.train)), range(len(task.posts.train), len(data.posts)))
        train, val = (_repeated(data, part, count) for part, count in zip(places, counts, strict=True))
        keep_freed_memory(model.device)
        fit(model, train, val, settings, TrainingContext(task.seed, watch))


def _repeated(data: LabelledFeatures, places: range, count: int) -> LabelledFeatures:
    chosen = list(islice(cycle(places), count))
    rows = [data.features.rows[place] for place in chosen]
    return LabelledFeatures([data.posts[place] for place in chosen], FeatureTable(rows), TONES)


if __name__ == "__main__":
    main()
