"""One position of a layer, computed alone, is what the whole layer gives there."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from src.modeling.base import ToneModel
from src.modeling.language import LanguageToneModel
from src.modeling.last_layer import LayerParts
from src.models.clip import _parts_of

PLACES = torch.tensor([0, 6, 3])
PlannedExperiment = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], int]


def case(model: ToneModel) -> PlannedExperiment:
    """The last layer whole, the same at `PLACES`, and its width."""
    if isinstance(model, LanguageToneModel):
        layer, parts = model.decoder.layers[-1], model.layer_parts(model.decoder.layers[-1])

        def at(states_BTD: Tensor) -> Tensor:
            rotary = model.layer_arguments(states_BTD).get("position_embeddings")
            return parts.forward_at(states_BTD, PLACES, causal=True, rotary=rotary)

        return lambda states: layer(states, attention_mask=None, **model.layer_arguments(states)), at, model.width
    layer = model.backbone.text_model.encoder.layers[-1]
    parts = _parts_of(layer)
    width = model.backbone.config.text_config.hidden_size
    return lambda states: layer(states, None, is_causal=True), lambda s: parts.forward_at(s, PLACES, causal=True), width


@pytest.mark.parametrize("name", ["clip", "blip2", "llava", "tinyllava"])
def test_a_layer_at_one_place_is_the_layer_at_that_place(name: str, tiny_model: Callable[[str], ToneModel]) -> None:
    whole, at, width = case(tiny_model(name))
    torch.manual_seed(1)
    states = [torch.randn(3, 7, width, requires_grad=True) for _ in range(2)]
    states[1].data.copy_(states[0].data)
    expected_BD, found_BD = whole(states[0])[torch.arange(3), PLACES], at(states[1])
    torch.testing.assert_close(found_BD, expected_BD, rtol=0, atol=1e-5)
    weights_BD = torch.randn_like(found_BD)
    gradients = [
        torch.autograd.grad((out * weights_BD).sum(), one)[0]
        for out, one in zip((expected_BD, found_BD), states, strict=True)
    ]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-4)


def test_without_causality_all_positions_are_seen(tiny_model: Callable[[str], ToneModel]) -> None:
    layer: Any = tiny_model("clip").backbone.vision_model.encoder.layers[-1]
    states_BPD = torch.randn(3, 7, 96)
    found_BD = _parts_of(layer).forward_at(states_BPD, PLACES, causal=False)
    torch.testing.assert_close(found_BD, layer(states_BPD, None)[torch.arange(3), PLACES], rtol=0, atol=1e-5)


def test_what_a_layer_drops_while_it_trains_is_dropped_here_too(tiny_model: Callable[[str], ToneModel]) -> None:
    model = tiny_model("blip2")
    assert isinstance(model, LanguageToneModel)
    layer = model.decoder.layers[-1]
    layer.dropout = 0.999999
    parts: LayerParts = model.layer_parts(layer)
    states_BTD = torch.randn(3, 7, model.width)
    still_BD = parts.forward_at(states_BTD, PLACES, causal=True)
    layer.train()
    dropped_BD = parts.forward_at(states_BTD, PLACES, causal=True)
    torch.testing.assert_close(dropped_BD, states_BTD[torch.arange(3), PLACES])
    assert not torch.equal(still_BD, dropped_BD)
