"""The interface of all models, `ToneModel`.

Letters of tensor shapes: B batch, T tokens of a caption, P patches or queries of an image, D width, I width of the
image's own features, H heads (of attention, or the readout and the image head), K labels, S side of an image in pixels.

A model's forward pass is a chain of segments (`src/modeling/segments.py`). `encode` runs the frozen segments, and the
cache keeps their results. `forward` runs the other segments. One rule for all models decides which are frozen.
"""

import copy
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar, Self

import torch
from PIL.Image import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from src.core.errors import UserError, first_line
from src.core.labels import TONE_LABELS, Labels, listed
from src.core.outputs import PretrainedWeights
from src.data.images import open_image, placeholder
from src.modeling import loading
from src.modeling.latest_run import LatestRun
from src.modeling.segments import (
    HAS_CAPTION,
    INPUTS,
    LENGTH,
    POOLED,
    POOLED_IMAGE,
    Positions,
    Segment,
    cached_names,
    frozen_segments,
    image_segments,
    join_layers,
    pending_segments,
    split_stack,
)
from src.modeling.spec import Spec
from src.modeling.transformers_usage import TransformersUsage

Features = dict[str, Tensor]
# A large JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, down to this many times the model's side. The resizing
# then still has enough pixels to average. `open_image` documents how equal the result is.
DECODED_SIDES = 2


@dataclass(frozen=True)
class ImageResizer:
    """Resizes images to a model's size. It holds no weights, so another process can have a copy."""

    image_processor: Any

    @property
    def side(self) -> int:
        """Return S, the side of a resized image in pixels.

        Raises:
            UserError: the image processor keeps an image's proportions, so no side is common to all images.
        """
        processor = self.image_processor
        size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
        if not size["height"] or size["height"] != size["width"]:
            raise UserError(f"the image processor makes no squares, but {dict(size)}: set its crop_size")
        return int(size["height"])

    @property
    def min_decoded_side(self) -> int:
        """Return the shorter side, in pixels, that a decoded image must have before it is resized."""
        size = self.image_processor.size
        return DECODED_SIDES * int(size.get("shortest_edge") or size["height"])

    def __call__(self, images: Sequence[Image]) -> list[Tensor]:
        """Return uint8[3, S, S] for each image."""
        resized = self.image_processor(list(images), do_rescale=False, do_normalize=False, return_tensors="np")
        return [torch.from_numpy(pixels).to(torch.uint8) for pixels in resized["pixel_values"]]


class ToneModel(nn.Module, ABC):
    """A vision-language model that scores the labels of a post."""

    spec: ClassVar[Spec]
    # The architectures that a part of a checkpoint may have: values of `model_type` by the part's key in config.json.
    # All other parts have one architecture, which is also transformers' default for these.
    part_types: ClassVar[Mapping[str, Sequence[str]]] = {}
    # In the order of the logits.
    labels: Labels
    # The steps of the forward pass, in order.
    segments: tuple[Segment, ...]
    # The pretrained model of transformers. Only a training makes weights of it trainable.
    backbone: Any
    # Maps pooled_BD to logits_BK. It is None until a head or the verbalizer is attached.
    readout: nn.Module | None
    # Maps pooled_image_BI to logits_BK, which are added to those of the readout; None without an image head.
    image_head: nn.Sequential | None
    # Whether the model is a causal stack that reads the image before the text, so that an adapter can act on the text
    # alone (`adapt_text`).
    reads_image_first: ClassVar[bool] = False
    # Whether the model computes pooled_image_BI, which an image head reads.
    pools_image: ClassVar[bool] = False
    # The full names of the adapter's weights that act on the text alone.
    text_weights: frozenset[str]
    # Whether every step computes the prefix's keys and values, because the cache has no room for them.
    recomputes_prefix: bool
    # Shares what frozen segments compute in a step with other copies of the model; None for a model on its own.
    latest_run: LatestRun | None = None
    # The mean and standard deviation of pixels, by which `normalize` scales them.
    mean_311: Tensor
    std_311: Tensor

    def __init__(
        self,
        backbone: Any,
        tokenizer: Any,
        image_processor: Any,
        checkpoint: PretrainedWeights,
        labels: Labels = TONE_LABELS,
    ) -> None:
        super().__init__()
        self.labels = labels
        self.segments = self.build_segments(backbone.config)
        self.backbone = backbone.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.checkpoint = checkpoint
        self.readout = None
        self.image_head = None
        self.text_weights = frozenset()
        self.recomputes_prefix = False
        self.register_buffer("mean_311", torch.tensor(image_processor.image_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std_311", torch.tensor(image_processor.image_std).view(3, 1, 1), persistent=False)

    @classmethod
    def load(
        cls, checkpoint: PretrainedWeights, device: torch.device, dtype: torch.dtype, labels: Labels = TONE_LABELS
    ) -> Self:
        """Load weights, tokenizer and image processor, from the Hub or from a local folder.

        Raises:
            UserError: the checkpoint does not exist, a folder or the aligned weights have changed since they were
                resolved, or the weights are damaged, are not tensors alone, or do not fit the architecture.
        """
        if checkpoint.is_local:
            loading.require_unchanged(checkpoint)
        revision = {} if checkpoint.is_local else {"revision": checkpoint.revision}
        loading.hide_progress_bars_in_logs()
        try:
            processors = cls.load_processors(checkpoint.source, **revision)
            backbone, info = cls.architecture().from_pretrained(
                checkpoint.source,
                dtype=dtype,
                attn_implementation="sdpa",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported like missing keys, and refused below
                **revision,
            )
        except (OSError, SafetensorError, ValueError) as error:  # ValueError: of a tokenizer that is damaged or absent
            raise UserError(f"{checkpoint.source} cannot be loaded: {first_line(error)}") from error
        except UnpicklingError as error:
            reason = "its weights hold objects other than tensors, which may run code: take them as safetensors"
            raise UserError(f"{checkpoint.source} cannot be loaded: {reason}") from error
        loading.require_complete(checkpoint, info)
        loading.require_vocabulary(checkpoint, processors[0], backbone.config)
        if checkpoint.aligned:
            loading.load_aligned(backbone, checkpoint.aligned)
        if not checkpoint.is_local:
            commit = getattr(backbone.config, "_commit_hash", None) or checkpoint.revision
            checkpoint = replace(checkpoint, revision=commit)
        return cls(backbone, *processors, checkpoint, labels).to(device)

    @classmethod
    @abstractmethod
    def architecture(cls) -> Any:
        """Return the class of transformers that holds the weights."""

    @classmethod
    @abstractmethod
    def build_segments(cls, config: Any) -> tuple[Segment, ...]:
        """Return the steps of the forward pass, in order, for a configuration of the architecture."""

    @classmethod
    @abstractmethod
    def published_config(cls) -> Any:
        """Return the configuration of `spec.checkpoint`, built without the Hub."""

    @classmethod
    def image_side(cls, config: Any) -> int:
        """Return S, the side of a resized image in pixels, of a model with this configuration."""
        return int(config.vision_config.image_size)

    @classmethod
    def published_checkpoint(cls) -> PretrainedWeights:
        """Return the checkpoint that `spec` names. It is not loaded."""
        return PretrainedWeights(cls.spec.checkpoint, cls.spec.revision, "full")

    @classmethod
    @abstractmethod
    def load_processors(cls, source: str, **revision: str) -> tuple[Any, Any]:
        """Load the tokenizer and the image processor of a checkpoint."""

    @classmethod
    @abstractmethod
    def make_tiny(cls, folder: Path, captions: Sequence[str], labels: Labels = TONE_LABELS) -> None:
        """Write a small checkpoint of this architecture: random weights, and a tokenizer.

        The tokenizer is trained on `captions`, and every word of a label is one token of it.
        """

    @property
    @abstractmethod
    def width(self) -> int:
        """Return D of pooled_BD."""

    @property
    def pooled_image_width(self) -> int:
        """Return I of pooled_image_BI. A model whose `pools_image` is set overrides it."""
        raise NotImplementedError(f"{self.spec.name} has no features of the image alone")

    @abstractmethod
    def token_ids(self, captions: Sequence[str]) -> list[list[int]]:
        """Return the unpadded tokens that the model reads for each caption, prompt included."""

    @abstractmethod
    def run_segment(self, segment: Segment, features: Features) -> Tensor:
        """Compute the feature that `segment` writes from the features that it reads.

        The segment may stand for several layers of a stack (`join_layers`).
        """

    @abstractmethod
    def verbalizer_readout(self) -> nn.Module:
        """Return the readout that needs no training: it scores each label's own word against pooled_BD."""

    def transformers_usage(self) -> TransformersUsage:
        """Return the lines of Python by which transformers alone computes this model, for the card of an export.

        Raises:
            UserError: the model's file does not define them.
        """
        raise UserError(
            f"{self.spec.name} cannot be exported: its file does not define Model.transformers_usage, "
            "the lines of a model card that compute it with transformers alone"
        )

    @property
    def prompt(self) -> str:
        """The text around a caption; `{caption}` is its place."""
        return self.prompt_for(self.labels)

    @classmethod
    def prompt_for(cls, labels: Labels) -> str:
        """Return the prompt that asks for these labels."""
        return cls.spec.prompt.replace("{labels}", listed([label.option for label in labels]))

    @property
    def base_dtype(self) -> torch.dtype:
        """Return the precision of the frozen base. `backbone.dtype` is that of a weight that may train, in float32."""
        frozen = (weight for weight in self.backbone.parameters() if not weight.requires_grad)
        weight: Tensor = next(frozen, next(self.backbone.parameters()))
        return weight.dtype

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.mean_311.device

    def sharing_weights(self) -> Self:
        """Return a copy that shares the memory of all weights, and nothing else: each may have its own adapter.

        Call this before an adapter is attached.
        """
        assert not self.trainable_names(), "take the adapter off first"
        # What the copy takes in the place of each object: parameters of its own on the same memory, or the same object.
        memo: dict[int, Any] = {
            id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in self.parameters()
        }
        same = (*self.buffers(), self.tokenizer, self.image_processor)
        return copy.deepcopy(self, memo | {id(value): value for value in same})

    def image_resizer(self) -> ImageResizer:
        """Return the resizer to the model's size."""
        return ImageResizer(self.image_processor)

    def preprocess(self, images: Sequence[Image], captions: Sequence[str]) -> list[Features]:
        """Return the inputs of each post: resized `pixels` uint8[3, S, S], and those of `read_captions`."""
        resized = self.image_resizer()(images)
        return [{"pixels": pixels, **row} for pixels, row in zip(resized, self.read_captions(captions), strict=True)]

    def read_captions(self, captions: Sequence[str]) -> list[Features]:
        """Return the inputs of each caption: `tokens` int64[T], T as `length`, and `has_caption`.

        A caption of spaces is none. The number of tokens does not tell: in many prompts the space before an empty
        caption is a token itself, and becomes a part of the first word's.
        """
        return [
            {
                "tokens": torch.tensor(ids),
                LENGTH: torch.tensor(len(ids)),
                HAS_CAPTION: torch.tensor(bool(caption.strip())),
            }
            for caption, ids in zip(captions, self.token_ids(captions), strict=True)
        ]

    def strip_special_tokens(self, caption: str) -> str:
        """Return the caption with a space in place of every special token.

        People do write `<image>` and `</s>`. Letter case is ignored: CLIP's tokenizer lowers the text before it looks
        for special tokens.
        """
        added = self.tokenizer.added_tokens_decoder.values()
        specials = "|".join(re.escape(token.content) for token in added if token.special)
        return re.sub(specials, " ", caption, flags=re.IGNORECASE) if specials else caption

    def preprocessing_digest(self) -> str:
        """Return a digest of 12 hexadecimal digits that changes if the same post would become other inputs."""
        captions = ["A caption, 1 é.", "<image> </s> <|EndOfText|>", "very long " * 500, "\U0001f600" * 500]
        probe = (self.prompt, DECODED_SIDES, self.image_processor.to_dict(), self.token_ids(captions))
        return hashlib.sha256("\n".join(map(str, probe)).encode()).hexdigest()[:12]

    def normalize(self, pixels_B3SS: Tensor) -> Tensor:
        """Convert uint8[B, 3, S, S] to normalised pixels in the backbone's precision."""
        return ((pixels_B3SS / 255 - self.mean_311) / self.std_311).to(self.backbone.dtype)

    @cached_property
    def placeholder_pixels(self) -> Tensor:
        """The pixels of the image that stands for a missing one, uint8."""
        (pixels_3SS,) = self.image_resizer()([open_image(placeholder())])
        return pixels_3SS

    def trainable_names(self) -> list[str]:
        """Return the names of the backbone's trainable weights."""
        return [name for name, weight in self.backbone.named_parameters() if weight.requires_grad]

    def adapt_text(self, bare_copy: Callable[[nn.Module], nn.Module], *, rounded: bool = False) -> None:
        """Let the adapter that is attached act on the text alone. The prefix runs through the bare base.

        A model whose `reads_image_first` is set overrides it. Call it while the adapter's weights are the only
        trainable ones. `adapt_all` undoes it.

        Args:
            bare_copy: returns a copy of a module without adapters, which shares the base's weights.
            rounded: whether the prefix's keys and values are rounded to 8 bits.
        """
        raise NotImplementedError(f"{self.spec.name} has no text behind its image")

    def adapt_all(self) -> None:
        """Let adapters act on all positions."""
        self.segments = self.build_segments(self.backbone.config)
        self.text_weights = frozenset()
        self.recomputes_prefix = False

    @contextmanager
    def image_alone(self) -> Iterator[None]:
        """Compute pooled_image_BI alone in this context. `encode` returns it with `length` and `has_caption`."""
        segments = self.segments
        self.segments = tuple(pending_segments(segments, INPUTS, (POOLED_IMAGE,)))
        try:
            yield
        finally:
            self.segments = segments

    @contextmanager
    def split_at(self, first: int | None) -> Iterator[None]:
        """Compute from the cached features of a split at a layer (`split_stack`) in this context; None: of no split."""
        segments = self.segments
        if first is not None and not self.text_weights:
            self.segments = split_stack(segments, first)
        try:
            yield
        finally:
            self.segments = segments

    def prefix_bytes(self) -> int:
        """Return the bytes of one post's keys and values of the prefix, if these are frozen features, else 0."""
        return 0

    def frozen_segments(self) -> tuple[Segment, ...]:
        """Return the segments that need to run only once a post, given the weights that are trainable now."""
        trainable: dict[str, Positions] = {
            name: "text" if name in self.text_weights else "all" for name in self.trainable_names()
        }
        return frozen_segments(self.segments, trainable)

    def cached_segments(self) -> tuple[Segment, ...]:
        """Return the frozen segments that run before the cache. `recomputes_prefix` leaves the split ones to a step."""
        frozen = self.frozen_segments()
        return tuple(segment for segment in frozen if segment.positions == "all") if self.recomputes_prefix else frozen

    def cached_names(self) -> tuple[str, ...]:
        """Return the names of the features that `encode` returns, given the weights that are trainable now."""
        return cached_names(self.segments, self.cached_segments())

    @torch.no_grad()
    def encode(self, features: Features) -> Features:
        """Run the segments before the cache on a batch and return the features of `cached_names`.

        Args:
            features: the inputs, captions padded to the longest. Cached features of a lower boundary may replace
                inputs; segments whose results are among `features` do not run.
        """
        names = self.cached_names()
        return self._run(pending_segments(self.cached_segments(), features, names), features, names)

    def forward(self, features: Features, *, with_image: bool = True) -> Tensor:
        """Compute logits_BK, float32, in the order of `labels`.

        With an image head they are a sum over the halves of a post. A half that the post lacks adds nothing.

        Args:
            features: the features of `encode`, or the inputs.
            with_image: whether the logits of the image head, if there is one, are added to those of the readout.
        """
        assert self.readout is not None, "attach a readout first"
        image_head = self.image_head if with_image else None
        pooled = self.forward_pooled(features, with_image=image_head is not None)
        logits_BK: Tensor = self.readout(pooled[POOLED].float())
        if image_head is None:
            return logits_BK
        image_logits_BK: Tensor = image_head(pooled[POOLED_IMAGE].float())
        return logits_BK * features[HAS_CAPTION][:, None] + image_logits_BK

    def forward_pooled(self, features: Features, *, with_image: bool = False) -> Features:
        """Compute pooled_BD, the input of the readout, from the features of `encode` or from the inputs.

        Args:
            features: the features, by name.
            with_image: whether pooled_image_BI, the input of an image head, is computed too.
        """
        if self.latest_run is not None:
            features = {**features, **self._run_frozen(features, self.latest_run)}
        names = (POOLED, POOLED_IMAGE) if with_image else (POOLED,)
        return self._run(pending_segments(self.segments, features, names), features, names)

    def forward_images(self, pixels_B3SS: Tensor) -> Features:
        """Compute the features that depend on images alone, and that other segments read.

        With adapters on the text of all layers, the prefix's keys and values are among them.
        """
        chosen = image_segments(self.segments)
        read = cached_names(self.segments, chosen)
        names = [segment.writes for segment in chosen if segment.writes in read]
        return self._run(chosen, {"pixels": pixels_B3SS}, names)

    def similarity(self, features: Features) -> Tensor | None:
        """Return cosine_B of each post's image and caption in a shared space, or None for a model without such a space.

        Call this before an adapter is attached; otherwise the adapter changes the result.
        """
        return None

    @torch.no_grad()
    def _run_frozen(self, features: Features, latest_run: LatestRun) -> Features:
        """Return what the frozen segments compute that the cache lacks: from the latest run, if it read this batch."""
        frozen = self.frozen_segments()
        names = cached_names(self.segments, frozen)
        pending = pending_segments(frozen, features, names)
        if not pending:
            return {}
        inputs = {name: features[name] for segment in pending for name in segment.reads if name in features}
        written = [name for name in names if name not in features]
        return latest_run.of(pending, inputs, lambda: self._run(pending, features, written))

    def _run(self, segments: Sequence[Segment], features: Features, wanted: Sequence[str]) -> Features:
        known = dict(features)
        for segment in join_layers(segments):
            known[segment.writes] = self.run_segment(segment, known)
        return {name: known[name] for name in wanted}
