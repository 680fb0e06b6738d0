"""Memory of a training step against the dry run's prediction, and memory after thirty trials.

python -m benchmarks.memory --model tinyllava --size medium
python -m benchmarks.memory --model llava --size full --batch-size 4

The first part runs one step. It compares the peak of torch's allocator, without weights, with the prediction of
`profile_step`, which the dry run of `tune` uses. Dropout is 0, because a CPU keeps more of it than a GPU.

The second part trains thirty adapters of different ranks on one base. It prints the process's memory (resident and GPU)
after some trials, the growth from the fifth to the thirtieth, and whether the base's bits are unchanged. A line of JSON
follows the step, every fifth trial, and the end.
"""

import ctypes
import gc
import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from torch.profiler import ProfilerActivity, profile
from transformers.utils.logging import set_verbosity_error

from benchmarks.lib import posts, project_side, sizes
from benchmarks.lib.predicted_memory import batch_bytes
from benchmarks.lib.task import Task, fixed_settings
from src.cli.options import command, model_option
from src.cli.output import say, table
from src.core.config import load_params
from src.core.paths import SAMPLE
from src.core.training_config import TrainingConfig
from src.modeling.base import Features, ToneModel
from src.models.catalog import MODELS
from src.training.adapter import fresh_adapter
from src.training.dataset import LabelledFeatures
from src.training.loss import Loss

TRIALS = 30
# The trial after which all ranks have occurred, so that no object is allocated for the first time.
SETTLED = 5


@command(example="python -m benchmarks.memory --model tinyllava --size medium")
@model_option(MODELS)
@click.option("--size", type=click.Choice(sizes.SIZES), default="tiny")
@click.option("--posts", "folder", type=click.Path(path_type=Path), default=SAMPLE, help="A folder in MVSA's layout.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16)
@click.option("--adapter-positions", type=click.Choice(["all", "text"]), default="all", help="Positions with adapters.")
def main(model: str, size: str, folder: Path, batch_size: int, adapter_positions: str) -> None:
    """Compare a step's memory with its prediction, and measure memory over thirty trials."""
    set_verbosity_error()
    params = load_params()
    settings = params.training_config(
        model, batch_size=batch_size, dropout=0.0, epochs=1, adapter_positions=adapter_positions
    )
    parts = posts.read(folder, max(20, batch_size * 8 // 3), params.seed)
    posts.require_batch(parts, batch_size)
    head = {
        "benchmark": "memory",
        "model": model,
        "size": size,
        "batch_size": batch_size,
        "positions": adapter_positions,
    }
    with TemporaryDirectory() as place:
        sized = sizes.make(model, size, Path(place), [post.caption for post in parts.train])
        task = Task(sized, parts, params.seed, torch.get_num_threads())
        base = sized.load()
        predicted, peak = _one_step(base, task, settings, Path(place) / "cache")
        say(json.dumps({**head, "predicted_bytes": predicted, "peak_bytes": peak}))
        sizes_mb, same = _thirty_trials(base, task, settings, Path(place) / "cache")
    growth = sizes_mb[-1] / sizes_mb[SETTLED - 1] - 1
    table(
        f"{model}, {size}, batches of {batch_size}",
        ["", "MB"],
        [["predicted for a step", predicted / 1e6], ["allocated", peak / 1e6]],
    )
    rows = [[number, sizes_mb[number - 1]] for number in (1, SETTLED, 10, 20, TRIALS)]
    table("The process after each trial", ["trial", "MB"], rows)
    say(f"predicted / allocated {predicted / peak:.3f}")
    say(f"growth from trial {SETTLED} to {TRIALS}: {growth:.2%}; the base is unchanged: {same}")
    say(json.dumps({**head, "trials": TRIALS, "growth": round(growth, 5), "base_same": same}))


def _one_step(model: ToneModel, task: Task, settings: TrainingConfig, cache: Path) -> tuple[int, int]:
    with fresh_adapter(model, settings, task.seed):
        data = project_side.features(model, task.posts.train, cache)
        batch = list(range(settings.batch_size))
        features = data.batch(batch, model.device)
        peak = _peak(model, data, batch, features, settings)
        predicted = batch_bytes(model, features, settings)
    return predicted, peak


def _peak(
    model: ToneModel, data: LabelledFeatures, batch: list[int], features: Features, settings: TrainingConfig
) -> int:
    labels_B = data.labels(batch).to(model.device)
    loss = Loss.of(settings, labels_B.cpu(), 3)
    model.train()
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss(model(features, with_image=False), labels_B).backward()  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated() - before + sum(value.nbytes for value in features.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss(model(features, with_image=False), labels_B).backward()  # type: ignore[no-untyped-call]
    return _highest(profiler.profiler, sum(value.nbytes for value in features.values()))


def _highest(profiler: Any, bytes_now: int) -> int:
    peak = bytes_now
    for event in profiler.kineto_results.events():
        if event.name() == "[memory]":
            bytes_now += event.nbytes()
            peak = max(peak, bytes_now)
    return peak


def _thirty_trials(model: ToneModel, task: Task, settings: TrainingConfig, cache: Path) -> tuple[list[float], bool]:
    before = _digest(model)
    megabytes: list[float] = []
    for number, trial in enumerate(fixed_settings(settings, TRIALS), start=1):
        project_side.run_trial(model, task, trial, cache)
        megabytes.append(_held_mb())
        if number % SETTLED == 0:
            say(json.dumps({"trials": number, "held_mb": [round(held, 1) for held in megabytes]}))
    return megabytes, _digest(model) == before


def _held_mb() -> float:
    gc.collect()
    # The C library keeps freed pages. They would count as resident.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    of_gpu = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    return (pages * 4096 + of_gpu) / 1e6


def _digest(model: ToneModel) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.backbone.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
