"""Covers: the matrix products of `benchmarks/lib/floor.py`, counted by hand, and those of `benchmarks.step`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.lib import posts, sizes
from benchmarks.lib.floor import Product, Products
from benchmarks.lib.task import Task
from benchmarks.step import baseline_steps, project_step
from src.core.config import load_params

# A linear layer from 5 to 3 features on 6 rows.
LINEAR = Product(1, 6, 5, 3).flops


def flops(work: Callable[[], object]) -> float:
    with Products() as products:
        work()
    total: float = products.flops
    return total


def test_multiply_add_is_two_operations() -> None:
    assert LINEAR == 2 * 6 * 5 * 3
    assert Product(4, 6, 5, 3, share=0.5).flops == 2 * LINEAR


@pytest.mark.parametrize(
    ("trained", "reads_trained", "products"), [(False, False, 1), (False, True, 2), (True, False, 2), (True, True, 3)]
)
def test_frozen_weight_has_no_gradient(trained: bool, reads_trained: bool, products: int) -> None:
    layer = nn.Linear(5, 3).requires_grad_(trained)
    inputs = torch.randn(6, 5, requires_grad=reads_trained)

    def step() -> None:
        loss = layer(inputs).sum()
        if loss.requires_grad:
            loss.backward()

    assert flops(step) == products * LINEAR


def attention(causal: bool, backward: bool = True) -> None:
    query, key, value = (torch.randn(2, 3, 8, 4, requires_grad=True) for _ in range(3))
    output: Tensor = scaled_dot_product_attention(query, key, value, is_causal=causal)
    if backward:
        output.sum().backward()  # type: ignore[no-untyped-call]


def test_causal_attention_counts_half() -> None:
    product = Product(6, 8, 4, 8).flops
    assert flops(lambda: attention(causal=False, backward=False)) == 2 * product
    assert flops(lambda: attention(causal=False)) == 7 * product
    assert flops(lambda: attention(causal=True)) == 3.5 * product


def test_convolution_is_product_of_patches() -> None:
    patches = nn.Conv2d(3, 8, kernel_size=4, stride=4)
    with torch.no_grad():
        assert flops(lambda: patches(torch.randn(2, 3, 16, 16))) == 2 * (2 * 16) * (3 * 4 * 4) * 8


def test_project_step_skips_frozen_tower(tmp_path: Path) -> None:
    params = load_params()
    parts = posts.read(num_posts=48)
    sized = sizes.make("tinyllava", "tiny", tmp_path, [post.caption for post in parts.train])
    task = Task(sized, parts, params.seed, 1)
    settings = replace(params.training_config("tinyllava"), batch_size=4, dropout=0.0)
    tower = sized.load().backbone.model.vision_tower
    with Products() as vision, torch.no_grad():
        tower(torch.randn(4, 3, tower.config.image_size, tower.config.image_size))

    with project_step(task, settings, tmp_path / "cache") as step, Products() as project:
        step.run()
    with Products() as baseline:
        baseline_steps(task, settings, step.plan)(settings.batch_size)()

    assert vision.counts.keys() <= baseline.counts.keys()
    assert not vision.counts.keys() & project.counts.keys()
    assert vision.counts.total() + project.counts.total() < baseline.counts.total()
