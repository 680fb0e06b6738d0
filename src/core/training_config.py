"""The settings of one training: what params.yaml says of all, under what a trial draws."""

import re
from dataclasses import dataclass
from typing import Literal

from src.core.config_parser import require

Setting = int | float | str
# What may be altered of a post to train on (src/data/augmentation.py).
AUGMENTED = PICTURE, CAPTION = "picture", "caption"


def display_value(value: Setting | bool) -> str:
    """A setting's value as people read it: four digits of a number, a dash for an empty name."""
    return f"{value:z.4g}" if isinstance(value, float) else str(value) or "-"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One training: the adapter, the head and the optimiser. A trial overrides what its search space names.

    `rank` 0 trains the head alone. `adapter` is the kind that peft puts on the projections `targets` (letters of q, k,
    v, o; empty: the model's own choice). `adapts` names the segments that take them, such as "text" for one tower of
    CLIP (empty: all that can), and `adapt_layers` the layers: all, last-half, or last-K for the last K of each stack;
    what lies below is then frozen and cached. `trains` names segments of the base that train as a whole, such as
    "connector" or "qformer". Several names are parted by spaces. `head_layers` counts hidden layers, the first of
    `head_width` units and each next of half as many. An optimiser step is of `batch_size` times `accumulation` posts,
    computed `batch_size` at a time, or as many at a time as a GPU holds. `warmup` is the share of steps over which the
    learning rate rises. `adam_eps` is what AdamW adds to a gradient's own size before it divides by it, so that of
    smaller gradients rounding does not decide a whole step.
    `watch` says which validation score makes an epoch the best, and `patience` after how many epochs without a better
    one training stops. `class_weights` and `sampling` say whether rare tones count, or come, as often as common ones.
    `curriculum` says which posts come first: those whose text and image labels agree, those of least loss, or both, in
    this order. The first epoch is on the share `curriculum_start` of the posts, and all are in once `curriculum_until`
    of the epochs are over. `augment` names what is altered for training, "picture" or "caption" or both: each epoch
    shows a post as it is or as one of its `views` altered views, which are cached as posts are.
    """

    readout: Literal["head", "verbalizer"]
    rank: int
    alpha: int
    dropout: float
    lr: float
    adapter: Literal["lora", "dora", "rslora", "ia3"] = "lora"
    target_projections: str = ""
    adapter_segments: str = ""
    adapter_layers: str = "all"
    unfreeze: str = ""
    head_layers: int = 0
    head_width: int = 256
    weight_decay: float = 0.01
    adam_eps: float = 1e-8
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    focal_gamma: float = 2.0
    class_weights: Literal["none", "balanced"] = "none"
    sampling: Literal["uniform", "balanced"] = "uniform"
    curriculum: Literal["none", "agreement", "loss", "agreement+loss"] = "none"
    curriculum_start: float = 0.5
    curriculum_until: float = 0.5
    augment: str = ""
    num_augmented_views: int = 4
    label_smoothing: float = 0.0
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    batch_size: int = 16
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    epochs: int = 6
    patience: int = 3
    monitor: Literal["macro_f1", "loss"] = "macro_f1"

    def __post_init__(self) -> None:
        require(self.rank >= 0, "rank must be 0 (head alone) or more")
        require(self.rank > 0 or self.readout == "head", "rank 0 trains the head alone, so readout must be head")
        require(
            set(self.target_projections) <= set("qkvo"), "target_projections must be letters of q, k, v, o, such as qv"
        )
        layers_known = re.fullmatch(r"all|last-half|last-[1-9]\d*", self.adapter_layers)
        require(layers_known is not None, "adapter_layers must be all, last-half or last-K, such as last-4")
        require(self.alpha > 0, "alpha must be positive")
        require(0 <= self.dropout < 1, "dropout must lie in [0, 1)")
        require(self.lr > 0, "lr must be positive")
        require(self.head_layers in (0, 1, 2), "head_layers must be 0, 1 or 2")
        require(0 <= self.label_smoothing < 1, "label_smoothing must lie in [0, 1)")
        require(0 <= self.warmup_ratio < 1, "warmup_ratio must lie in [0, 1)")
        require(self.weight_decay >= 0, "weight_decay must not be negative")
        require(self.focal_gamma >= 0, "focal_gamma must not be negative")
        require(0 < self.curriculum_start <= 1, "curriculum_start must lie in (0, 1]")
        require(0 <= self.curriculum_until <= 1, "curriculum_until must lie in [0, 1]")
        altered = self.augment.split()
        require(set(altered) <= set(AUGMENTED), f"augment must name {' or '.join(AUGMENTED)}, or both, or neither")
        counts = (
            "num_augmented_views",
            "head_width",
            "batch_size",
            "gradient_accumulation_steps",
            "epochs",
            "patience",
        )
        for name in (*counts, "adam_eps", "max_grad_norm"):
            require(getattr(self, name) > 0, f"{name} must be positive")
