"""A search by the project against `Trainer.hyperparameter_search`, with the same model, posts, trials and schedule.

python -m benchmarks.search --model tinyllava --size medium --num-posts 400
python -m benchmarks.search --model clip --size medium --text-only --workers 2 --rounds 3 --order same --order own
python -m benchmarks.search --model blip2 --size medium --head-only --epochs 4
python -m benchmarks.search --model llava --pruning --seeds 5

The first three run 8 fixed trials to their end on both sides, in turn. The project's time includes building its cache.
The last runs searches of 30 trials with pruning: see `benchmarks.lib.pruned_search`.

The command prints the losses of one trial without dropout on both sides, which must agree within 1e-5 per post. It then
prints wall-clock and processor seconds (child processes included), the best validation macro-F1, and the ratios of the
Trainer baseline to the project. The last line is JSON. Weights are random: scores only show that both sides learn.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
import torch
from transformers.utils.logging import set_verbosity_error

from benchmarks.lib import posts, project_side, sizes
from benchmarks.lib.task import Task, fixed_settings
from src.cli.options import command, model_option
from src.cli.output import say, table
from src.core.config import load_params
from src.core.errors import UsageError
from src.core.paths import SAMPLE
from src.core.training_config import TrainingConfig
from src.models.catalog import MODELS

if TYPE_CHECKING:
    from benchmarks.lib.hf_trainer_baseline import TrainerBaseline

# Train batches of the check of losses: enough to show a drift, few enough for a large model.
CHECK_BATCHES = 6
DEFAULT_TRIALS, DEFAULT_EPOCHS = 8, 2
PRUNING_TRIALS, PRUNING_EPOCHS = 30, 9
# Enough to resolve about a point: of 25 posts, one post is four points.
PRUNING_TEST_POSTS = 600
ORDERS = ("same", "own")


@dataclass(frozen=True)
class Options:
    """The options of the command."""

    model: str
    size: str
    posts: Path
    num_posts: int | None
    trials: int | None
    epochs: int | None
    workers: int
    adapter_layers: str | None
    adapter_positions: str
    head_only: bool
    text_only: bool
    patience: int | None
    batch_size: int | None
    order: tuple[str, ...]
    logits: str
    loader_workers: int | None
    rounds: int
    pruning: bool
    seeds: int

    def num_trials(self) -> int:
        """Return the number of trials, by default that of the kind of comparison."""
        return self.trials or (PRUNING_TRIALS if self.pruning else DEFAULT_TRIALS)

    def settings(self) -> TrainingConfig:
        """Return the model's settings of params.yaml with the options applied."""
        epochs = self.epochs or (PRUNING_EPOCHS if self.pruning else DEFAULT_EPOCHS)
        changes: dict[str, Any] = {
            "epochs": epochs,
            "patience": self.patience or epochs,
            "gradient_accumulation_steps": 1,
            "adapter_positions": self.adapter_positions,
            # The baseline has none.
            "image_head": "none",
        }
        if self.head_only:
            changes |= {"rank": 0, "readout": "head"}
        if self.text_only:
            changes["adapter_segments"] = "text"
        for name in ("adapter_layers", "batch_size"):
            if getattr(self, name) is not None:
                changes[name] = getattr(self, name)
        return load_params().training_config(self.model, **changes)


@command(example="python -m benchmarks.search --model tinyllava --size medium --num-posts 400")
@model_option(MODELS)
@click.option("--size", type=click.Choice(sizes.SIZES), default="tiny")
@click.option("--posts", type=click.Path(path_type=Path), default=SAMPLE, help="A folder in MVSA's layout.")
@click.option("--num-posts", type=click.IntRange(min=20), help="Train and val posts together, 3 to 1.  [default: all]")
@click.option("--trials", type=click.IntRange(min=1), help="[default: 8, with --pruning 30]")
@click.option("--epochs", type=click.IntRange(min=1), help="[default: 2, with --pruning 9]")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Worker processes of the project.")
@click.option("--adapter-layers", help="Layers with adapters, on both sides: all, last-half or last-K.")
@click.option(
    "--adapter-positions",
    type=click.Choice(["all", "text"]),
    default="all",
    help="Positions with adapters in the project. With text, baselines adapt all, and text without a cache.",
)
@click.option("--head-only", is_flag=True, help="Train only a head on the frozen model.")
@click.option("--text-only", is_flag=True, help="CLIP: adapters only on the text tower.")
@click.option(
    "--patience", type=click.IntRange(min=1), help="With --pruning: early stopping of the project.  [default: off]"
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Batch size of both sides.  [default: params.yaml]")
@click.option(
    "--order",
    type=click.Choice(ORDERS),
    multiple=True,
    default=ORDERS[:1],
    help="The baseline's batch order: the project's, or its own. Give both for two baselines.",
)
@click.option(
    "--logits",
    type=click.Choice(["all", "last"]),
    default="all",
    help="Positions at which the baseline computes logits.",
)
@click.option(
    "--loader-workers",
    type=click.IntRange(min=0),
    help="Dataloader workers of the baseline.  [default: the fastest number]",
)
@click.option("--rounds", type=click.IntRange(min=1), default=1, help="Number of runs per side, in turn.")
@click.option("--pruning", is_flag=True, help="Run searches with pruning instead of fixed trials.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, help="With --pruning: number of searches per side.")
def main(**values: Any) -> None:
    """Time a search by the project and by transformers' Trainer with Optuna."""
    options = Options(**values)
    if options.text_only and (options.model != "clip" or options.head_only):
        raise UsageError("--text-only is for CLIP's adapters")
    if options.patience and not options.pruning:
        raise UsageError("--patience needs --pruning: without it every trial runs to its end")
    if options.adapter_positions == "text" and options.pruning:
        raise UsageError("--pruning compares searches whose adapters act on all positions")
    if options.head_only and options.pruning:
        raise UsageError(
            "--pruning searches the space of params.yaml, whose settings need an adapter: leave out --head-only"
        )
    if len(options.order) > 1 and options.pruning:
        raise UsageError("--pruning has two baselines already: give one --order")
    with TemporaryDirectory() as folder:
        _run(options, Path(folder))


def _run(options: Options, folder: Path) -> None:
    set_verbosity_error()
    params = load_params()
    parts = posts.read(options.posts, options.num_posts, params.seed, PRUNING_TEST_POSTS if options.pruning else None)
    sized = sizes.make(options.model, options.size, folder, [post.caption for post in parts.train])
    task = Task(sized, parts, params.seed, torch.get_num_threads())
    settings = options.settings()
    counts = sizes.describe(task.sized.load())
    say(f"{options.model} {options.size}, {counts}; {len(parts.train)} train posts, {len(parts.val)} val posts")
    say(f"{task.threads} threads, {_device()}; readout {settings.readout}, batch size {settings.batch_size}")
    compare = _compare_with_pruning if options.pruning else _compare_fixed_trials
    results = compare(options, task, settings)
    facts = {
        **{key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()},
        "trials": options.num_trials(),
        "epochs": settings.epochs,
        **counts,
        "train": len(parts.train),
        "val": len(parts.val),
        "threads": task.threads,
        "device": _device(),
    }
    say(json.dumps({"benchmark": "search", **facts, **results}))


def _compare_fixed_trials(options: Options, task: Task, settings: TrainingConfig) -> dict[str, Any]:
    from benchmarks.lib import fixed_trials

    trials = fixed_settings(settings, options.num_trials())
    baseline = _baseline(options, task, trials[0])
    differences = _check_losses(task, baseline, trials[0])
    baselines = {f"baseline, {order} order": replace(baseline, order=order) for order in dict.fromkeys(options.order)}
    if settings.adapter_positions == "text":
        baselines["baseline, adapters on the text"] = replace(baseline, positions="text")
    project, *others = fixed_trials.race(task, baselines, trials, options.workers, options.rounds)
    rows = [[side.name, side.wall_s, side.cpu_s, side.macro_f1] for side in (project, *others)]
    title = f"{len(trials)} trials of {settings.epochs} epochs, medians of {options.rounds}"
    table(title, ["side", "wall s", "CPU s", "best val macro-F1"], rows)
    ratios = {side.name: {"wall": side.wall_s / project.wall_s, "cpu": side.cpu_s / project.cpu_s} for side in others}
    for name, ratio in ratios.items():
        say(f"The {name}: {ratio['wall']:.2f} times the time, {ratio['cpu']:.2f} times the processor time.")
    return {
        "loader_workers": baseline.loader_workers,
        "loss_difference": differences,
        "project": project.figures(),
        "baselines": {side.name: side.figures() for side in others},
        "ratios": {name: {key: round(value, 2) for key, value in ratio.items()} for name, ratio in ratios.items()},
    }


def _compare_with_pruning(options: Options, task: Task, settings: TrainingConfig) -> dict[str, Any]:
    from benchmarks.lib import pruned_search

    baseline = _baseline(options, task, settings)
    differences = _check_losses(task, baseline, replace(settings, epochs=DEFAULT_EPOCHS))
    searches = pruned_search.searches(task, baseline, settings, options.num_trials(), options.workers, options.seeds)
    columns = ["side", "seed", "epochs", "wall s", "CPU s", "val macro-F1", "test macro-F1"]
    rows = [
        [
            search.side,
            search.seed,
            search.epochs,
            search.spent.wall_s,
            search.spent.cpu_s,
            search.val_macro_f1,
            search.test_macro_f1,
        ]
        for search in searches
    ]
    table(f"{options.num_trials()} trials of up to {settings.epochs} epochs", columns, rows)
    means = pruned_search.summary(searches)
    for side, mean in means.items():
        if "wall_ratio" in mean:
            ratios = f"{mean['wall_ratio']:.2f} times the time, {mean['cpu_ratio']:.2f} times the processor time"
            ahead = f"{mean['project_ahead_points']:+.1f} points"
            say(f"The {side} took {ratios}. The project's winners are {ahead} ahead on test.")
    rounded = {side: {name: round(value, 4) for name, value in mean.items()} for side, mean in means.items()}
    return {
        "loader_workers": baseline.loader_workers,
        "loss_difference": differences,
        "means": rounded,
        "searches": [asdict(search) for search in searches],
    }


def _baseline(options: Options, task: Task, settings: TrainingConfig) -> "TrainerBaseline":
    from benchmarks.lib.hf_trainer_baseline import TrainerBaseline, quickest_workers

    baseline = TrainerBaseline.of(task, project_side.plan_of(task, settings), options.order[0], options.logits)
    count = quickest_workers(baseline, settings) if options.loader_workers is None else options.loader_workers
    orders = " and ".join(options.order)
    say(f"The baseline: {count} dataloader workers, batches in {orders} order, logits at {options.logits} positions")
    return replace(baseline, loader_workers=count)


def _check_losses(task: Task, baseline: "TrainerBaseline", settings: TrainingConfig) -> dict[str, float]:
    from benchmarks.lib import fixed_trials

    few = replace(task, posts=task.posts.few(CHECK_BATCHES, settings.batch_size))
    losses = fixed_trials.losses(few, baseline, settings)
    rows = [[loss.epoch, loss.part, f"{loss.project:.7f}", f"{loss.baseline:.7f}", loss.difference] for loss in losses]
    table("One trial without dropout", ["epoch", "part", "project", "baseline", "difference"], rows)
    worst = max(loss.difference for loss in losses)
    tolerance = fixed_trials.TOLERANCE[baseline.dtype]
    agree = "agree" if worst <= tolerance else "DO NOT agree"
    say(f"The losses {agree} within {tolerance:g}: the largest difference is {worst:.1e}.")
    return {part: max(loss.difference for loss in losses if loss.part == part) for part in ("train", "val")}


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


if __name__ == "__main__":
    main()
