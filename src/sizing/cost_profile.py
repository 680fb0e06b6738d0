"""What running a model takes, found by running it on the meta device: the real code, without data or memory.

A tensor there has a shape and no content. What runs is the code that trains: the model's segments, peft's adapters,
the loss, autograd and checkpointing. So there is no formula that could fall behind it:

- Memory: a storage counts from the operation that makes it until nothing holds it any more; the highest sum is the
  peak. Weights, their gradients and the optimiser's moments are not in it.
- Computation: torch's own formulas for matrix products, convolutions and attention, where a multiplication and an
  addition are two operations; what works element by element is left out. Autograd makes no gradients for frozen
  weights, so a step comes to about 4 operations a weight and token instead of 6, and to none for what is cached.

`gpu_semantics_on_meta` mends what the meta device would do otherwise than a GPU:

- Attention. It would keep T times T weights for every head. A GPU takes a fused kernel (T. Dao et al.,
  FlashAttention, NeurIPS 2022), which keeps its inputs, its output and one number for each row; where there is a mask,
  the memory-efficient one, which alone takes it.
- Dropout. A GPU keeps one byte for each element, not a number in the precision of the input.
- Questions about content, such as whether a batch is free of padding, have no answer there. Here it is no.

Nobody counts the CUDA context, cuBLAS's workspaces and what the allocator loses to rounding.
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
    """What running something takes: the peak of the bytes that it holds, and floating-point operations."""

    peak_bytes: int
    flops: int


def profile_encode(model: ToneModel, inputs: Features) -> tuple[Features, Cost]:
    """What `encode` gives for a batch of inputs on the meta device, and what it takes."""
    model.eval()
    return measure(lambda: model.encode(inputs), _held(model), inputs.values())


def profile_step(model: ToneModel, features: Features, settings: TrainingConfig, gradient_checkpointing: bool) -> Cost:
    """What a batch of training takes, from its cached features to the gradients of all that is trainable."""
    (num_posts,) = {len(value) for value in features.values()}
    labels_B = torch.zeros(num_posts, dtype=torch.long)
    loss, blank_B = Loss.of(settings, labels_B), labels_B.to(model.device)
    set_checkpointing(model.backbone, gradient_checkpointing)
    model.train()
    for weight in model.parameters():
        if weight.requires_grad:
            # As after an earlier batch of the same step: what comes now is added to it.
            weight.grad = torch.zeros_like(weight)
    _, cost = measure(lambda: loss(model(features), blank_B).backward(), _held(model), features.values())  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    return cost


def measure(run: Callable[[], R], held: Iterable[Tensor], given: Iterable[Tensor]) -> tuple[R, Cost]:
    """What `run` returns and what it takes on the meta device.

    Args:
        run: what to run.
        held: tensors that are there already and do not count.
        given: tensors that are there already and count.
    """
    meter = _Meter(held, given)
    with gpu_semantics_on_meta(), meter:
        result = run()
    return result, Cost(meter.peak, meter.flops)


@contextmanager
def gpu_semantics_on_meta() -> Iterator[None]:
    """Let the meta device keep what a GPU keeps, as the module's docstring says."""
    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    try:
        # Torch takes these operations apart before autograd sees them, so they are replaced at autograd's own key.
        library.impl("scaled_dot_product_attention", _attention, "AutogradMeta")
        library.impl("dropout", lambda values, p, train: torch.native_dropout(values, p, train)[0], "AutogradMeta")
        library.impl("is_nonzero", lambda _: False, "AutogradMeta")
        yield
    finally:
        del library  # and with it what it replaced


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
        kernel = torch.ops.aten._scaled_dot_product_flash_attention  # noqa: SLF001 - so is the operator called
        fused: Tensor = kernel(query, key, value, dropout_p, is_causal, scale=scale)[0]
        return fused
    assert not enable_gqa, "transformers leaves it alone where there is a mask"
    # The kernel adds the mask, so it must be made a number first, in every layer anew.
    bias = torch.empty_like(attn_mask, dtype=query.dtype).expand(*query.shape[:-1], key.shape[-2])
    trains = query.requires_grad or key.requires_grad or value.requires_grad
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention  # noqa: SLF001
    result: Tensor = kernel(query, key, value, bias, trains, dropout_p, is_causal, scale=scale)[0]
    return result


def _held(model: ToneModel) -> list[Tensor]:
    weights = list(model.parameters())
    return [*weights, *model.buffers(), *(weight.grad for weight in weights if weight.grad is not None)]


def _with_equal_heads(func: Any, args: Sequence[Any]) -> list[Any]:
    """Give attention as many heads of keys and values as of queries, for torch 2.11's formula knows no other."""
    if "attention" not in func.overloadpacket.__name__:
        return list(args)
    of_heads = [value for value in args if isinstance(value, Tensor) and value.dim() == 4]
    heads = max(value.shape[1] for value in of_heads)
    return [
        value.new_empty(value.shape[0], heads, *value.shape[2:]) if any(value is one for one in of_heads) else value
        for value in args
    ]


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that are alive, and the operations."""

    def __init__(self, held: Iterable[Tensor], given: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.peak = self._bytes = 0
        # Python keeps a storage's object as long as the storage itself, so its id names it.
        self._alive: dict[int, object] = {}
        for tensor in held:
            storage = tensor.untyped_storage()
            self._alive[id(storage)] = storage
        for tensor in given:
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
        key, size = id(storage), storage.nbytes()
        if key not in self._alive:
            self._alive[key] = weakref.ref(storage, partial(self._forget, key, size))
            self._bytes += size
            self.peak = max(self.peak, self._bytes)

    def _forget(self, key: int, size: int, _: object) -> None:
        del self._alive[key]
        self._bytes -= size
