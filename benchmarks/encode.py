"""Seconds of building the feature cache, and of opening an existing one.

python -m benchmarks.encode --model tinyllava --size medium --num-posts 400

`plain` is a loop in one process: it decodes a batch, runs the frozen segments on it, and keeps nothing. `build` builds
the cache in an empty folder, while child processes decode images. `again` opens that cache for the same posts and
checks every byte. `deeper` builds the cache of a head alone from the adapter's cache. The last line is JSON.
"""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click
import torch
from transformers.utils.logging import set_verbosity_error

from benchmarks.lib import posts, sizes
from benchmarks.lib.timing import timed
from src.cli.options import command, model_option
from src.cli.output import say, table
from src.core.config import load_params
from src.core.paths import SAMPLE
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.data.images import open_image
from src.modeling.base import ToneModel
from src.models.catalog import MODELS
from src.training.adapter import fresh_adapter
from src.training.batching import collate
from src.training.cache import FeatureStore

BATCH_SIZE = 32


@command(example="python -m benchmarks.encode --model tinyllava --size medium --num-posts 400")
@model_option(MODELS)
@click.option("--size", type=click.Choice(sizes.SIZES), default="tiny")
@click.option("--posts", "folder", type=click.Path(path_type=Path), default=SAMPLE, help="A folder in MVSA's layout.")
@click.option("--num-posts", type=click.IntRange(min=20), help="[default: all]")
@click.option("--rounds", type=click.IntRange(min=1), default=3)
def main(model: str, size: str, folder: Path, num_posts: int | None, rounds: int) -> None:
    """Time building and opening a feature cache."""
    set_verbosity_error()
    params = load_params()
    parts = posts.read(folder, num_posts, params.seed)
    chosen = [*parts.train, *parts.val]
    seconds: dict[str, list[float]] = {}
    cache = Path()
    with TemporaryDirectory() as place:
        base = sizes.make(model, size, Path(place), [post.caption for post in parts.train]).load()
        for number in range(rounds):
            cache = Path(place) / f"cache-{number}"
            for name, work in _measurements(base, params.training_config(model), chosen, cache).items():
                seconds.setdefault(name, []).append(timed(work)[1].wall_s)
        megabytes = sum(path.stat().st_size for path in cache.rglob("*.npy")) / 1e6
    medians = {name: median(values) for name, values in seconds.items()}
    rows = [
        [name, median_s, round(len(chosen) / median_s), median_s / medians["build"]]
        for name, median_s in medians.items()
    ]
    title = f"{model}, {size}, {len(chosen)} posts, {torch.get_num_threads()} cores, caches of {megabytes:.1f} MB"
    table(title, ["", "seconds", "posts/s", "of build"], rows)
    figures = {"posts": len(chosen), "megabytes": round(megabytes, 1), "seconds": seconds}
    say(json.dumps({"benchmark": "encode", "model": model, "size": size, **figures}))


def _measurements(
    model: ToneModel, settings: TrainingConfig, chosen: list[Post], cache: Path
) -> dict[str, Callable[[], object]]:
    def build() -> object:
        with fresh_adapter(model, settings, seed=0):
            return FeatureStore.of(cache, model).ensure(model, chosen, BATCH_SIZE, lambda _: None)

    def plain() -> None:
        with fresh_adapter(model, settings, seed=0):
            for start in range(0, len(chosen), BATCH_SIZE):
                batch = chosen[start : start + BATCH_SIZE]
                inputs = model.preprocess([open_image(post.image) for post in batch], [post.caption for post in batch])
                model.encode({name: value.to(model.device) for name, value in collate(inputs).items()})

    def deeper() -> object:
        return FeatureStore.of(cache, model).ensure(model, chosen, BATCH_SIZE, lambda _: None)

    return {"plain": plain, "build": build, "again": build, "deeper": deeper}


if __name__ == "__main__":
    main()
