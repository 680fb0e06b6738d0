"""What training a model at its published size would take: parameters, memory, computation, and a plan to fit them.

It builds the model on the meta device and rehearses one post there (`rehearsal` says what is counted and what is not),
so it needs neither weights nor data. All that a batch makes has a row for each post, but for some tables of positions:
twice the posts take twice the computation, and twice the memory or a trifle less.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from src.core.training_config import TrainingConfig
from src.modeling.base import ToneModel
from src.sizing.cost_profile import Cost, gpu_semantics_on_meta, profile_encode, profile_step
from src.sizing.meta_model import META, blank_inputs, build_on_meta
from src.training.adapter import Adapter, attach_adapter

# Left free on a device, for what no rehearsal counts: the CUDA context, workspaces, the allocator's fragmentation.
FREE_SHARE = 0.1


@dataclass(frozen=True)
class BatchPlan:
    """How to take one optimiser step: how many posts a batch, how many batches, and the peak of bytes."""

    micro_batch: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    bytes: int


@dataclass(frozen=True)
class Footprint:
    """What a training takes.

    Attributes:
        settings: the training.
        num_posts: posts of each part; an epoch trains on `train`, the cache holds all.
        num_tokens: tokens of text that the model reads of a post with a long caption, prompt included.
        base: the base's parameters.
        base_bytes: its weights, in the precision that it is held in.
        trained: parameters by part, as `trained_parameters` gives them.
        trained_bytes: their weights.
        adapted: full names of the modules that carry an adapter.
        cached: bytes a post of each feature that `encode` leaves in the cache.
        encoding: what `encode` takes for a post, once.
        plain: what a post takes in each epoch.
        checkpointed: the same with gradient checkpointing.
    """

    settings: TrainingConfig
    num_posts: Mapping[str, int]
    num_tokens: int
    base: int
    base_bytes: int
    trained: Mapping[str, int]
    trained_bytes: int
    adapted: tuple[str, ...]
    cached: Mapping[str, int]
    encoding: Cost
    plain: Cost
    checkpointed: Cost

    @property
    def effective_batch(self) -> int:
        """Posts of an optimiser step."""
        return self.settings.batch_size * self.settings.gradient_accumulation_steps

    @property
    def encoded(self) -> int:
        """Posts in the cache, altered views of those of the train part included."""
        views = self.settings.num_augmented_views if self.settings.augment else 0
        return sum(self.num_posts.values()) + views * self.num_posts["train"]

    @property
    def gradient_bytes(self) -> int:
        """One gradient a trained weight, in its precision."""
        return self.trained_bytes

    @property
    def optimizer_bytes(self) -> int:
        """AdamW's two moments of every trained weight, in its precision (float32 for an adapter and a head)."""
        return 2 * self.trained_bytes

    def step_bytes(self, micro_batch: int, gradient_checkpointing: bool) -> int:
        """The peak of a step over batches of so many posts: all of the above and what the batch holds."""
        post = self.checkpointed if gradient_checkpointing else self.plain
        fixed = self.base_bytes + self.trained_bytes + self.gradient_bytes + self.optimizer_bytes
        return fixed + micro_batch * post.peak_bytes

    def plans(self) -> list[BatchPlan]:
        """All ways to take a step of `effective_batch` posts, best first.

        That is without checkpointing, which computes a third to a half more, and in large batches, which keep a device
        busy.
        """
        sizes = [size for size in _powers_of_two(self.effective_batch) if self.effective_batch % size == 0]
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
        """The best way that fits a device with so much memory, of which `FREE_SHARE` stays free; None: none does."""
        room = memory_bytes * (1 - FREE_SHARE)
        return next((plan for plan in self.plans() if plan.bytes <= room), None)


def footprint(
    kind: type[ToneModel],
    settings: TrainingConfig,
    num_posts: Mapping[str, int],
    dtype: torch.dtype = torch.bfloat16,
) -> Footprint:
    """Return what training `kind` at its published size takes, its base held in `dtype`, captions long ones."""
    model = build_on_meta(kind, dtype)
    base, own = list(model.parameters()), _names(model)
    base_bytes = sum(weight.nbytes for weight in (*base, *model.buffers()))
    inputs = blank_inputs(model)
    adapter = _adapt(model, settings)
    features, encoding = profile_encode(model, inputs)
    return Footprint(
        settings=settings,
        num_posts=num_posts,
        num_tokens=inputs["tokens"].shape[1],
        base=sum(weight.numel() for weight in base),
        base_bytes=base_bytes,
        trained=_by_part(model, own),
        trained_bytes=sum(weight.nbytes for weight in model.parameters() if weight.requires_grad),
        adapted=tuple(adapter.modules()),
        cached={name: value.nbytes for name, value in features.items()},
        encoding=encoding,
        plain=profile_step(model, features, settings, gradient_checkpointing=False),
        checkpointed=profile_step(model, features, settings, gradient_checkpointing=True),
    )


def trained_parameters(kind: type[ToneModel], settings: TrainingConfig) -> dict[str, int]:
    """How many parameters a training has, by part: `adapter on` a segment, a segment's own, `head`."""
    model = build_on_meta(kind, torch.bfloat16)
    own = _names(model)
    _adapt(model, settings)
    return _by_part(model, own)


def _adapt(model: ToneModel, settings: TrainingConfig) -> Adapter:
    with gpu_semantics_on_meta(), META:
        return attach_adapter(model, settings, seed=0)


def _names(model: ToneModel) -> set[str]:
    return {name for name, _ in model.backbone.named_parameters()}


def _by_part(model: ToneModel, own: Collection[str]) -> dict[str, int]:
    """Trainable parameters by part; `own` are the names of the backbone's weights before it was adapted."""
    counts: Counter[str] = Counter()
    for name, weight in model.backbone.named_parameters():
        if weight.requires_grad:
            segment = next(each.name for each in model.segments if name.startswith(each.modules))
            counts[segment if name in own else f"adapter on {segment}"] += weight.numel()
    assert model.readout is not None
    counts["head"] += sum(weight.numel() for weight in model.readout.parameters())
    return dict(counts)


def _powers_of_two(most: int) -> list[int]:
    return [2**exponent for exponent in range(most.bit_length())]
