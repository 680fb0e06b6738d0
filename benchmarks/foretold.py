"""The peak memory of a training step as the dry run of `tune` foretells it, for a model and a batch at hand."""

import copy

import torch
from torch import Tensor, nn

from src.core.training_config import TrainingConfig
from src.modeling.base import Features, ToneModel
from src.sizing.cost_profile import profile_step
from src.sizing.meta_model import META


def step_bytes(model: ToneModel, features: Features, settings: TrainingConfig) -> int:
    """Return the peak of a step: weights, gradients, AdamW's two moments, and what the batch holds."""
    held = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    return held + 3 * trained + batch_bytes(model, features, settings)


def batch_bytes(model: ToneModel, features: Features, settings: TrainingConfig) -> int:
    """Return the peak of what a batch holds, its features included."""
    blank = {name: value.to(META) for name, value in features.items()}
    return profile_step(on_meta(model), blank, settings, gradient_checkpointing=False).peak_bytes


def on_meta(model: ToneModel) -> ToneModel:
    """Copy a model to the meta device; its weights are never doubled, as a copy that is moved there would."""
    weights = {id(weight): nn.Parameter(_blank(weight), weight.requires_grad) for weight in model.parameters()}
    buffers = {id(buffer): _blank(buffer) for buffer in model.buffers()}
    return copy.deepcopy(model, {**weights, **buffers})


def _blank(value: Tensor) -> Tensor:
    return torch.empty_like(value, device=META)
