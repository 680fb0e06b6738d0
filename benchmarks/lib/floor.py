"""The floor of a training step: its matrix products, their operations, and the time that they take by themselves.

Only executed operations count: a frozen weight has no weight gradient, and causal attention computes half.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.lib.timing import seconds_of

ATTENTION = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn",
)


@dataclass(frozen=True)
class Product:
    """A batched matrix product of [batch, m, k] by [batch, k, n]."""

    batch: int
    m: int
    k: int
    n: int
    # The part that is computed: 0.5 for causal attention.
    share: float = 1.0

    @property
    def flops(self) -> float:
        """The operations; a multiplication and an addition count as two."""
        return 2.0 * self.batch * self.m * self.k * self.n * self.share


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that records the matrix products which torch runs in it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = [argument.name for argument in func._schema.arguments]  # noqa: SLF001 # torch has no other way
        named = dict(zip(names, args, strict=False))
        self.counts.update(_products(func.overloadpacket.__name__, args, {**named, **(kwargs or {})}))
        return func(*args, **(kwargs or {}))

    @property
    def flops(self) -> float:
        """The operations of all products."""
        return sum(product.flops * count for product, count in self.counts.items())


def _products(name: str, args: Sequence[Any], named: Mapping[str, Any]) -> list[Product]:
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
        query, key, causal = named["query"], named["key"], named.get("is_causal", False)
        product = Product(
            query.shape[0] * query.shape[1], query.shape[2], query.shape[3], key.shape[2], 0.5 if causal else 1
        )
        return [product] * (5 if backward else 2)
    return []


def floor_s(counts: Counter[Product], dtype: torch.dtype, repeats: int = 5) -> float:
    """Return the seconds of all products. Each shape is timed by itself."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return sum(count * product.share * _product_s(product, device, dtype, repeats) for product, count in counts.items())


def _product_s(product: Product, device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    left = torch.randn(product.batch, product.m, product.k, device=device, dtype=dtype)
    right = torch.randn(product.batch, product.k, product.n, device=device, dtype=dtype)
    if product.batch == 1:
        return median(seconds_of(lambda: left[0] @ right[0], repeats))
    return median(seconds_of(lambda: torch.bmm(left, right), repeats))
