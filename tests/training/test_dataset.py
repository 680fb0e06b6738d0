"""What a linear probe reads: the same as what a trained head would."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from src.core.records import Post
from src.modeling.base import ToneModel
from src.models.catalog import MODELS
from src.training.dataset import pooled
from src.training.inference import logits
from src.training.workspace import Workspace


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_equal_the_frozen_models(
    tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    model = tiny_model(name).to(dtype)
    data = Workspace(model, {"test": posts[:6]}, 4, tmp_path).data("test")
    found_ND = pooled(data, model.width)
    image_width = model.pooled_image_width if model.pools_image else 0
    assert found_ND.shape == (6, model.width + image_width)
    assert found_ND.dtype == np.float64
    assert np.isfinite(found_ND).all()
    # A readout that gives three of the features as they are.
    model.readout = torch.nn.Linear(model.width, 3, bias=False)
    model.readout.weight.data = torch.eye(3, model.width)
    assert np.array_equal(logits(model, data, 4).double().numpy(), found_ND[:, :3])
    if model.pools_image:
        linear = torch.nn.Linear(image_width, 3, bias=False)
        linear.weight.data = torch.eye(3, image_width)
        model.image_head = torch.nn.Sequential(linear)
        of_image_ND = logits(model, data, 4).double().numpy() - found_ND[:, :3]
        np.testing.assert_allclose(of_image_ND, found_ND[:, model.width : model.width + 3], atol=1e-5)
