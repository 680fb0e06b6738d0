"""The floor of a step: the products that it is counted from, by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import posts, sizes
from benchmarks.products import Product, Products
from benchmarks.step import peer_steps, stepping
from benchmarks.task import Task
from src.core.config import load_params

LINEAR = Product(1, 6, 5, 3).flops  # six rows of five numbers, to three


def flops(work: Callable[[], object]) -> float:
    with Products() as found:
        work()
    flops: float = found.flops
    return flops


def test_a_multiplication_and_an_addition_are_two_operations() -> None:
    assert LINEAR == 2 * 6 * 5 * 3
    assert Product(4, 6, 5, 3, share=0.5).flops == 2 * LINEAR


@pytest.mark.parametrize(
    ("trained", "reads_trained", "products"), [(False, False, 1), (False, True, 2), (True, False, 2), (True, True, 3)]
)
def test_a_frozen_weight_costs_no_gradient_of_its_own(trained: bool, reads_trained: bool, products: int) -> None:
    layer = nn.Linear(5, 3).requires_grad_(trained)
    inputs = torch.randn(6, 5, requires_grad=reads_trained)

    def step() -> None:
        found = layer(inputs).sum()
        if found.requires_grad:
            found.backward()

    assert flops(step) == products * LINEAR


def attention(causal: bool, back: bool = True) -> None:
    query, key, value = (torch.randn(2, 3, 8, 4, requires_grad=True) for _ in range(3))
    found: Tensor = scaled_dot_product_attention(query, key, value, is_causal=causal)
    if back:
        found.sum().backward()  # type: ignore[no-untyped-call]


def test_attention_is_two_products_and_back_five_and_half_of_each_where_it_is_causal() -> None:
    one = Product(6, 8, 4, 8).flops
    assert flops(lambda: attention(causal=False, back=False)) == 2 * one
    assert flops(lambda: attention(causal=False)) == 7 * one
    assert flops(lambda: attention(causal=True)) == 3.5 * one


def test_a_convolution_is_the_product_of_its_patches() -> None:
    patches = nn.Conv2d(3, 8, kernel_size=4, stride=4)
    with torch.no_grad():
        assert flops(lambda: patches(torch.randn(2, 3, 16, 16))) == 2 * (2 * 16) * (3 * 4 * 4) * 8


def test_a_step_of_ours_has_none_of_the_frozen_tower_s_products(tmp_path: Path) -> None:
    params = load_params()
    parts = posts.read(num_posts=48)
    sized = sizes.make("tinyllava", "tiny", tmp_path, [post.caption for post in parts.train])
    task = Task(sized, parts, params.seed, 1)
    settings = replace(params.training_config("tinyllava"), batch_size=4, dropout=0.0)
    tower = sized.load().backbone.model.vision_tower
    with Products() as vision, torch.no_grad():
        tower(torch.randn(4, 3, tower.config.image_size, tower.config.image_size))

    with stepping(task, settings, tmp_path / "cache") as side, Products() as ours:
        side.run()
    with Products() as peers:
        peer_steps(task, settings, side.plan)(settings.batch_size)()

    assert vision.counts.keys() <= peers.counts.keys()
    assert not vision.counts.keys() & ours.counts.keys()
    assert vision.counts.total() + ours.counts.total() < peers.counts.total()
