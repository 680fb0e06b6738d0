from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from src.modeling.base import ToneModel
from src.modeling.language import LanguageToneModel
from src.modeling.last_layer import LayerParts
from src.models.clip import layer_parts

POSITIONS = torch.tensor([0, 6, 3])
LayerCase = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], int]


def case(model: ToneModel) -> LayerCase:
    """Return the whole last layer, the same layer at `POSITIONS`, and its width."""
    if isinstance(model, LanguageToneModel):
        layer, parts = model.decoder.layers[-1], model.layer_parts(model.decoder.layers[-1])

        def at(states_BTD: Tensor) -> Tensor:
            rotary = arguments(states_BTD).get("position_embeddings")
            return parts.forward_at(states_BTD, POSITIONS, causal=True, rotary=rotary)

        def arguments(states_BTD: Tensor) -> dict[str, Any]:
            return model.layer_arguments(states_BTD, torch.arange(states_BTD.shape[1])[None])

        return lambda states: layer(states, attention_mask=None, **arguments(states)), at, model.width
    layer = model.backbone.text_model.encoder.layers[-1]
    parts = layer_parts(layer)
    width = model.backbone.config.text_config.hidden_size
    return (
        lambda states: layer(states, None, is_causal=True),
        lambda s: parts.forward_at(s, POSITIONS, causal=True),
        width,
    )


@pytest.mark.parametrize("name", ["clip", "blip2", "llava", "tinyllava", "smol"])
def test_forward_at_equals_the_whole_layer(name: str, tiny_model: Callable[[str], ToneModel]) -> None:
    whole, at, width = case(tiny_model(name))
    torch.manual_seed(1)
    states = [torch.randn(3, 7, width, requires_grad=True) for _ in range(2)]
    states[1].data.copy_(states[0].data)
    expected_BD = whole(states[0])[torch.arange(3), POSITIONS]
    actual_BD = at(states[1])
    torch.testing.assert_close(actual_BD, expected_BD, rtol=0, atol=1e-5)
    weights_BD = torch.randn_like(actual_BD)
    gradients = [
        torch.autograd.grad((output_BD * weights_BD).sum(), states_BTD)[0]
        for output_BD, states_BTD in zip((expected_BD, actual_BD), states, strict=True)
    ]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-4)


def test_forward_at_without_causal_mask(tiny_model: Callable[[str], ToneModel]) -> None:
    layer: Any = tiny_model("clip").backbone.vision_model.encoder.layers[-1]
    states_BPD = torch.randn(3, 7, 96)
    actual_BD = layer_parts(layer).forward_at(states_BPD, POSITIONS, causal=False)
    torch.testing.assert_close(actual_BD, layer(states_BPD, None)[torch.arange(3), POSITIONS], rtol=0, atol=1e-5)


def test_forward_at_applies_dropout(tiny_model: Callable[[str], ToneModel]) -> None:
    model = tiny_model("blip2")
    assert isinstance(model, LanguageToneModel)
    layer = model.decoder.layers[-1]
    layer.dropout = 0.999999
    parts: LayerParts = model.layer_parts(layer)
    states_BTD = torch.randn(3, 7, model.width)
    eval_BD = parts.forward_at(states_BTD, POSITIONS, causal=True)
    layer.train()
    dropped_BD = parts.forward_at(states_BTD, POSITIONS, causal=True)
    torch.testing.assert_close(dropped_BD, states_BTD[torch.arange(3), POSITIONS])
    assert not torch.equal(eval_BD, dropped_BD)
