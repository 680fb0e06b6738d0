"""A training step against its floor: the time of its matrix products alone.

python -m benchmarks.step --model tinyllava --size medium --threads 1
python -m benchmarks.step --model llava --size full --fit-memory --baseline

The command runs optimiser steps on one typical batch from the cache. It records the shape of every matrix product and
attention in a step, forward and backward, and times plain products of these shapes in between. The share is the time of
the products over the time of the step: at 100% the step does nothing else.

On a GPU it also prints the utilisation, which is operations per second over the card's peak in bfloat16. It prints the
step's peak memory, weights included, beside the dry run's prediction for the batch. Only executed operations count:
none for weight gradients of frozen weights, cached segments or recomputation, and half for causal attention.

With `--baseline` it measures the step of the Trainer baseline (`benchmarks.search`) on the same posts. A baseline that
runs out of memory takes half the batch, so compare `posts_per_s`. With `--fit-memory` the project's batch is halved
until the dry run predicts that it fits. A line of JSON follows each side.
"""

import gc
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import click
import torch
from torch.optim import AdamW
from transformers.utils.logging import set_verbosity_error

from benchmarks.lib import posts, project_side, sizes
from benchmarks.lib.floor import Products, floor_s
from benchmarks.lib.hf_trainer_baseline import TrainerBaseline
from benchmarks.lib.peaks import peak_flops
from benchmarks.lib.predicted_memory import step_bytes
from benchmarks.lib.task import Plan, Task
from benchmarks.lib.timing import seconds_of
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
class ProjectStep:
    """An optimiser step of the project, ready to run."""

    run: Step
    batch_size: int
    # The dry run's prediction, weights included.
    predicted_bytes: int
    # The facts from which the baseline repeats the step.
    plan: Plan


@contextmanager
def project_step(
    task: Task, settings: TrainingConfig, folder: Path, limit_bytes: float | None = None
) -> Iterator[ProjectStep]:
    """Prepare a step on one batch of median length. With a limit, the batch is halved until its prediction fits."""
    model = task.sized.load()
    keep_freed_memory(model.device)
    with fresh_adapter(model, settings, task.seed) as adapter:
        data = project_side.features(model, task.posts.train, folder)
        lengths = data.features.lengths()
        size = settings.batch_size
        while True:
            batch = median_batch(lengths, size, task.seed)
            predicted = step_bytes(model, data.batch(batch, torch.device("cpu")), settings)
            if limit_bytes is None or predicted <= limit_bytes or size == 1:
                break
            size //= 2
        loss = Loss.of(settings, data.labels(range(len(data.posts))), 3)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = AdamW(weights, lr=settings.lr, fused=True)

        def step() -> None:
            model.train()
            labels_B = data.labels(batch).to(model.device)
            logits_BK = model(data.batch(batch, model.device), with_image=False)
            loss(logits_BK, labels_B).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        yield ProjectStep(step, size, predicted, Plan(tuple(lengths), tuple(adapter.modules())))


def median_batch(lengths: Sequence[int], batch_size: int, seed: int) -> list[int]:
    """Return the indices of the full batch whose total length is the median."""
    full = [batch for batch in shuffled(lengths, batch_size, seed) if len(batch) == batch_size]
    return sorted(full, key=lambda batch: sum(lengths[index] for index in batch))[len(full) // 2]


def baseline_steps(
    task: Task, settings: TrainingConfig, plan: Plan, positions: Literal["all", "text"] = "all"
) -> Callable[[int], Step]:
    """Return a function from batch size to the baseline's step. Images are decoded before the step."""
    baseline = replace(TrainerBaseline.of(task, plan, "same", "all"), positions=positions)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = baseline.build(settings).to(device).train()
    optimizer = AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=settings.lr)

    def step_of(batch_size: int) -> Step:
        items = [baseline.parts["train"][place] for place in median_batch(plan.lengths, batch_size, task.seed)]
        batch = {name: value.to(device) for name, value in baseline.collate(items).items()}
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
@click.option("--adapter-layers", default="all", help="Layers with adapters: all, last-half or last-K.")
@click.option(
    "--adapter-positions",
    type=click.Choice(["all", "text"]),
    default="all",
    help="Positions with adapters. With text, the baseline is measured with all, and with text without a cache.",
)
@click.option("--adapter-segments", default="", help="Segments with adapters, such as text.  [default: all possible]")
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), default=0.1)
@click.option("--rounds", type=click.IntRange(min=1), default=3, help="Rounds of steps and products, in turn.")
@click.option("--baseline", is_flag=True, help="Measure the Trainer baseline's step too.")
@click.option("--fit-memory", is_flag=True, help="Halve the batch until it fits the GPU.")
def main(
    model: str,
    size: str,
    folder: Path,
    batch_size: int,
    threads: int | None,
    adapter_layers: str,
    adapter_positions: Literal["all", "text"],
    adapter_segments: str,
    dropout: float,
    rounds: int,
    baseline: bool,
    fit_memory: bool,
) -> None:
    """Time a training step beside its matrix products alone."""
    set_verbosity_error()
    torch.set_num_threads(threads or torch.get_num_threads())
    params = load_params()
    settings = params.training_config(
        model,
        batch_size=batch_size,
        adapter_layers=adapter_layers,
        adapter_positions=adapter_positions,
        adapter_segments=adapter_segments,
        dropout=dropout,
        image_head="none",  # as the baseline
    )
    parts = posts.read(folder, 6 * batch_size * 4 // 3, params.seed)
    posts.require_batch(parts, batch_size)
    title = f"{model}, {size}, {torch.get_num_threads()} threads"
    head = {"benchmark": "step", "model": model, "size": size}
    with TemporaryDirectory() as place:
        sized = sizes.make(model, size, Path(place), [post.caption for post in parts.train])
        task = Task(sized, parts, params.seed, torch.get_num_threads())
        # In sequence, so that one side's weights do not count in the other's memory.
        limit_bytes = _usable_bytes() if fit_memory else None
        row, plan = _measure_project(task, settings, Path(place) / "cache", rounds, limit_bytes)
        say(json.dumps({**head, "project": row}))
        table(title, list(row), [list(row.values())])
        settings = replace(settings, batch_size=row["batch_size"])
        for positions in dict.fromkeys(("all", adapter_positions)) if baseline else ():
            row = _measure_baseline(task, settings, plan, positions, rounds)
            say(json.dumps({**head, "positions": positions, "baseline": row}))
            table(f"{title}, baseline with adapters on {positions}", list(row), [list(row.values())])


def _usable_bytes() -> float | None:
    return torch.cuda.mem_get_info()[1] * (1 - FREE_SHARE) if torch.cuda.is_available() else None


def _measure_project(
    task: Task, settings: TrainingConfig, cache: Path, rounds: int, limit_bytes: float | None
) -> tuple[dict[str, Any], Plan]:
    with project_step(task, settings, cache, limit_bytes) as step:
        row = _measure(step.run, step.batch_size, rounds)
        return {**row, "predicted_gib": round(step.predicted_bytes / 2**30, 4)}, step.plan


def _measure_baseline(
    task: Task, settings: TrainingConfig, plan: Plan, positions: Literal["all", "text"], rounds: int
) -> dict[str, Any]:
    step_of = baseline_steps(task, settings, plan, positions)
    size = settings.batch_size
    while True:
        try:
            return _measure(step_of(size), size, rounds)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        # Outside of `except`, because the exception holds the step's tensors.
        size //= 2
        gc.collect()
        torch.cuda.empty_cache()


def _measure(step: Step, batch_size: int, rounds: int) -> dict[str, Any]:
    with Products() as products:
        step()
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    pairs = [(median(seconds_of(step, 5)), floor_s(products.counts, dtype)) for _ in range(rounds)]
    step_s = median(pair[0] for pair in pairs)
    products_s = median(pair[1] for pair in pairs)
    row = {
        "batch_size": batch_size,
        "step_s": round(step_s, 4),
        "posts_per_s": round(batch_size / step_s, 2),
        "products_s": round(products_s, 4),
        "share": round(median(floor_seconds / seconds for seconds, floor_seconds in pairs), 3),
        "gflop": round(products.flops / 1e9, 2),
        "gflop_per_s": round(products.flops / step_s / 1e9, 1),
    }
    if torch.cuda.is_available():
        peak = peak_flops(torch.cuda.get_device_name())
        row["utilisation"] = None if peak is None else round(products.flops / step_s / peak, 3)
        row["peak_gib"] = round(_peak_gib(step), 4)
    return row


def _peak_gib(step: Step) -> float:
    """Return the peak of allocated memory during a step, weights included."""
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 2**30


if __name__ == "__main__":
    main()
