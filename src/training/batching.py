"""Batches of posts: their order, padding and shares of several processes."""

import math
import random
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from src.modeling.base import Features

# Posts are sorted by length within this many batches: wide enough that a batch's captions are about equally long,
# narrow enough that batches still differ from epoch to epoch.
BATCHES_A_BUCKET = 16


def in_order(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return batches of indices, shortest captions first, so that padding is rare."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return chunk(order, batch_size)


def shuffled(
    lengths: Sequence[int], batch_size: int, seed: int, balance: Sequence[Hashable] | None = None
) -> list[list[int]]:
    """Return batches of indices, with captions of similar length, in an order that the seed alone decides.

    Each post comes once. With `balance`, the labels of the posts, as many posts are drawn with replacement, and every
    label is equally likely.
    """
    rng = random.Random(seed)
    order = list(range(len(lengths))) if balance is None else _draw_balanced(balance, rng)
    rng.shuffle(order)
    buckets = chunk(order, batch_size * BATCHES_A_BUCKET)
    batches = [
        batch for bucket in buckets for batch in chunk(sorted(bucket, key=lambda index: lengths[index]), batch_size)
    ]
    rng.shuffle(batches)
    return batches


def _draw_balanced(labels: Sequence[Hashable], rng: random.Random) -> list[int]:
    members = [[index for index, own in enumerate(labels) if own == label] for label in dict.fromkeys(labels)]
    return [rng.choice(rng.choice(members)) for _ in labels]


def collate(rows: Sequence[Features]) -> Features:
    """Stack rows into one batch with a leading B; features that differ in length are padded with zeros at the end."""
    return {name: _stack([row[name] for row in rows]) for name in rows[0]}


def _stack(values: Sequence[Tensor]) -> Tensor:
    if len({value.shape for value in values}) == 1:
        return torch.stack(list(values))
    return pad_sequence(list(values), batch_first=True)


def chunk(order: Sequence[int], size: int) -> list[list[int]]:
    """Cut a sequence into pieces of `size`; the last one may be shorter."""
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def shard_batches(batches: Sequence[list[int]], rank: int, num_processes: int) -> list[tuple[list[int], bool]]:
    """Return the batches of one process, each with whether it counts.

    All processes get equally many, because they run in step. A process with too few runs a post that does not count.
    """
    own = batches[rank::num_processes]
    missing = math.ceil(len(batches) / num_processes) - len(own)
    return [(batch, True) for batch in own] + [(batches[0][:1], False)] * missing
