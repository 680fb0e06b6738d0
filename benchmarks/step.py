"""A training step against its floor: the matrix products in it, at the rate at which they run by themselves.

python -m benchmarks.step --model tinyllava --size medium --threads 1
python -m benchmarks.step --model llava --size full --fit-memory --peer

It runs optimiser steps on one typical batch from the cache, writes down the shape of every matrix product and
attention in one, forward and back, and times plain products of the same shapes in between. The share is the time of
the products over that of the step: 100% would be a step that does nothing else. On a GPU it prints utilisation as well:
operations over time over the card's peak in bfloat16; and the step's peak of memory, weights included, beside the peak
that the dry run foretells for this batch. Operations are those that a step executes: none for weight gradients of what
is frozen, none for what is cached, those of causal attention halved, no credit for recomputation.

With `--peer` the peer's step of `benchmarks.search` on the same posts stands beside it. A peer that runs out of memory
takes half the batch, so compare `posts_per_s`. With `--fit-memory` ours is halved until the dry run says that it fits.
A line of JSON comes after each side.
"""

import gc
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from torch.optim import AdamW
from transformers.utils.logging import set_verbosity_error

from benchmarks import ours, posts, sizes
from benchmarks.foretold import step_bytes
from benchmarks.peaks import peak_flops
from benchmarks.peer import Peer
from benchmarks.products import Products, floor_s
from benchmarks.task import Plan, Task
from benchmarks.timing import seconds_of
from src.cli.options import command, model_option
from src.cli.output import say, table
from src.core.config import load_params
from src.core.paths import SAMPLE
from src.core.training_config import TrainingConfig
from src.models.catalog import MODELS
from src.sizing.footprint import FREE_SHARE
from src.training.adapter import fresh_adapter
from src.training.batching import shuffled
from src.training.loss import Loss
from src.training.memory import keep_freed_memory

Step = Callable[[], Any]


@dataclass(frozen=True)
class Stepping:
    """An optimiser step of ours: its posts a batch, the peak of bytes that is foretold, and the peer's plan."""

    run: Step
    batch_size: int
    foretold_bytes: int
    plan: Plan


@contextmanager
def stepping(task: Task, settings: TrainingConfig, folder: Path, room: float | None = None) -> Iterator[Stepping]:
    """Give a step of ours on one batch of middling length; with `room`, the largest that is foretold to fit."""
    model = task.sized.load()
    keep_freed_memory(model.device)
    with fresh_adapter(model, settings, task.seed) as adapter:
        data = ours.features(model, task.posts.train, folder)
        lengths = data.features.lengths()
        size, foretold = settings.batch_size, 0
        while True:
            batch = middling(lengths, size, task.seed)
            foretold = step_bytes(model, data.batch(batch, torch.device("cpu")), settings)
            if room is None or foretold <= room or size == 1:
                break
            size //= 2
        loss = Loss.of(settings, data.labels(range(len(data.posts))))
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = AdamW(weights, lr=settings.lr, fused=True)

        def step() -> None:
            model.train()
            labels_B = data.labels(batch).to(model.device)
            loss(model(data.batch(batch, model.device)), labels_B).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        yield Stepping(step, size, foretold, Plan(tuple(lengths), tuple(adapter.modules())))


def middling(lengths: Sequence[int], batch_size: int, seed: int) -> list[int]:
    """Return the places of a whole batch of middling length."""
    whole = [batch for batch in shuffled(lengths, batch_size, seed) if len(batch) == batch_size]
    return sorted(whole, key=lambda batch: sum(lengths[index] for index in batch))[len(whole) // 2]


def peer_steps(task: Task, settings: TrainingConfig, plan: Plan) -> Callable[[int], Step]:
    """Return the peer's step on so many posts: inputs to gradients, pictures decoded beforehand."""
    peer = Peer.of(task, plan, "same", "all")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = peer.build(settings).to(device).train()
    optimizer = AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=settings.lr)

    def step_of(batch_size: int) -> Step:
        items = [peer.parts["train"][place] for place in middling(plan.lengths, batch_size, task.seed)]
        batch = {name: value.to(device) for name, value in peer.collate(items).items()}
        labels_B = batch.pop("labels")

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(**batch)["logits"], labels_B).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step

    return step_of


@command(example="python -m benchmarks.step --model tinyllava --size medium --threads 1")
@model_option(MODELS)
@click.option("--size", type=click.Choice(sizes.SIZES), default="tiny")
@click.option("--posts", "folder", type=click.Path(path_type=Path), default=SAMPLE, help="A folder in MVSA's layout.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16)
@click.option("--threads", type=click.IntRange(min=1), help="[default: all cores]")
@click.option("--adapt-layers", default="all", help="all, last-half or last-K.")
@click.option("--adapts", default="", help="The parts that take adapters, such as text.  [default: all that can]")
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), default=0.1)
@click.option("--rounds", type=click.IntRange(min=1), default=3, help="Of steps and products in turn.")
@click.option("--peer", is_flag=True, help="The peer's step as well.")
@click.option("--fit-memory", is_flag=True, help="Halve the batch until it fits the GPU.")
def main(
    model: str,
    size: str,
    folder: Path,
    batch_size: int,
    threads: int | None,
    adapter_layers: str,
    adapter_segments: str,
    dropout: float,
    rounds: int,
    peer: bool,
    fit_memory: bool,
) -> None:
    """Time a training step beside the matrix products that it consists of."""
    set_verbosity_error()
    torch.set_num_threads(threads or torch.get_num_threads())
    params = load_params()
    settings = params.training_config(
        model, batch_size=batch_size, adapter_layers=adapter_layers, adapter_segments=adapter_segments, dropout=dropout
    )
    parts = posts.read(folder, 6 * batch_size * 4 // 3, params.seed)
    title = f"{model}, {size}, {torch.get_num_threads()} threads"
    head = {"benchmark": "step", "model": model, "size": size}
    with TemporaryDirectory() as place:
        sized = sizes.make(model, size, Path(place), [post.caption for post in parts.train])
        task = Task(sized, parts, params.seed, torch.get_num_threads())
        # One after the other, so that neither's weights count in the other's memory.
        row, plan = _measure_ours(task, settings, Path(place) / "cache", rounds, _room() if fit_memory else None)
        say(json.dumps({**head, "ours": row}))
        table(title, list(row), [list(row.values())])
        if peer:
            row = _measure_peer(task, replace(settings, batch_size=row["batch_size"]), plan, rounds)
            say(json.dumps({**head, "peer": row}))
            table(f"{title}, peer", list(row), [list(row.values())])


def _room() -> float | None:
    return torch.cuda.mem_get_info()[1] * (1 - FREE_SHARE) if torch.cuda.is_available() else None


def _measure_ours(
    task: Task, settings: TrainingConfig, cache: Path, rounds: int, room: float | None
) -> tuple[dict[str, Any], Plan]:
    with stepping(task, settings, cache, room) as side:
        row = _measure(side.run, side.batch_size, rounds)
        return {**row, "foretold_gib": round(side.foretold_bytes / 2**30, 4)}, side.plan


def _measure_peer(task: Task, settings: TrainingConfig, plan: Plan, rounds: int) -> dict[str, Any]:
    step_of, size = peer_steps(task, settings, plan), settings.batch_size
    while True:
        try:
            return _measure(step_of(size), size, rounds)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        # Here, for the exception has let go of what it held.
        size //= 2
        gc.collect()
        torch.cuda.empty_cache()


def _measure(step: Step, batch_size: int, rounds: int) -> dict[str, Any]:
    with Products() as products:
        step()
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    pairs = [(median(seconds_of(step, 5)), floor_s(products.counts, dtype)) for _ in range(rounds)]
    step_s, products_s = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
    row = {
        "batch_size": batch_size,
        "step_s": round(step_s, 4),
        "posts_per_s": round(batch_size / step_s, 2),
        "products_s": round(products_s, 4),
        "share": round(median(floor / whole for whole, floor in pairs), 3),
        "gflop": round(products.flops / 1e9, 2),
        "gflop_per_s": round(products.flops / step_s / 1e9, 1),
    }
    if torch.cuda.is_available():
        peak = peak_flops(torch.cuda.get_device_name())
        row["utilisation"] = None if peak is None else round(products.flops / step_s / peak, 3)
        row["peak_gib"] = round(_peak_gib(step), 4)
    return row


def _peak_gib(step: Step) -> float:
    """Return the most that is held during a step, weights included."""
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 2**30


if __name__ == "__main__":
    main()
