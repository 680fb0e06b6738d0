"""The last layer of a stack, computed at one position of each row.

The readout reads one token's state. The last layer therefore needs keys and values for all tokens, but queries,
attention and the feed-forward network for this one token only. That skips five sixths of the layer.

The price is a second implementation of attention: it follows the internals of transformers (names of projections,
`rotate_half`), and a new language model must define `layer_parts`. The worth is measured. A step of the six-layer
medium model takes 0.75 of its time (docs/performance.md). At the published sizes, `src/sizing/cost_profile.py` counts
these shares of a step's operations (LoRA on the default projections):

    adapter_layers   all    last-8   last-4   last-2   last-1
    tinyllava        0.96   0.88     0.75     0.50     0.01
    llava            0.97   0.89     0.78     0.55     0.09
    blip2            0.97   0.90     0.79     0.56     0.10

So the code pays most for trainings that adapt few layers.
`tests/modeling/test_last_layer.py` compares results and gradients with the whole layer, for every model.

Letters of tensor shapes: see `base`; H heads, G key-value heads, Q queries that share one key-value head, W width of a
head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention
from transformers.models.llama.modeling_llama import rotate_half

Rotary = tuple[Tensor, Tensor]
# keys_BGTW, rotated if the layer rotates them, and values_BGTW.
KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LayerParts:
    """The modules of a transformer layer that normalises before attention and before the feed-forward network."""

    # The norm before the attention.
    norm: nn.Module
    # The projections of queries, keys, values, and of the heads' output.
    q: nn.Module
    k: nn.Module
    v: nn.Module
    o: nn.Module
    # W.
    head_width: int
    # The norm before the feed-forward network, and the network.
    feed_norm: nn.Module
    feed: Callable[[Tensor], Tensor]
    # The dropout of both residual branches while the layer trains.
    dropout: float = 0.0

    @classmethod
    def of(
        cls, norm: nn.Module, attention: Any, output: str, feed_norm: nn.Module, feed: Any, p: float = 0.0
    ) -> "LayerParts":
        """Return the parts of a layer whose attention names its projections q_proj, k_proj, v_proj and `output`."""
        q, k, v, o = (getattr(attention, name) for name in ("q_proj", "k_proj", "v_proj", output))
        return cls(norm, q, k, v, o, attention.head_dim, feed_norm, feed, p)

    def forward_at(
        self,
        states_BTD: Tensor,
        position_B: Tensor,
        *,
        causal: bool,
        rotary: Rotary | None = None,
        prefix: KeysValues | None = None,
    ) -> Tensor:
        """Compute the layer's output state_BD at one position of each row.

        Args:
            states_BTD: the layer's input.
            position_B: the position in each row.
            causal: whether attention hides later positions.
            rotary: cosines and sines of all positions, [1, T, W] each; None if queries and keys are not rotated.
            prefix: keys and values of positions before the first one; every position looks at them.
        """
        rows_B = torch.arange(len(position_B), device=position_B.device)
        normed_BTD = self.norm(states_BTD)
        residual_BD, normed_BD = states_BTD[rows_B, position_B], normed_BTD[rows_B, position_B]
        keys_BGTW, values_BGTW = self._keys_values(normed_BTD, rotary)
        queries_BHW = self._queries(normed_BD, position_B, rotary)
        if prefix is not None:
            keys_BGTW, values_BGTW = torch.cat([prefix[0], keys_BGTW], 2), torch.cat([prefix[1], values_BGTW], 2)
            position_B = position_B + prefix[0].shape[2]
        # True where the position may look.
        mask_B11T = None
        if causal:
            length = keys_BGTW.shape[2]
            mask_B11T = (torch.arange(length, device=position_B.device) <= position_B[:, None])[:, None, None]
        queries_BGQW = queries_BHW.view(len(queries_BHW), keys_BGTW.shape[1], -1, self.head_width)
        heads_BGQW = scaled_dot_product_attention(queries_BGQW, keys_BGTW, values_BGTW, attn_mask=mask_B11T)
        state_BD = residual_BD + self._dropout(self.o(heads_BGQW.reshape(len(queries_BHW), -1)))
        return state_BD + self._dropout(self.feed(self.feed_norm(state_BD)))

    def keys_values(self, states_BTD: Tensor, rotary: Rotary | None = None) -> KeysValues:
        """Compute keys_BGTW and values_BGTW of all positions; arguments are those of `forward_at`."""
        return self._keys_values(self.norm(states_BTD), rotary)

    def _keys_values(self, normed_BTD: Tensor, rotary: Rotary | None) -> KeysValues:
        batch, length, _ = normed_BTD.shape
        keys_BGTW, values_BGTW = (
            part(normed_BTD).view(batch, length, -1, self.head_width).transpose(1, 2) for part in (self.k, self.v)
        )
        if rotary is not None:
            cos_1TW, sin_1TW = rotary
            keys_BGTW = keys_BGTW * cos_1TW[:, None] + rotate_half(keys_BGTW) * sin_1TW[:, None]
        return keys_BGTW, values_BGTW

    def _queries(self, normed_BD: Tensor, position_B: Tensor, rotary: Rotary | None) -> Tensor:
        queries_BHW: Tensor = self.q(normed_BD).view(len(normed_BD), -1, self.head_width)
        if rotary is not None:
            cos_B1W, sin_B1W = (table_1TW[0, position_B][:, None] for table_1TW in rotary)
            queries_BHW = queries_BHW * cos_B1W + rotate_half(queries_BHW) * sin_B1W
        return queries_BHW

    def _dropout(self, branch_BD: Tensor) -> Tensor:
        return dropout(branch_BD, self.dropout, self.norm.training)
