"""The prefix of a prompt in attention: its keys and values are recorded in one run, and read by the runs on the text.

The prefix is the prompt up to the end of the image. Both classes stand in for transformers' `Cache`, of which a layer
calls `update` alone. Letters of tensor shapes: see `last_layer`; L layers, P positions of the prefix.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from src.modeling.last_layer import KeysValues

# Rows of int8 that hold one row of scales, which are float32.
SCALE_ROWS = 4
# The largest magnitude of a rounded number.
_LARGEST = 127


class PrefixKeys:
    """The keys and values of a prefix, for the last layers of a stack that run on the text behind it.

    Args:
        keys_values_BL2GPW: the keys, rotated if the layers rotate them, and the values, in each of the last L layers.
        num_layers: the number of layers of the whole stack.
    """

    def __init__(self, keys_values_BL2GPW: Tensor, num_layers: int) -> None:
        self._keys_values_BL2GPW = keys_values_BL2GPW
        self._first = num_layers - keys_values_BL2GPW.shape[1]
        self.length = keys_values_BL2GPW.shape[-2]

    def of_layer(self, layer: int) -> KeysValues:
        """Return the keys and the values of a layer, by its number in the whole stack."""
        keys_BGPW, values_BGPW = self._keys_values_BL2GPW[:, layer - self._first].unbind(1)
        return keys_BGPW, values_BGPW

    def mask(self, states_BTD: Tensor) -> Tensor:
        """Return which positions each position of the text sees: the prefix, itself and those between, [1, 1, T, P+T].

        torch's own causal mask would begin at the first position of the prefix.
        """
        length = states_BTD.shape[1]
        ones_TT = torch.ones(length, self.length + length, dtype=torch.bool, device=states_BTD.device)
        return ones_TT.tril(self.length)[None, None]

    def update(self, keys_BGTW: Tensor, values_BGTW: Tensor, layer: int, *_: Any) -> KeysValues:
        """Return the keys and values of the prefix and of the text."""
        keys_BGPW, values_BGPW = self.of_layer(layer)
        return torch.cat([keys_BGPW, keys_BGTW], dim=2), torch.cat([values_BGPW, values_BGTW], dim=2)


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


def quantize(keys_values_BL2GPW: Tensor) -> Tensor:
    """Round keys and values to int8, with a scale for each head and channel of a post.

    A channel's scale is its largest magnitude over the prefix, divided by 127, so no number moves by more than half a
    scale. A few channels of keys are much larger than all others (C. Hooper et al., KVQuant, NeurIPS 2024, section
    3.1). One scale for a whole head would round the others to nothing.

    Returns:
        int8[B, L, 2, G, P + 4, W]. The last four rows are the bytes of the scales.
    """
    numbers = keys_values_BL2GPW.float()
    scales = numbers.abs().amax(dim=-2, keepdim=True) / _LARGEST
    scales = scales.clamp(min=torch.finfo(torch.float32).tiny)  # a channel of zeros
    bytes_ = scales.view(torch.int8).reshape(*scales.shape[:-2], SCALE_ROWS, -1)
    return torch.cat([(numbers / scales).round().to(torch.int8), bytes_], dim=-2)


def dequantize(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """Return keys_values_BL2GPW in a type, from the result of `quantize`."""
    numbers, bytes_ = packed[..., :-SCALE_ROWS, :], packed[..., -SCALE_ROWS:, :]
    scales = bytes_.flatten(-2).view(torch.float32).unsqueeze(-2)
    return (numbers * scales).to(dtype)
