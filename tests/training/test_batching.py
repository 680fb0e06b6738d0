import random
from itertools import pairwise

import pytest
import torch

from src.training.batching import BATCHES_A_BUCKET, collate, in_order, shuffled

SIZES = [(0, 4), (1, 4), (4, 4), (5, 4), (63, 8), (64, 8), (1000, 16), (300, 1)]


def lengths_of(count: int) -> list[int]:
    """Captions as long as tweets are in tokens: most are short, a few are ten times as long."""
    chance = random.Random(3)
    return [5 + round(chance.expovariate(1 / 20)) for _ in range(count)]


def padding_share(batches: list[list[int]], lengths: list[int]) -> float:
    padded = sum(max(lengths[index] for index in batch) * len(batch) for batch in batches)
    return 1 - sum(lengths) / padded


@pytest.mark.parametrize(("count", "size"), SIZES)
def test_epoch_has_every_post_once(count: int, size: int) -> None:
    lengths = lengths_of(count)
    for batches in (in_order(lengths, size), shuffled(lengths, size, seed=1)):
        assert sorted(index for batch in batches for index in batch) == list(range(count))
        assert len(batches) == -(-count // size)
        assert sum(len(batch) < size for batch in batches) <= 1


def test_scoring_goes_from_short_to_long() -> None:
    lengths = lengths_of(100)
    ordered = [lengths[index] for batch in in_order(lengths, 8) for index in batch]
    assert ordered == sorted(lengths)


def test_the_seed_alone_decides_the_order() -> None:
    lengths = lengths_of(200)
    random.seed(1)
    first = shuffled(lengths, 8, seed=5)
    random.seed(2)
    torch.manual_seed(2)
    assert shuffled(lengths, 8, seed=5) == first
    assert shuffled(lengths, 8, seed=6) != first


def test_epochs_shuffle_posts() -> None:
    lengths = lengths_of(1000)
    one, other = ({frozenset(batch) for batch in shuffled(lengths, 16, seed)} for seed in (1, 2))
    assert len(one & other) <= 1


def test_batches_are_not_sorted_by_length() -> None:
    lengths = lengths_of(1000)
    means = [sum(lengths[index] for index in batch) / len(batch) for batch in shuffled(lengths, 16, seed=1)]
    half = len(means) // 2
    assert sum(means[:half]) / half == pytest.approx(sum(means[half:]) / (len(means) - half), rel=0.3)
    rises = [after > before for before, after in pairwise(means)]
    assert 0.3 < sum(rises) / len(rises) < 0.7


def test_hardly_anything_is_padding() -> None:
    lengths = lengths_of(1000)
    unsorted = [list(range(start, min(start + 16, 1000))) for start in range(0, 1000, 16)]
    assert padding_share(unsorted, lengths) > 0.5
    assert padding_share(in_order(lengths, 16), lengths) < 0.05
    assert padding_share(shuffled(lengths, 16, seed=1), lengths) < 0.15


def test_equal_lengths_are_shuffled_too() -> None:
    order = [index for batch in shuffled([1] * 64, 4, seed=1) for index in batch]
    assert order != sorted(order)
    assert len({index // 4 for index in order[:4]}) > 1


def test_bucket_is_a_multiple_of_batches() -> None:
    """So that a training has as many steps an epoch as the learning rate's schedule counts on."""
    for count in range(1, 3 * BATCHES_A_BUCKET * 3):
        assert len(shuffled([1] * count, 3, seed=0)) == -(-count // 3)


def test_different_lengths_are_padded() -> None:
    rows = [
        {"tokens": torch.tensor([7, 8, 9]), "length": torch.tensor(3), "image": torch.ones(2, 4)},
        {"tokens": torch.tensor([5]), "length": torch.tensor(1), "image": torch.zeros(2, 4)},
    ]
    batch = collate(rows)
    assert batch["tokens"].tolist() == [[7, 8, 9], [5, 0, 0]]
    assert batch["length"].tolist() == [3, 1]
    assert batch["image"].shape == (2, 2, 4)
    assert torch.equal(batch["image"][0], rows[0]["image"])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.bfloat16])
def test_batches_keep_dtypes(dtype: torch.dtype) -> None:
    batch = collate([{"x": torch.ones(3, 2, dtype=dtype)}, {"x": torch.ones(1, 2, dtype=dtype)}])
    assert (batch["x"].dtype, batch["x"].shape) == (dtype, (2, 3, 2))
    assert not batch["x"][1, 1:].any()


def test_balanced_draws_equalise_labels() -> None:
    labels = ["positive"] * 800 + ["neutral"] * 50 + ["negative"] * 150
    drawn = [labels[index] for batch in shuffled([1] * 1000, 16, seed=3, balance=labels) for index in batch]
    assert len(drawn) == 1000
    for label in ("positive", "neutral", "negative"):
        assert drawn.count(label) == pytest.approx(333, abs=60)  # four standard deviations
