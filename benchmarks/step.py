"""A training step against its floor: the matrix products in it, at the rate at which they run by themselves.

python -m benchmarks.step --model tinyllava --size medium --threads 1
python -m benchmarks.step --model llava --size full --batch-size 16

It runs optimiser steps on one typical batch from the cache, writes down the shape of every matrix product and
attention in one, forward and back, and times plain products of the same shapes in between. The share is the time of
the products over that of the step: 100% would be a step that does nothing else. On a GPU it prints utilisation as well:
operations over time over the card's peak in bfloat16. Operations are those that a step executes: none for weight
gradients of what is frozen, none for what is cached, those of causal attention halved, no credit for recomputation.
With `--peer` the peer's step of `benchmarks.search` on the same posts stands beside it.
"""

import gc
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from torch.optim import AdamW
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.utils.logging import set_verbosity_error

from benchmarks import ours, posts, sizes
from benchmarks.peer import Peer
from benchmarks.task import Task
from src.core.config import load_params
from src.core.paths import SAMPLE
from src.core.settings import FitParams
from src.learning.allocator import keep_freed_memory
from src.learning.batches import shuffled
from src.learning.lora import adapted
from src.learning.losses import Loss
from src.models.catalog import MODELS
from src.services.terminal import command, model_option, say, table

# Operations a second in bfloat16 without sparsity, from NVIDIA's data sheet of the H100 SXM.
PEAK_FLOPS = 989e12
ATTENTION = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn",
)

Step = Callable[[], Any]


@dataclass(frozen=True)
class Product:
    """A batched matrix product: `batch` of [m, k] by [k, n]; `share` of it is computed (half where it is causal)."""

    batch: int
    m: int
    k: int
    n: int
    share: float = 1.0

    @property
    def flops(self) -> float:
        """A multiplication and an addition are two."""
        return 2.0 * self.batch * self.m * self.k * self.n * self.share


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down the matrix products that are run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.counts.update(_products(name, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def _products(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Product]:
    if name in ("mm", "addmm"):
        left, right = args[-2:]
        return [Product(1, left.shape[0], left.shape[1], right.shape[1])]
    if name in ("bmm", "baddbmm"):
        left, right = args[-2:]
        return [Product(left.shape[0], left.shape[1], left.shape[2], right.shape[2])]
    if name == "convolution":
        image, kernel = args[0], args[1]
        positions = (image.shape[2] // args[3][0]) * (image.shape[3] // args[3][1])
        return [Product(1, image.shape[0] * positions, kernel[0].numel(), kernel.shape[0])]
    if name.startswith(ATTENTION):
        backward = "backward" in name
        query, key = (args[1], args[2]) if backward else (args[0], args[1])
        causal = any(given is True for given in (*args, *kwargs.values()))
        product = Product(
            query.shape[0] * query.shape[1], query.shape[2], query.shape[3], key.shape[2], 0.5 if causal else 1
        )
        return [product] * (5 if backward else 2)
    return []


@contextmanager
def stepping(task: Task, settings: FitParams, folder: Path) -> Iterator[Step]:
    """An optimiser step of ours, on one batch of middling length."""
    model = task.sized.load()
    keep_freed_memory(model.device)
    with adapted(model, settings, task.seed):
        data = ours.features(model, task.posts.train, folder)
        lengths = data.features.lengths()
        batches = shuffled(lengths, settings.batch_size, task.seed)
        whole = [batch for batch in batches if len(batch) == settings.batch_size]
        batch = sorted(whole, key=lambda each: sum(lengths[index] for index in each))[len(whole) // 2]
        loss = Loss.of(settings, data.labels(range(len(data.posts))))
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = AdamW(weights, lr=settings.lr, fused=True)

        def step() -> None:
            model.train()
            labels_B = data.labels(batch).to(model.device)
            loss(model(data.batch(batch, model.device)), labels_B).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        yield step


def peer_step(task: Task, settings: FitParams) -> Step:
    """An optimiser step of the peer on as many posts: inputs to gradients, pictures decoded beforehand."""
    peer = Peer.of(task, ours.plan_of(task, settings), "same", "all")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = peer.build(settings).to(device).train()
    lengths = peer.plan.lengths
    batches = shuffled(lengths, settings.batch_size, task.seed)
    whole = [batch for batch in batches if len(batch) == settings.batch_size]
    indices = sorted(whole, key=lambda each: sum(lengths[index] for index in each))[len(whole) // 2]
    batch = {name: value.to(device) for name, value in peer.collate([peer.parts["train"][i] for i in indices]).items()}
    labels_B = batch.pop("labels")
    optimizer = AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=settings.lr)

    def step() -> None:
        torch.nn.functional.cross_entropy(model(**batch)["logits"], labels_B).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def seconds_of(work: Step, repeats: int) -> list[float]:
    """Each of some runs, after one that is not counted."""
    found = []
    for _ in range(repeats + 1):
        _wait()
        begun = time.perf_counter()
        work()
        _wait()
        found.append(time.perf_counter() - begun)
    return found[1:]


def floor_s(counts: Counter[Product], dtype: torch.dtype, repeats: int = 5) -> float:
    """The time of all products, each shape by itself."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return sum(count * each.share * _product_s(each, device, dtype, repeats) for each, count in counts.items())


def _product_s(product: Product, device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    left = torch.randn(product.batch, product.m, product.k, device=device, dtype=dtype)
    right = torch.randn(product.batch, product.k, product.n, device=device, dtype=dtype)
    if product.batch == 1:
        return median(seconds_of(lambda: left[0] @ right[0], repeats))
    return median(seconds_of(lambda: torch.bmm(left, right), repeats))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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
def main(
    model: str,
    size: str,
    folder: Path,
    batch_size: int,
    threads: int | None,
    adapt_layers: str,
    adapts: str,
    dropout: float,
    rounds: int,
    peer: bool,
) -> None:
    """Time a training step beside the matrix products that it consists of."""
    set_verbosity_error()
    torch.set_num_threads(threads or torch.get_num_threads())
    params = load_params()
    settings = params.fit_of(model, batch_size=batch_size, adapt_layers=adapt_layers, adapts=adapts, dropout=dropout)
    parts = posts.read(folder, 6 * batch_size * 4 // 3, params.seed)
    with TemporaryDirectory() as place:
        sized = sizes.make(model, size, Path(place), [post.caption for post in parts.train])
        task = Task(sized, parts, params.seed, torch.get_num_threads())
        # One after the other, so that neither's weights count in the other's memory.
        with stepping(task, settings, Path(place) / "cache") as step:
            rows = [_measure("ours", step, rounds)]
        if peer:
            del step
            rows.append(_measure("peer", peer_step(task, settings), rounds))
    table(
        f"{model}, {size}, batches of {batch_size}, {torch.get_num_threads()} threads",
        list(rows[0]),
        [list(row.values()) for row in rows],
    )
    say(json.dumps({"benchmark": "step", "model": model, "size": size, "batch_size": batch_size, "sides": rows}))


def _measure(name: str, step: Step, rounds: int) -> dict[str, Any]:
    with Products() as products:
        step()
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    pairs = [(median(seconds_of(step, 5)), floor_s(products.counts, dtype)) for _ in range(rounds)]
    step_s, products_s = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
    flops = sum(product.flops * count for product, count in products.counts.items())
    row = {
        "side": name,
        "step_s": round(step_s, 4),
        "products_s": round(products_s, 4),
        "share": round(median(floor / whole for whole, floor in pairs), 3),
        "gflop": round(flops / 1e9, 2),
        "gflop_per_s": round(flops / step_s / 1e9, 1),
    }
    if torch.cuda.is_available():
        row |= {"utilisation": round(flops / step_s / PEAK_FLOPS, 3), "peak_gib": round(_peak_gib(step), 2)}
    return row


def _peak_gib(step: Step) -> float:
    """The most that is held during a step, weights included."""
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 2**30


if __name__ == "__main__":
    main()
