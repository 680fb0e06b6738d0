"""The prefix of a prompt in attention: its keys and values are recorded in one run, and read by the runs on the text.

The prefix is the prompt up to the end of the image. The recorder stands in for transformers' `Cache`, of which a layer
calls `update` alone, and `attend` is an implementation of attention in transformers' `AttentionInterface`.

Letters of tensor shapes: see `last_layer`; L layers, P positions of the prefix.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from src.modeling.last_layer import KeysValues

# The name of `attend` among transformers' implementations of attention.
ATTENTION = "sdpa_behind_prefix"
# Rows of int8 that hold one row of scales, which are float32.
SCALE_ROWS = 4
# The largest magnitude of a rounded number.
_LARGEST = 127


class PrefixKeys:
    """The keys and values of a prefix, for the last layers of a stack that run on the text behind it.

    Args:
        rows: the keys, rotated if the layers rotate them, and the values, in each of the last L layers:
            keys_values_BL2GPW, or what `quantize` makes of them.
        num_layers: the number of layers of the whole stack.
        dtype: the precision in which layers read rounded keys and values.
    """

    def __init__(self, rows: Tensor, num_layers: int, dtype: torch.dtype) -> None:
        self._rows = rows
        self._first = num_layers - rows.shape[1]
        self._dtype = dtype
        self._rounded = rows.dtype is torch.int8
        self.length = rows.shape[-2] - (SCALE_ROWS if self._rounded else 0)

    def of_layer(self, layer: int) -> KeysValues:
        """Return the keys and the values of a layer, by its number in the whole stack."""
        # One layer at a time: those of all layers, in full precision, would outweigh what rounding saves.
        row = self._rows[:, layer - self._first]
        keys_BGPW, values_BGPW = (dequantize(row, self._dtype) if self._rounded else row).unbind(1)
        return keys_BGPW, values_BGPW

    def mask(self, states_BTD: Tensor) -> Tensor:
        """Return which positions each position of the text sees: the prefix, itself and those between, [1, 1, T, P+T].

        torch's own causal mask would begin at the first position of the prefix.
        """
        length = states_BTD.shape[1]
        ones_TT = torch.ones(length, self.length + length, dtype=torch.bool, device=states_BTD.device)
        return ones_TT.tril(self.length)[None, None]


def attend(
    module: Any,
    queries_BHTW: Tensor,
    keys_BGTW: Tensor,
    values_BGTW: Tensor,
    attention_mask: Tensor | None,
    *,
    prefix: PrefixKeys | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute attention as transformers' `sdpa` does, behind a prefix if a layer is given one.

    The keys and values of prefix and text are joined again in the backward pass. Kept from the forward pass, they would
    be most of a step's memory: each is as long as the prompt, and grouped heads repeat it.
    """
    if prefix is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, queries_BHTW, keys_BGTW, values_BGTW, attention_mask, **options
        )

    def attend_joined(queries_BHTW: Tensor, keys_BGTW: Tensor, values_BGTW: Tensor) -> Tensor:
        keys_BGPW, values_BGPW = prefix.of_layer(module.layer_idx)
        joined = (torch.cat([keys_BGPW, keys_BGTW], dim=2), torch.cat([values_BGPW, values_BGTW], dim=2))
        heads_BTHW: Tensor = sdpa_attention_forward(module, queries_BHTW, *joined, attention_mask, **options)[0]
        return heads_BTHW

    return checkpoint(attend_joined, queries_BHTW, keys_BGTW, values_BGTW, use_reentrant=False), None


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class _Recorder:
    """The keys and values of the one layer that runs with it."""

    def __init__(self) -> None:
        self.recorded: list[KeysValues] = []

    def update(self, keys_BGPW: Tensor, values_BGPW: Tensor, *_: Any) -> KeysValues:
        self.recorded.append((keys_BGPW, values_BGPW))
        return keys_BGPW, values_BGPW


def run_and_record(layer: nn.Module, arguments: Mapping[str, Any], states_BPD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run a layer on all positions of a prefix, and return the states after it, its keys and its values.

    `arguments` are those that the layer takes besides its states.
    """
    recorder = _Recorder()
    states_BPD = layer(states_BPD, attention_mask=None, past_key_values=recorder, **arguments)
    ((keys_BGPW, values_BGPW),) = recorder.recorded
    return states_BPD, keys_BGPW, values_BGPW


def as_feature(keys_values: Sequence[Tensor], *, rounded: bool) -> Tensor:
    """Return a layer's keys and values, [B, G, P, W] each, as a row of the feature that `PrefixKeys` reads."""
    keys_values_B2GPW = torch.stack(list(keys_values), dim=1)
    return quantize(keys_values_B2GPW) if rounded else keys_values_B2GPW


def quantize(keys_values: Tensor) -> Tensor:
    """Round keys and values to int8, with a scale for each head and channel of a post.

    A channel's scale is its largest magnitude over the prefix, divided by 127, so no number moves by more than half a
    scale. A few channels of keys are much larger than all others (C. Hooper et al., KVQuant, NeurIPS 2024, section
    3.1). One scale for a whole head would round the others to nothing.

    Args:
        keys_values: numbers of shape [..., P, W].

    Returns:
        int8[..., P + 4, W]. The last four rows are the bytes of the scales.
    """
    numbers = keys_values.float()
    scales = numbers.abs().amax(dim=-2, keepdim=True) / _LARGEST
    scales = scales.clamp(min=torch.finfo(torch.float32).tiny)  # a channel of zeros
    bytes_ = scales.view(torch.int8).reshape(*scales.shape[:-2], SCALE_ROWS, -1)
    return torch.cat([(numbers / scales).round().to(torch.int8), bytes_], dim=-2)


def dequantize(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """Return keys and values of a type, [..., P, W], from the result of `quantize`."""
    numbers, bytes_ = packed[..., :-SCALE_ROWS, :], packed[..., -SCALE_ROWS:, :]
    # Cloned, because a view of four bytes as one number has to begin at a multiple of four.
    scales = bytes_.flatten(-2).clone(memory_format=torch.contiguous_format).view(torch.float32).unsqueeze(-2)
    return (numbers * scales).to(dtype)
