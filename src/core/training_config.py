"""The settings of one training. params.yaml overrides their defaults, and a trial those that it draws."""

import re
from dataclasses import dataclass
from typing import Literal

from src.core.config_parser import require

Setting = int | float | str
# The halves of a post that can be altered for training (src/data/augmentation.py).
AUGMENTED = IMAGE, CAPTION = "image", "caption"


def display_value(value: Setting | bool) -> str:
    """Format a setting's value for people: a number with four digits, an empty name as a dash."""
    return f"{value:z.4g}" if isinstance(value, float) else str(value) or "-"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All settings of one training. A trial overrides those in its search space."""

    # head trains a classifier on pooled features; verbalizer scores the labels' own words, and has no weights.
    readout: Literal["head", "verbalizer"]
    # The adapter's rank; 0 trains no adapter, but the head or the segments of `unfreeze` alone.
    rank: int
    # LoRA's scale: the adapter's output is multiplied by alpha / rank, with rslora by alpha / sqrt(rank).
    alpha: int
    # Dropout before the adapter's matrices, and in the head.
    dropout: float
    # The peak learning rate.
    lr: float
    # The kind of adapter in peft.
    adapter: Literal["lora", "dora", "rslora", "ia3"] = "lora"
    # Projections that carry the adapter, as letters: q, k, v, o of attention, and m for the whole feed-forward network
    # (MLP). Empty: the model's own choice.
    target_projections: str = ""
    # Names of segments that take the adapter, with spaces between, such as "text" for one tower of CLIP. Empty: all.
    adapter_segments: str = ""
    # Layers that take the adapter: all, last-half, or last-K of each stack. Layers below are frozen and cached.
    adapter_layers: str = "all"
    # The positions that adapters act on: all, or those behind the image alone. With text, the prompt up to the image's
    # end runs through the bare base, and its keys and values are cached.
    adapter_positions: Literal["all", "text"] = "all"
    # The type of the prefix's cached keys and values: auto, the base's own, or int8, about half of bfloat16. The model
    # reads the rounded ones in training and in serving alike. Without a frozen prefix it has no effect.
    prefix_dtype: Literal["auto", "int8"] = "auto"
    # Names of base segments that train as a whole, with spaces between, such as "connector" or "qformer".
    unfreeze: str = ""
    # linear: late fusion. A linear head on the vision tower's features of the image is fitted before the training. Its
    # logits are added to those of the readout.
    image_head: Literal["none", "linear"] = "none"
    # Fit the image head on the labels of images, also those of posts whose two labels differ, which are in no part.
    unimodal_labels: bool = False
    # The number of hidden layers in the head.
    head_layers: int = 0
    # Units of the first hidden layer; each next one has half as many.
    head_width: int = 256
    weight_decay: float = 0.01
    # AdamW's epsilon. Raise it if gradients are so small that rounding decides the update.
    adam_eps: float = 1e-8
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    # The exponent of focal loss; 0 is cross-entropy.
    focal_gamma: float = 2.0
    # balanced weights the loss of each label by its inverse frequency.
    class_weights: Literal["none", "balanced"] = "none"
    # balanced draws all labels equally often.
    sampling: Literal["uniform", "balanced"] = "uniform"
    # The order of posts: equal text and image labels first, low loss first, or both criteria in this order.
    curriculum: Literal["none", "agreement", "loss", "agreement+loss"] = "none"
    # The share of posts in the first epoch of a curriculum.
    curriculum_start: float = 0.5
    # The share of epochs after which a curriculum has all posts.
    curriculum_until: float = 0.5
    # The halves of a post that are altered for training: "image", "caption" or both with a space between.
    augment: str = ""
    # Altered views of a post. Each epoch shows the post or one of its views; all of them are cached.
    num_augmented_views: int = 4
    label_smoothing: float = 0.0
    # The share of steps over which the learning rate rises to `lr`; it then falls as a cosine.
    warmup_ratio: float = 0.1
    # Gradients with a larger norm are scaled down to it.
    max_grad_norm: float = 1.0
    # Posts that are computed at a time. A GPU with less memory takes fewer, and adds up their gradients.
    batch_size: int = 16
    # Batches that make one optimiser step.
    gradient_accumulation_steps: int = 1
    # Recompute activations in the backward pass, which takes less memory and more time.
    gradient_checkpointing: bool = False
    # The largest number of epochs.
    epochs: int = 6
    # Training stops after so many epochs without a better validation score.
    patience: int = 3
    # The validation score that chooses the best epoch.
    monitor: Literal["macro_f1", "loss"] = "macro_f1"

    @property
    def rounds_prefix(self) -> bool:
        """Whether the prefix's keys and values are rounded. A prefix that trains is not: rounding has no gradients."""
        return self.adapter_positions == "text" and self.prefix_dtype == "int8" and not self.unfreeze

    def __post_init__(self) -> None:
        require(self.rank >= 0, "rank must be 0 (head alone) or more")
        trains = self.rank > 0 or self.readout == "head" or bool(self.unfreeze)
        require(trains, "rank 0 and readout verbalizer train nothing: set readout to head, or unfreeze a segment")
        require(
            set(self.target_projections) <= set("qkvom"),
            "target_projections must be letters of q, k, v, o, and m for the feed-forward network, such as qv or qkvom",
        )
        # IA3 scales inputs there and outputs elsewhere (H. Liu et al., NeurIPS 2022), and of one of its layers alone.
        require(
            self.adapter != "ia3" or "m" not in self.target_projections,
            "adapter ia3 takes no target_projections m: leave it out, or choose lora, dora or rslora",
        )
        layers_known = re.fullmatch(r"all|last-half|last-[1-9]\d*", self.adapter_layers)
        require(layers_known is not None, "adapter_layers must be all, last-half or last-K, such as last-4")
        trains_vision = "vision" in self.unfreeze.split()
        require(self.image_head == "none" or not trains_vision, "image_head linear needs a vision tower that is frozen")
        require(self.image_head == "linear" or not self.unimodal_labels, "unimodal_labels needs image_head linear")
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
        halves = set(self.augment.split())
        require(halves <= set(AUGMENTED), f"augment must name {' or '.join(AUGMENTED)}, or both, or be empty")
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
