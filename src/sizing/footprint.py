"""The footprint of training a model at full size: parameters, memory, operations, and a batch plan.

The model is built on the meta device and runs one post there, so this needs no weights and no data.
`src/sizing/cost_profile.py` documents what is counted. Everything that a batch allocates has a row for each post,
except small tables of positions. So twice the posts take twice the operations, and twice the memory or slightly less.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from src.core.labels import TONE_LABELS, Labels
from src.core.training_config import TrainingConfig
from src.modeling.base import Features, ToneModel
from src.sizing.cost_profile import Cost, gpu_semantics_on_meta, profile_encode, profile_step
from src.sizing.meta_model import META, blank_inputs, build_on_meta
from src.training.adapter import Adapter, attach_adapter

# The share of a device's memory to leave free. The CUDA context, workspaces and fragmentation are not counted.
FREE_SHARE = 0.1


@dataclass(frozen=True)
class BatchPlan:
    """One way to take an optimizer step."""

    # Posts in a batch, and batches in a step.
    micro_batch: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    # The peak of memory.
    bytes: int


@dataclass(frozen=True)
class Footprint:
    """The parameters, memory and operations of a training."""

    settings: TrainingConfig
    # Posts of each part. An epoch trains on `train`; the cache holds all.
    num_posts: Mapping[str, int]
    # Tokens of text that the model reads for a post, prompt included.
    num_tokens: int
    # Parameters of the base, and the bytes of its weights in the precision that it is held in.
    base_parameters: int
    base_bytes: int
    # Trained parameters by place, as `count_trained_parameters` returns them, and the bytes of their weights.
    trained_parameters: Mapping[str, int]
    trained_bytes: int
    # Full names of the modules that carry an adapter.
    adapted_modules: tuple[str, ...]
    # Bytes for each post of each feature in the cache.
    cached_bytes: Mapping[str, int]
    # The cost of encoding one post, once.
    encoding: Cost
    # The cost of one post in each epoch, without and with gradient checkpointing.
    step: Cost
    checkpointed_step: Cost
    # The cost of one post in each epoch if the cache has no room for the prefix's keys and values, without gradient
    # checkpointing; None if adapters act on all positions.
    recomputed_step: Cost | None = None
    # The trials that are trained side by side on one base.
    trials_at_once: int = 1

    @property
    def effective_batch(self) -> int:
        """Return the number of posts in an optimizer step."""
        return self.settings.batch_size * self.settings.gradient_accumulation_steps

    @property
    def num_encoded(self) -> int:
        """Return the number of posts in the cache, augmented views of the train part included."""
        views = self.settings.num_augmented_views if self.settings.augment else 0
        return sum(self.num_posts.values()) + views * self.num_posts["train"]

    @property
    def gradient_bytes(self) -> int:
        """Return the bytes of gradients: one number for each trained weight, in its precision."""
        return self.trained_bytes

    @property
    def optimizer_bytes(self) -> int:
        """Return the bytes of AdamW's two moments of every trained weight, in its precision.

        An adapter and a head are float32.
        """
        return 2 * self.trained_bytes

    @property
    def other_trials_bytes(self) -> int:
        """Return the bytes that the other trials at once hold in a step: their weights and AdamW's moments."""
        return (self.trials_at_once - 1) * (self.trained_bytes + self.optimizer_bytes)

    @property
    def shared_step_flops(self) -> float | None:
        """Return the operations of one trial's step on a post if the prefix runs once for all trials at once.

        None if the prefix is no part of any step.
        """
        if self.recomputed_step is None:
            return None
        return self.step.flops + (self.recomputed_step.flops - self.step.flops) / self.trials_at_once

    def step_bytes(self, micro_batch: int, gradient_checkpointing: bool) -> int:
        """Return the peak memory of a step: weights, gradients, moments, and the activations of a batch."""
        post = self.checkpointed_step if gradient_checkpointing else self.step
        fixed = self.base_bytes + self.trained_bytes + self.gradient_bytes + self.optimizer_bytes
        return self.other_trials_bytes + fixed + micro_batch * post.peak_bytes

    def plans(self) -> list[BatchPlan]:
        """Return all ways to take a step of `effective_batch` posts, best first.

        Plans without gradient checkpointing come first, because checkpointing computes a third to a half more. Then
        come large batches, because they keep a device busy.
        """
        sizes = [size for size in range(1, self.effective_batch + 1) if self.effective_batch % size == 0]
        return [
            BatchPlan(
                size,
                self.effective_batch // size,
                gradient_checkpointing,
                self.step_bytes(size, gradient_checkpointing),
            )
            for gradient_checkpointing in (False, True)
            for size in reversed(sizes)
        ]

    def plan(self, memory_bytes: float) -> BatchPlan | None:
        """Return the best plan that leaves `FREE_SHARE` of a device's memory free, or None if no plan fits."""
        usable_bytes = memory_bytes * (1 - FREE_SHARE)
        return next((plan for plan in self.plans() if plan.bytes <= usable_bytes), None)


def measure_footprint(
    model_type: type[ToneModel],
    settings: TrainingConfig,
    num_posts: Mapping[str, int],
    config: Any = None,
    labels: Labels = TONE_LABELS,
    caption_tokens: int | None = None,
) -> Footprint:
    """Return the footprint of training a model at full size, its base in bfloat16.

    Args:
        model_type: the class of the model.
        settings: the training.
        num_posts: the number of posts in each part.
        config: the configuration of the checkpoint; None for the published one.
        labels: the labels that the model scores.
        caption_tokens: the length of the captions; None for long ones (`TokenCounts.caption`).
    """
    model = build_on_meta(model_type, torch.bfloat16, config, labels)
    base_weights = list(model.parameters())
    base_names = _backbone_names(model)
    base_bytes = sum(weight.nbytes for weight in (*base_weights, *model.buffers()))
    inputs = blank_inputs(model, caption_tokens)
    adapter = attach_on_meta(model, settings)
    features, encoding = profile_encode(model, inputs)
    recomputed_step = _profile_recomputed_step(model, inputs, settings) if model.prefix_bytes() else None
    return Footprint(
        settings=settings,
        num_posts=num_posts,
        num_tokens=inputs["tokens"].shape[1],
        base_parameters=sum(weight.numel() for weight in base_weights),
        base_bytes=base_bytes,
        trained_parameters=_count_by_place(model, base_names),
        trained_bytes=sum(weight.nbytes for weight in model.parameters() if weight.requires_grad),
        adapted_modules=tuple(adapter.modules()),
        cached_bytes={name: value.nbytes for name, value in features.items()},
        encoding=encoding,
        step=profile_step(model, features, settings, gradient_checkpointing=False),
        checkpointed_step=profile_step(model, features, settings, gradient_checkpointing=True),
        recomputed_step=recomputed_step,
    )


def count_trained_parameters(
    model_type: type[ToneModel], settings: TrainingConfig, config: Any = None, labels: Labels = TONE_LABELS
) -> dict[str, int]:
    """Return the number of trained parameters by place, for the published configuration or another one.

    The places are `adapter on <segment>`, `<segment>` for unfrozen weights of the base, and `head`.
    """
    model = build_on_meta(model_type, torch.bfloat16, config, labels)
    base_names = _backbone_names(model)
    attach_on_meta(model, settings)
    return _count_by_place(model, base_names)


def attach_on_meta(model: ToneModel, settings: TrainingConfig) -> Adapter:
    """Attach the adapter of a training to a model on the meta device, with the memory that a GPU would need."""
    with gpu_semantics_on_meta(), META:
        return attach_adapter(model, settings, seed=0)


def _profile_recomputed_step(model: ToneModel, inputs: Features, settings: TrainingConfig) -> Cost:
    model.recomputes_prefix = True
    features, _ = profile_encode(model, inputs)
    cost = profile_step(model, features, settings, gradient_checkpointing=False)
    model.recomputes_prefix = False
    return cost


def _backbone_names(model: ToneModel) -> set[str]:
    return {name for name, _ in model.backbone.named_parameters()}


def _count_by_place(model: ToneModel, base_names: Collection[str]) -> dict[str, int]:
    """Count trained parameters by place; `base_names` are the backbone's weights before the adapter was attached."""
    counts: Counter[str] = Counter()
    for name, weight in model.backbone.named_parameters():
        if weight.requires_grad:
            # The last one: a layer that is split runs on the prefix first, without its adapter.
            segment = [segment.name for segment in model.segments if name.startswith(segment.modules)][-1]
            counts[segment if name in base_names else f"adapter on {segment}"] += weight.numel()
    assert model.readout is not None
    counts["head"] += sum(weight.numel() for weight in model.readout.parameters())
    return dict(counts)
