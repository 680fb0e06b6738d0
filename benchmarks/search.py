"""A search by our side against `Trainer.hyperparameter_search`: the same model, posts, trials, adapters and schedule.

python -m benchmarks.search --model tinyllava --size medium --num-posts 400
python -m benchmarks.search --model clip --size medium --text-only --workers 2 --rounds 3 --order same --order own
python -m benchmarks.search --model blip2 --size medium --head-only --epochs 4
python -m benchmarks.search --model llava --pruning --seeds 5

The first three run 8 fixed trials to their end on both sides, alternating; our side begins with no cache and builds it
within its time. The last runs searches of 30 trials with pruning: see `benchmarks.pruned`. Each prints what is
compared, the losses of one trial without dropout on both sides (a mean a post; they must agree within 1e-5), a table of
wall-clock and processor seconds, processes that were started included, with the best validation macro-F1, the ratios of
the peer's to ours, and last one line of JSON. Weights are random: the scores only say whether both sides learn alike.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
import torch
from transformers.utils.logging import set_verbosity_error

from benchmarks import ours, posts, sizes
from benchmarks.task import Task, fixed_trials
from src.cli.options import command, model_option
from src.cli.output import say, table
from src.core.config import load_params
from src.core.errors import UsageError
from src.core.paths import SAMPLE
from src.core.training_config import TrainingConfig
from src.models.catalog import MODELS

if TYPE_CHECKING:
    from benchmarks.peer import Peer

# Of the check of losses: as many as show a drift, few enough for a big model.
CHECK_BATCHES = 6
DEFAULT_TRIALS, DEFAULT_EPOCHS = 8, 2
PRUNING_TRIALS, PRUNING_EPOCHS = 30, 9
# Enough to tell winners apart by a point or so: of 25 posts, one is four points.
PRUNING_TEST_POSTS = 600
ORDERS = ("same", "own")


@dataclass(frozen=True)
class Options:
    """What the command was asked for."""

    model: str
    size: str
    posts: Path
    num_posts: int | None
    trials: int | None
    epochs: int | None
    workers: int
    adapter_layers: str | None
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
        """As asked, or what the kind of comparison takes by itself."""
        return self.trials or (PRUNING_TRIALS if self.pruning else DEFAULT_TRIALS)

    def settings(self) -> TrainingConfig:
        """The model's own of params.yaml, for so many epochs."""
        epochs = self.epochs or (PRUNING_EPOCHS if self.pruning else DEFAULT_EPOCHS)
        changes: dict[str, Any] = {
            "epochs": epochs,
            "patience": self.patience or epochs,
            "gradient_accumulation_steps": 1,
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
@click.option("--num-posts", type=click.IntRange(min=20), help="Of train and val together, 3 to 1.  [default: all]")
@click.option("--trials", type=click.IntRange(min=1), help="[default: 8, with --pruning 30]")
@click.option("--epochs", type=click.IntRange(min=1), help="[default: 2, with --pruning 9]")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Processes of our side.")
@click.option("--adapt-layers", help="Which layers take adapters, on both sides: all, last-half or last-K.")
@click.option("--head-only", is_flag=True, help="No adapters: a classifier on the frozen model.")
@click.option("--text-only", is_flag=True, help="CLIP: adapters on the text tower alone.")
@click.option("--patience", type=click.IntRange(min=1), help="With --pruning: of our side's trials.  [default: off]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Of both sides.  [default: that of params.yaml]")
@click.option(
    "--order",
    type=click.Choice(ORDERS),
    multiple=True,
    default=ORDERS[:1],
    help="Of the peer's batches: same as ours, or its own; twice for a peer of each.",
)
@click.option("--logits", type=click.Choice(["all", "last"]), default="all", help="Where the peer computes logits.")
@click.option("--loader-workers", type=click.IntRange(min=0), help="Of the peer.  [default: the quickest]")
@click.option("--rounds", type=click.IntRange(min=1), default=1, help="How often both sides run, in turn.")
@click.option("--pruning", is_flag=True, help="Searches with pruners, in place of fixed trials.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, help="With --pruning: so many searches a side.")
def main(**options: Any) -> None:
    """Time a search by our side and by transformers' Trainer with Optuna."""
    asked = Options(**options)
    if asked.text_only and (asked.model != "clip" or asked.head_only):
        raise UsageError("--text-only is for CLIP's adapters")
    if asked.patience and not asked.pruning:
        raise UsageError("--patience is for --pruning: else both sides train every trial to its end")
    if asked.head_only and asked.pruning:
        raise UsageError("--pruning searches the space of params.yaml, which is one of adapters")
    if len(asked.order) > 1 and asked.pruning:
        raise UsageError("--pruning has two peers already: give it one --order")
    with TemporaryDirectory() as folder:
        _run(asked, Path(folder))


def _run(asked: Options, folder: Path) -> None:
    set_verbosity_error()
    params = load_params()
    parts = posts.read(asked.posts, asked.num_posts, params.seed, PRUNING_TEST_POSTS if asked.pruning else None)
    sized = sizes.make(asked.model, asked.size, folder, [post.caption for post in parts.train])
    task = Task(sized, parts, params.seed, torch.get_num_threads())
    settings = asked.settings()
    counts = sizes.describe(task.sized.load())
    say(f"{asked.model} {asked.size}, {counts}; {len(parts.train)} posts of train, {len(parts.val)} of val")
    say(f"{task.threads} threads, {_device()}; objective {settings.readout}, batch {settings.batch_size}")
    found = _pruned(asked, task, settings) if asked.pruning else _equal(asked, task, settings)
    facts = {
        **{key: str(each) if isinstance(each, Path) else each for key, each in asdict(asked).items()},
        "trials": asked.num_trials(),
        "epochs": settings.epochs,
        **counts,
        "train": len(parts.train),
        "val": len(parts.val),
        "threads": task.threads,
        "device": _device(),
    }
    say(json.dumps({"benchmark": "search", **facts, **found}))


def _equal(asked: Options, task: Task, settings: TrainingConfig) -> dict[str, Any]:
    from benchmarks import equal

    trials = fixed_trials(settings, asked.num_trials())
    peer = _peer(asked, task, trials[0])
    differences = _check(task, peer, trials[0])
    peers = {f"peer, {order} order": replace(peer, order=order) for order in dict.fromkeys(asked.order)}
    mine, *theirs = equal.race(task, peers, trials, asked.workers, asked.rounds)
    rows = [[side.name, side.wall_s, side.cpu_s, side.macro_f1] for side in (mine, *theirs)]
    title = f"{len(trials)} trials of {settings.epochs} epochs, medians of {asked.rounds}"
    table(title, ["side", "wall s", "CPU s", "best val macro-F1"], rows)
    ratios = {side.name: {"wall": side.wall_s / mine.wall_s, "cpu": side.cpu_s / mine.cpu_s} for side in theirs}
    for name, ratio in ratios.items():
        say(f"The {name}: {ratio['wall']:.2f} times as long, {ratio['cpu']:.2f} times the processor time.")
    return {
        "loader_workers": peer.loader_workers,
        "loss_difference": differences,
        "ours": mine.figures(),
        "peers": {side.name: side.figures() for side in theirs},
        "ratios": {name: {key: round(value, 2) for key, value in ratio.items()} for name, ratio in ratios.items()},
    }


def _pruned(asked: Options, task: Task, settings: TrainingConfig) -> dict[str, Any]:
    from benchmarks import pruned

    peer = _peer(asked, task, settings)
    differences = _check(task, peer, replace(settings, epochs=DEFAULT_EPOCHS))
    found = pruned.searches(task, peer, settings, asked.num_trials(), asked.workers, asked.seeds)
    columns = ["side", "seed", "epochs", "wall s", "CPU s", "val macro-F1", "test macro-F1"]
    rows = [
        [one.side, one.seed, one.epochs, one.spent.wall_s, one.spent.cpu_s, one.val_macro_f1, one.test_macro_f1]
        for one in found
    ]
    table(f"{asked.num_trials()} trials of up to {settings.epochs} epochs", columns, rows)
    means = pruned.summary(found)
    for side, mean in means.items():
        if "wall_ratio" in mean:
            ratios = f"{mean['wall_ratio']:.2f} times as long, {mean['cpu_ratio']:.2f} times the processor time"
            say(f"The {side} took {ratios}; our winners are {mean['ours_ahead_points']:+.1f} points ahead on test.")
    rounded = {side: {name: round(value, 4) for name, value in mean.items()} for side, mean in means.items()}
    return {
        "loader_workers": peer.loader_workers,
        "loss_difference": differences,
        "means": rounded,
        "searches": [asdict(one) for one in found],
    }


def _peer(asked: Options, task: Task, settings: TrainingConfig) -> "Peer":
    from benchmarks.peer import Peer, quickest_workers

    peer = Peer.of(task, ours.plan_of(task, settings), asked.order[0], asked.logits)
    count = quickest_workers(peer, settings) if asked.loader_workers is None else asked.loader_workers
    orders = " and ".join(asked.order)
    say(f"The peer: {count} dataloader workers, batches in {orders} order, logits at {asked.logits} positions")
    return replace(peer, loader_workers=count)


def _check(task: Task, peer: "Peer", settings: TrainingConfig) -> dict[str, float]:
    from benchmarks import equal

    few = replace(task, posts=task.posts.few(CHECK_BATCHES, settings.batch_size))
    losses = equal.losses(few, peer, settings)
    rows = [[loss.epoch, loss.part, f"{loss.ours:.7f}", f"{loss.peer:.7f}", loss.difference] for loss in losses]
    table("One trial without dropout", ["epoch", "part", "ours", "peer", "difference"], rows)
    worst, tolerance = max(loss.difference for loss in losses), equal.TOLERANCE[peer.dtype]
    agree = "agree" if worst <= tolerance else "DO NOT agree"
    say(f"The losses {agree} within {tolerance:g}: the largest difference is {worst:.1e}.")
    return {part: max(loss.difference for loss in losses if loss.part == part) for part in ("train", "val")}


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


if __name__ == "__main__":
    main()
