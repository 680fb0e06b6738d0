"""The last layer of a stack, computed where it is read: at one position of each row. And checkpointing of all layers.

What is pooled is one token's state, and of the other tokens the last layer needs keys and values alone. Their queries,
their attention and their feed-forward network, five sixths of a layer, would be computed for nobody.

Letters of tensor shapes: see `base`; H heads, G key-value heads, Q queries that share one, W width of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention
from transformers.models.llama.modeling_llama import rotate_half

Rotary = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LayerParts:
    """A transformer layer that normalises before it computes, by what it consists of.

    Attributes:
        norm: before the attention.
        q: the projection of queries; `k` of keys, `v` of values, `o` of what the heads give.
        head_width: W.
        feed_norm: before the feed-forward network.
        feed: the feed-forward network.
        dropout: of what the attention and the network add, while the layer trains.
    """

    norm: nn.Module
    q: nn.Module
    k: nn.Module
    v: nn.Module
    o: nn.Module
    head_width: int
    feed_norm: nn.Module
    feed: Callable[[Tensor], Tensor]
    dropout: float = 0.0

    @classmethod
    def of(
        cls, norm: nn.Module, attention: Any, output: str, feed_norm: nn.Module, feed: Any, p: float = 0.0
    ) -> "LayerParts":
        """The parts of a layer whose attention calls its projections q_proj, k_proj, v_proj and `output`."""
        q, k, v, o = (getattr(attention, name) for name in ("q_proj", "k_proj", "v_proj", output))
        return cls(norm, q, k, v, o, attention.head_dim, feed_norm, feed, p)

    def forward_at(self, states_BTD: Tensor, place_B: Tensor, *, causal: bool, rotary: Rotary | None = None) -> Tensor:
        """What the layer makes of the state at `place_B` of each row: state_BD.

        Args:
            states_BTD: the states that it reads.
            place_B: the position that is wanted.
            causal: whether later positions are hidden from it.
            rotary: cosines and sines of all positions, [1, T, W] each, where queries and keys are rotated.
        """
        rows_B = torch.arange(len(place_B), device=place_B.device)
        normed_BTD, residual_BD = self.norm(states_BTD), states_BTD[rows_B, place_B]
        heads_BD = self._attend(normed_BTD, normed_BTD[rows_B, place_B], place_B, causal, rotary)
        state_BD = residual_BD + self._dropped(self.o(heads_BD))
        return state_BD + self._dropped(self.feed(self.feed_norm(state_BD)))

    def _attend(
        self, normed_BTD: Tensor, wanted_BD: Tensor, place_B: Tensor, causal: bool, rotary: Rotary | None
    ) -> Tensor:
        batch, length, _ = normed_BTD.shape
        keys_BGTW, values_BGTW = (
            part(normed_BTD).view(batch, length, -1, self.head_width).transpose(1, 2) for part in (self.k, self.v)
        )
        queries_BHW = self.q(wanted_BD).view(batch, -1, self.head_width)
        if rotary is not None:
            cos_1TW, sin_1TW = rotary
            keys_BGTW = keys_BGTW * cos_1TW[:, None] + rotate_half(keys_BGTW) * sin_1TW[:, None]
            cos_B1W, sin_B1W = cos_1TW[0, place_B][:, None], sin_1TW[0, place_B][:, None]
            queries_BHW = queries_BHW * cos_B1W + rotate_half(queries_BHW) * sin_B1W
        seen_B11T = None
        if causal:
            seen_B11T = (torch.arange(length, device=place_B.device) <= place_B[:, None])[:, None, None]
        queries_BGQW = queries_BHW.view(batch, keys_BGTW.shape[1], -1, self.head_width)
        heads_BGQW = scaled_dot_product_attention(queries_BGQW, keys_BGTW, values_BGTW, attn_mask=seen_B11T)
        return heads_BGQW.reshape(batch, -1)

    def _dropped(self, added_BD: Tensor) -> Tensor:
        return dropout(added_BD, self.dropout, self.norm.training)
