"""Memory and operations of a model's computation, counted by running it on torch's meta device.

A tensor there has a shape and no content. The code that runs is the code that trains: the model's segments, peft's
adapters, the loss, autograd and gradient checkpointing. So no formula has to be kept equal to the code.

- Memory: a storage counts from the operation that allocates it until nothing holds it. The highest sum is the peak.
  Weights, their gradients and the optimizer's moments are not counted.
- Operations: torch's own formulas for matrix products, convolutions and attention. A multiplication and an addition are
  two operations. Element-wise operations are not counted. Autograd computes no gradients for frozen weights, so a step
  takes about 4 operations for each weight and token instead of 6. Cached segments take none.

`gpu_semantics_on_meta` corrects two differences between the meta device and a GPU:

- Attention. The meta device would keep T times T weights for every head. A GPU uses a fused kernel (T. Dao et al.,
  FlashAttention, NeurIPS 2022), which keeps its inputs, its output and one number for each row. With a mask it uses the
  memory-efficient kernel, because only that one accepts a mask.
- Dropout. A GPU keeps one byte for each element instead of a number in the precision of the input.

The CUDA context, cuBLAS's workspaces and the allocator's rounding are not counted.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from src.core.training_config import TrainingConfig
from src.modeling.base import Features, ToneModel
from src.training.loss import Loss
from src.training.memory import set_checkpointing

R = TypeVar("R")


@dataclass(frozen=True)
class Cost:
    """The cost of a computation."""

    # The highest sum of bytes that were allocated at once.
    peak_bytes: int
    # Floating-point operations.
    flops: int


def profile_encode(model: ToneModel, inputs: Features) -> tuple[Features, Cost]:
    """Run `encode` on a batch of inputs on the meta device, and return the features and the cost."""
    model.eval()
    return measure(lambda: model.encode(inputs), _permanent_tensors(model), inputs.values())


def profile_step(model: ToneModel, features: Features, settings: TrainingConfig, gradient_checkpointing: bool) -> Cost:
    """Return the cost of one batch in a training, from its cached features to the gradients of all trained weights."""
    (num_posts,) = {len(value) for value in features.values()}
    labels_B = torch.zeros(num_posts, dtype=torch.long)
    loss = Loss.of(settings, labels_B, len(model.labels))
    meta_labels_B = labels_B.to(model.device)
    set_checkpointing(model.backbone, gradient_checkpointing)
    model.train()
    for weight in model.parameters():
        if weight.requires_grad:
            # A later batch of a step adds to gradients that exist already.
            weight.grad = torch.zeros_like(weight)

    def run() -> None:
        loss(model(features, with_image=False), meta_labels_B).backward()  # type: ignore[no-untyped-call]

    _, cost = measure(run, _permanent_tensors(model), features.values())
    model.zero_grad(set_to_none=True)
    return cost


def measure(run: Callable[[], R], excluded: Iterable[Tensor], included: Iterable[Tensor]) -> tuple[R, Cost]:
    """Run a function on the meta device, and return its result and its cost.

    Args:
        run: the function.
        excluded: existing tensors whose memory does not count, such as weights.
        included: existing tensors whose memory counts, such as the batch.
    """
    meter = _Meter(excluded, included)
    with gpu_semantics_on_meta(), meter:
        result = run()
    return result, Cost(meter.peak, meter.flops)


@contextmanager
def gpu_semantics_on_meta() -> Iterator[None]:
    """Make the meta device allocate the same tensors as a GPU, as the module's docstring describes."""
    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    try:
        # Torch decomposes these operations before autograd sees them, so the replacements need autograd's own key.
        library.impl("scaled_dot_product_attention", _attention, "AutogradMeta")
        library.impl("dropout", lambda values, p, train: torch.native_dropout(values, p, train)[0], "AutogradMeta")
        yield
    finally:
        del library  # this removes the replacements


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if attn_mask is None:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention  # noqa: SLF001 - the operator's name
        fused: Tensor = kernel(query, key, value, dropout_p, is_causal, scale=scale)[0]
        return fused
    assert not enable_gqa, "transformers repeats the key-value heads itself if there is a mask"
    # The kernel adds the mask to scores, so every layer first converts the mask to numbers.
    bias = torch.empty_like(attn_mask, dtype=query.dtype).expand(*query.shape[:-1], key.shape[-2])
    needs_gradient = query.requires_grad or key.requires_grad or value.requires_grad
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention  # noqa: SLF001
    result: Tensor = kernel(query, key, value, bias, needs_gradient, dropout_p, is_causal, scale=scale)[0]
    return result


def _permanent_tensors(model: ToneModel) -> list[Tensor]:
    """Return the weights, buffers and gradients of a model, which are counted apart from activations."""
    weights = list(model.parameters())
    return [*weights, *model.buffers(), *(weight.grad for weight in weights if weight.grad is not None)]


def _with_equal_heads(func: Any, args: Sequence[Any]) -> list[Any]:
    """Give attention as many key-value heads as query heads: torch 2.11's formula assumes equal numbers."""
    if "attention" not in func.overloadpacket.__name__:
        return list(args)
    has_heads = [isinstance(value, Tensor) and value.dim() == 4 for value in args]
    heads = max(value.shape[1] for value, with_heads in zip(args, has_heads, strict=True) if with_heads)
    return [
        value.new_empty(value.shape[0], heads, *value.shape[2:]) if with_heads else value
        for value, with_heads in zip(args, has_heads, strict=True)
    ]


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count operations, and the bytes of all storages that are alive."""

    def __init__(self, excluded: Iterable[Tensor], included: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.peak = 0
        self._bytes = 0
        # Storages by id: those counted, and those excluded, which are held so that no other storage gets their id.
        # Python keeps a storage's object alive as long as the storage itself, so the id identifies the storage.
        self._alive: dict[int, object] = {}
        for tensor in excluded:
            storage = tensor.untyped_storage()
            self._alive[id(storage)] = storage
        for tensor in included:
            self._count(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*_with_equal_heads(func, args), **(kwargs or {}), out_val=result)
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        size = storage.nbytes()
        if key not in self._alive:
            # The weak reference calls `_forget` when the last tensor of the storage is gone.
            self._alive[key] = weakref.ref(storage, partial(self._forget, key, size))
            self._bytes += size
            self.peak = max(self.peak, self._bytes)

    def _forget(self, key: int, size: int, _: object) -> None:
        del self._alive[key]
        self._bytes -= size
