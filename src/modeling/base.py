"""What all models have in common: the contract that a model file fulfils.

Letters of tensor shapes: B batch, T tokens of a caption, P patches or queries of a picture, D width, K tones,
S side of a picture in pixels.

A model's forward pass is a chain of segments (`src/modeling/segments.py`). `encode` runs those that are frozen, and
what they give is cached; `forward` runs the rest. One rule says which are frozen; no model has a rule of its own.
"""

import hashlib
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from PIL.Image import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar

from src.core.errors import UserError
from src.core.outputs import PretrainedWeights
from src.modeling.segments import POOLED, Segment, cached_names, frozen_segments, join_layers, pending_segments
from src.modeling.transformers_usage import TransformersUsage

Features = dict[str, Tensor]
# A picture of many times a model's side may be decoded at a half, a quarter or an eighth, down to so many sides: what
# is left for the resizing then smooths as it would have. `open_image` says how equal the result is.
DECODED_SIDES = 2


@dataclass(frozen=True)
class TokenCounts:
    """Lengths in tokens of the checkpoint's own tokenizer, for a dry run, which has none.

    `prefix` counts the prompt before the picture, and `prompt` all that is read with a caption behind the picture.
    `caption` is the 95th percentile of the 4,869 captions of MVSA-Single. All were measured with the tokenizers of the
    pinned commits, and `python -m pytest tests/models/test_hub_files.py -k dry_run` measures them again.
    """

    prefix: int
    prompt: int
    caption: int


@dataclass(frozen=True)
class Spec:
    """What differs between models and is not code: names, the pinned Hub checkpoint, and where adapters go.

    `attention` is a regular expression for the full names of the attention modules that take adapters, `projections`
    names their parts by the letters q, k, v, o, and `targets` are the letters of those adapted by default.
    """

    name: str
    checkpoint: str
    revision: str
    attention: str
    target_projections: str
    prompt: str
    tokens: TokenCounts
    projections: Mapping[str, str] = field(default_factory=lambda: {letter: f"{letter}_proj" for letter in "qkvo"})

    def target_modules(self, target_projections: str = "") -> str:
        """A regular expression for the full names of the modules to adapt: those of `targets`, or of the default."""
        names = "|".join(self.projections[letter] for letter in target_projections or self.target_projections)
        return rf"{self.attention}({names})"


@dataclass(frozen=True)
class ImageResizer:
    """Makes pictures a model's size, and no more than that; it can go to another process without the weights."""

    image_processor: Any

    @property
    def at_least(self) -> int:
        """The shorter side, in pixels, under which a picture must not be decoded before it is resized."""
        size = self.image_processor.size
        return DECODED_SIDES * int(size.get("shortest_edge") or size["height"])

    def __call__(self, images: Sequence[Image]) -> list[Tensor]:
        """uint8[3, S, S] of each picture."""
        made = self.image_processor(list(images), do_rescale=False, do_normalize=False, return_tensors="np")
        return [torch.from_numpy(pixels).to(torch.uint8) for pixels in made["pixel_values"]]


class ToneModel(nn.Module, ABC):
    """A vision-language model that scores the three tones of a post.

    Attributes:
        segments: the steps of its forward pass, in order.
        backbone: the pretrained model of transformers, frozen but for what a trial attaches to it.
        readout: maps pooled_BD to logits_BK; a trial sets it (a classifier, or `verbalizer_readout`).
    """

    spec: ClassVar[Spec]
    mean_311: Tensor
    std_311: Tensor

    def __init__(self, backbone: Any, tokenizer: Any, image_processor: Any, checkpoint: PretrainedWeights) -> None:
        super().__init__()
        self.segments = self.chain(backbone.config)
        self.backbone = backbone.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.checkpoint = checkpoint
        self.readout: nn.Module | None = None
        mean_3, std_3 = (torch.tensor(values) for values in (image_processor.image_mean, image_processor.image_std))
        self.register_buffer("mean_311", mean_3.view(3, 1, 1), persistent=False)
        self.register_buffer("std_311", std_3.view(3, 1, 1), persistent=False)

    @classmethod
    def load(cls, checkpoint: PretrainedWeights, device: torch.device, dtype: torch.dtype) -> Self:
        """Load weights, tokenizer and picture processor, from the Hub or a local folder alike.

        Raises:
            UserError: nothing is found there, or the weights do not fit the architecture.
        """
        if checkpoint.is_local and not Path(checkpoint.source).is_dir():
            # transformers would take the folder's name for a Hub id and go looking for it there.
            raise UserError(f"{checkpoint.source} cannot be loaded: there is no such folder")
        revision = {} if checkpoint.is_local else {"revision": checkpoint.revision}
        quiet_unless_watched()
        try:
            backbone, info = cls.architecture().from_pretrained(
                checkpoint.source,
                dtype=dtype,
                attn_implementation="sdpa",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are listed like the other faults, and refused below
                **revision,
            )
            processors = cls.processors(checkpoint.source, **revision)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{checkpoint.source} cannot be loaded: {str(error).splitlines()[0]}") from error
        _require_whole(checkpoint, info)
        commit = getattr(backbone.config, "_commit_hash", None) or checkpoint.revision
        return cls(backbone, *processors, PretrainedWeights(checkpoint.source, commit, checkpoint.scale)).to(device)

    @classmethod
    @abstractmethod
    def architecture(cls) -> Any:
        """The class of transformers that holds the weights."""

    @classmethod
    @abstractmethod
    def chain(cls, config: Any) -> tuple[Segment, ...]:
        """The steps of the forward pass, in order, for a configuration of the architecture."""

    @classmethod
    @abstractmethod
    def published_config(cls) -> Any:
        """The configuration of `spec.checkpoint`: its dimensions, known without the Hub."""

    @classmethod
    @abstractmethod
    def processors(cls, source: str, **revision: str) -> tuple[Any, Any]:
        """The tokenizer and the picture processor of a checkpoint."""

    @classmethod
    @abstractmethod
    def make_tiny(cls, folder: Path, captions: Sequence[str]) -> None:
        """Write a small checkpoint of this architecture: random weights, a tokenizer trained on `captions`."""

    @property
    @abstractmethod
    def width(self) -> int:
        """D of pooled_BD."""

    @abstractmethod
    def token_ids(self, captions: Sequence[str]) -> list[list[int]]:
        """The tokens that the model reads for each caption, prompt included, unpadded."""

    @abstractmethod
    def run_segment(self, segment: Segment, features: Features) -> Tensor:
        """What `segment`, or several layers of a stack joined to one, writes from the features that it reads."""

    @abstractmethod
    def verbalizer_readout(self) -> nn.Module:
        """The readout that needs no training: it scores each tone's own word against pooled_BD."""

    def transformers_usage(self) -> TransformersUsage:
        """How plain transformers does what this model does with the readout that is on it.

        Raises:
            UserError: its file does not say.
        """
        raise UserError(f"{self.spec.name} does not say how plain transformers computes it (Model.usage): no export")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean_311.device

    def image_resizer(self) -> "ImageResizer":
        """What makes pictures the model's size."""
        return ImageResizer(self.image_processor)

    def preprocess(self, images: Sequence[Image], captions: Sequence[str]) -> list[Features]:
        """The inputs of each post: `pixels` uint8[3, S, S], resized only, `tokens` int64[T] and `length`, the T."""
        pictures = self.image_resizer()(images)
        return [
            {"pixels": pixels, "tokens": torch.tensor(ids), "length": torch.tensor(len(ids))}
            for pixels, ids in zip(pictures, self.token_ids(captions), strict=True)
        ]

    def strip_special_tokens(self, caption: str) -> str:
        """Return the caption with a space in place of every special token: people do write `<image>` and `</s>`.

        Letter case does not count: CLIP's tokenizer looks for its tokens after it has lowered the text.
        """
        added = self.tokenizer.added_tokens_decoder.values()
        specials = "|".join(re.escape(token.content) for token in added if token.special)
        return re.sub(specials, " ", caption, flags=re.IGNORECASE) if specials else caption

    def preprocessing_digest(self) -> str:
        """Changes when the same post would become other inputs."""
        captions = ["A caption, 1 é.", "<image> </s> <|EndOfText|>", "very long " * 500, "\U0001f600" * 500]
        probe = (self.spec.prompt, DECODED_SIDES, self.image_processor.to_dict(), self.token_ids(captions))
        return hashlib.sha256("\n".join(map(str, probe)).encode()).hexdigest()[:12]

    def normalised(self, pixels_B3SS: Tensor) -> Tensor:
        """float[B, 3, S, S] in the backbone's precision, from uint8."""
        return ((pixels_B3SS / 255 - self.mean_311) / self.std_311).to(self.backbone.dtype)

    def trainable_names(self) -> list[str]:
        """Names of the backbone's trainable weights."""
        return [name for name, weight in self.backbone.named_parameters() if weight.requires_grad]

    def frozen_segments(self) -> tuple[Segment, ...]:
        """The segments that need to run only once a post, given what is trainable now."""
        return frozen_segments(self.segments, self.trainable_names())

    def cached_names(self) -> tuple[str, ...]:
        """The features that `encode` gives and `forward` reads, given what is trainable now."""
        return cached_names(self.segments, self.frozen_segments())

    @torch.no_grad()
    def encode(self, features: Features) -> Features:
        """Run all that is frozen on a batch of inputs, captions padded to the longest; returns `cached_names`.

        What an earlier boundary has cached may stand in for the inputs: only what is missing is run.
        """
        names = self.cached_names()
        return self._run(pending_segments(self.frozen_segments(), features, names), features, names)

    def forward(self, features: Features) -> Tensor:
        """logits_BK, float32, in the order of `TONES`, from what `encode` gave (or from the bare inputs)."""
        assert self.readout is not None, "attach a readout first"
        logits_BK: Tensor = self.readout(self.pooled(features).float())
        return logits_BK

    def pooled(self, features: Features) -> Tensor:
        """pooled_BD, what the readout reads, from what `encode` gave (or from the bare inputs)."""
        return self._run(pending_segments(self.segments, features), features, (POOLED,))[POOLED]

    def alignment(self, features: Features) -> Tensor | None:
        """cosine_B of each post's picture and bare caption in a space that both are mapped to; here there is none.

        Whatever is on the model has its part in it, so the base's own is to be had while nothing is on.
        """
        return None

    def _run(self, segments: Sequence[Segment], features: Features, wanted: Sequence[str]) -> Features:
        known = dict(features)
        for segment in join_layers(segments):
            known[segment.writes] = self.run_segment(segment, known)
        return {name: known[name] for name in wanted}


def quiet_unless_watched() -> None:
    """Keep transformers' bars for terminals: in a log each would be hundreds of lines."""
    if not sys.stderr.isatty():
        disable_progress_bar()


def _require_whole(checkpoint: PretrainedWeights, info: Mapping[str, Any]) -> None:
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(fault):
            names = sorted(str(name) for name in info[fault])
            raise UserError(f"{checkpoint.source}: {len(names)} {fault.replace('_', ' ')}, such as {names[0]}")
