"""Which posts go through a model together, and how their features become one batch."""

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
    """Batches of post numbers, shortest captions first, so that hardly anything is padding."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return chunk(order, batch_size)


def shuffled(
    lengths: Sequence[int], batch_size: int, seed: int, balance: Sequence[Hashable] | None = None
) -> list[list[int]]:
    """Batches of post numbers, of captions about equally long, in an order that the seed alone decides.

    Each post comes once; with `balance`, a label of each post, as many posts are drawn with replacement, so that every
    label is equally likely to come.
    """
    chance = random.Random(seed)
    order = list(range(len(lengths))) if balance is None else _draw_balanced(balance, chance)
    chance.shuffle(order)
    buckets = chunk(order, batch_size * BATCHES_A_BUCKET)
    batches = [
        batch for bucket in buckets for batch in chunk(sorted(bucket, key=lambda index: lengths[index]), batch_size)
    ]
    chance.shuffle(batches)
    return batches


def _draw_balanced(labels: Sequence[Hashable], chance: random.Random) -> list[int]:
    members = [[index for index, own in enumerate(labels) if own == label] for label in dict.fromkeys(labels)]
    return [chance.choice(chance.choice(members)) for _ in labels]


def collate(rows: Sequence[Features]) -> Features:
    """One batch: a leading B on every feature; what differs in length is padded with zeros at its end."""
    return {name: _stack([row[name] for row in rows]) for name in rows[0]}


def _stack(values: Sequence[Tensor]) -> Tensor:
    if len({value.shape for value in values}) == 1:
        return torch.stack(list(values))
    return pad_sequence(list(values), batch_first=True)


def chunk(order: Sequence[int], size: int) -> list[list[int]]:
    """The same in pieces of `size`, the last of which may be shorter."""
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def shard_batches(batches: Sequence[list[int]], rank: int, num_processes: int) -> list[tuple[list[int], bool]]:
    """The batches of one of several processes, and whether they count.

    All get equally many, for they run in step: where one has too few, it runs a post that does not count.
    """
    own = batches[rank::num_processes]
    missing = math.ceil(len(batches) / num_processes) - len(own)
    return [(batch, True) for batch in own] + [(batches[0][:1], False)] * missing
