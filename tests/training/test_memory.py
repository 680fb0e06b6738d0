"""The largest number of posts at once; a GPU's own measurements are in the test that needs one."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from src.core.errors import OutOfMemory
from src.core.labels import TONES
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.modeling.base import ToneModel
from src.models.catalog import model_class
from src.sizing.footprint import measure_footprint
from src.training.adapter import fresh_adapter
from src.training.cache import FeatureStore
from src.training.dataset import LabelledFeatures
from src.training.loss import Loss
from src.training.memory import largest_that_fits, micro_batch

SETTINGS = TrainingConfig(
    readout="head", rank=2, alpha=2, dropout=0.1, lr=0.001, batch_size=4, gradient_accumulation_steps=4
)


class Device:
    """Takes `fixed` bytes and `each` for a post, and remembers what it was asked."""

    def __init__(self, fixed: int, each: int) -> None:
        self.fixed, self.each = fixed, each
        self.asked: list[int] = []

    def __call__(self, posts: int) -> int:
        self.asked.append(posts)
        return self.fixed + posts * self.each


@pytest.mark.parametrize(
    ("room", "expected"), [(100 + 16 * 10, 16), (100 + 16 * 10 - 1, 8), (100 + 25, 2), (110, 1), (1e12, 16)]
)
def test_largest_fitting_divisor_is_chosen(room: float, expected: int) -> None:
    device = Device(fixed=100, each=10)
    assert largest_that_fits(16, room, device) == expected
    assert device.asked == [1, 2]


def test_micro_batches_divide_the_batch() -> None:
    assert largest_that_fits(12, 100 + 50, Device(100, 10)) == 4
    assert largest_that_fits(7, 100 + 50, Device(100, 10)) == 1


def test_second_post_may_not_fit() -> None:
    def peak(posts: int) -> int:
        if posts > 1:
            raise torch.OutOfMemoryError("no memory for two")
        return 100

    assert largest_that_fits(8, 109, peak) == 1


def test_too_large_post_names_remedies() -> None:
    with pytest.raises(OutOfMemory, match=r"a step of one post takes 0\.0 GB .* set gradient_checkpointing"):
        largest_that_fits(8, 109, Device(100, 10))


def test_micro_batch_equals_the_dry_run() -> None:
    """The rehearsal's memory is a fixed part and one for each post too."""
    footprint = measure_footprint(model_class("tinyllava"), SETTINGS, {"train": 1})
    for gib in (6, 10, 20, 80):
        room = gib * 2**30 * 0.9
        plan = next(plan for plan in footprint.plans() if plan.bytes <= room and not plan.gradient_checkpointing)
        assert largest_that_fits(16, room, lambda posts: footprint.step_bytes(posts, False)) == plan.micro_batch


def data_of(model: ToneModel, posts: list[Post], cache: object) -> LabelledFeatures:
    store = FeatureStore.of(cache, model)  # type: ignore[arg-type]
    store.ensure(model, posts, 16, lambda _: None)
    return LabelledFeatures(posts, store.table(posts), TONES)


def test_cpu_keeps_the_settings(tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: object) -> None:
    model = tiny_model("tinyllava")
    with fresh_adapter(model, SETTINGS, seed=1):
        data = data_of(model, posts[:8], tmp_path)
        assert micro_batch(model, data, SETTINGS, Loss.of(SETTINGS, data.labels(range(8)), 3)) == 4


@pytest.mark.gpu
def test_gpu_takes_the_whole_step(tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: object) -> None:
    model = tiny_model("tinyllava").to("cuda")
    settings = replace(SETTINGS, dropout=0.5)
    with fresh_adapter(model, settings, seed=1):
        data = data_of(model, posts[:16], tmp_path)
        state = torch.cuda.get_rng_state()
        assert micro_batch(model, data, settings, Loss.of(settings, data.labels(range(16)), 3)) == 16
        assert torch.equal(torch.cuda.get_rng_state(), state)
        assert all(weight.grad is None for weight in model.parameters())
