"""Covers: the digest of a base, by which the benchmark tells that trials leave it as it was."""

from collections.abc import Callable

from torch import Tensor

from benchmarks.memory import _digest
from src.modeling.base import ToneModel


def test_digest_reads_scalars(tiny_model: Callable[[str], ToneModel]) -> None:
    model = tiny_model("clip")
    before = _digest(model)
    assert _digest(tiny_model("clip")) == before
    scale = model.backbone.logit_scale
    assert isinstance(scale, Tensor) and scale.ndim == 0
    scale.data += 1
    assert _digest(model) != before
