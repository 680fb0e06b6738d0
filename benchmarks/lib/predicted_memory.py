"""Peak memory of one training step, predicted as the dry run of `tune` predicts it, for a loaded model and a batch."""

import copy

import torch
from torch import Tensor, nn

from src.core.training_config import TrainingConfig
from src.modeling.base import Features, ToneModel
from src.sizing.cost_profile import profile_step
from src.sizing.meta_model import META


def step_bytes(model: ToneModel, features: Features, settings: TrainingConfig) -> int:
    """Return the peak bytes of a step: weights, gradients, AdamW's two moments, and the batch."""
    weight_bytes = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    trained_bytes = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    # A trained weight has a gradient and two moments of its own size.
    return weight_bytes + 3 * trained_bytes + batch_bytes(model, features, settings)


def batch_bytes(model: ToneModel, features: Features, settings: TrainingConfig) -> int:
    """Return the peak bytes of a batch: its features and the activations of the step."""
    blank = {name: value.to(META) for name, value in features.items()}
    return profile_step(on_meta(model), blank, settings, gradient_checkpointing=False).peak_bytes


def on_meta(model: ToneModel) -> ToneModel:
    """Copy a model to the meta device.

    The copy is made weight by weight. `deepcopy(model).to("meta")` would hold all weights twice for a moment.
    """
    weights = {id(weight): nn.Parameter(_blank(weight), weight.requires_grad) for weight in model.parameters()}
    buffers = {id(buffer): _blank(buffer) for buffer in model.buffers()}
    return copy.deepcopy(model, {**weights, **buffers})


def _blank(value: Tensor) -> Tensor:
    return torch.empty_like(value, device=META)
