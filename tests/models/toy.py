"""A fifth model, as a newcomer would write it: this file and one line in the catalog.

It reads an image as the mean colours of its sixteen tiles, and a caption as the mean of its words' vectors.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from src.core.labels import TONE_LABELS, TONES, Labels
from src.modeling import tiny
from src.modeling.base import Features, ToneModel
from src.modeling.segments import POOLED, Segment
from src.modeling.spec import Spec, TokenCounts

TILES = 4


class ToyConfig(PretrainedConfig):  # type: ignore[misc]
    """The configuration of the toy."""

    model_type = "toy"
    # The size of the vocabulary, and the width of one encoder.
    words: int = 8
    width: int = 32


class ToyBackbone(PreTrainedModel):  # type: ignore[misc]
    """Two encoders, and a layer that mixes their results."""

    config_class = ToyConfig
    _supports_sdpa = True

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.vision = nn.Linear(3 * TILES**2, config.width)
        self.caption = nn.Embedding(config.words, config.width)
        self.mixer = nn.Linear(2 * config.width, 2 * config.width)
        self.post_init()


class ToyReadout(nn.Module):
    """The verbalizer: the similarity of the caption to each tone's own word."""

    rows_KD: Tensor

    def __init__(self, rows_KD: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows_KD", rows_KD.detach().float().clone(), persistent=False)

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """Compute logits_BK."""
        return pooled_BD[:, -self.rows_KD.shape[1] :] @ self.rows_KD.T


class Model(ToneModel):
    """The toy model."""

    spec: ClassVar[Spec] = Spec(
        name="toy",
        checkpoint="somebody/toy",
        revision="0" * 40,
        layers="",
        target_projections="q",
        prompt="{caption}",
        tokens=TokenCounts(opening=0, prompt=1, caption=20),
        projections={"q": "mixer"},
    )

    @classmethod
    def architecture(cls) -> Any:
        return ToyBackbone

    @classmethod
    def build_segments(cls, config: ToyConfig) -> tuple[Segment, ...]:
        return (
            Segment("vision", ("pixels",), "image", ("vision",)),
            Segment("caption", ("tokens", "length"), "text", ("caption",)),
            Segment("mixer", ("image", "text"), POOLED, ("mixer",)),
        )

    @classmethod
    def published_config(cls) -> ToyConfig:
        return ToyConfig(words=10_000, width=512)

    @classmethod
    def load_processors(cls, source: str, **revision: str) -> tuple[Any, Any]:
        tokenizer = AutoTokenizer.from_pretrained(source, **revision)
        return tokenizer, CLIPImageProcessorPil.from_pretrained(source, **revision)

    @property
    def width(self) -> int:
        return 2 * int(self.backbone.config.width)

    def token_ids(self, captions: Sequence[str]) -> list[list[int]]:
        return [
            ids[:64]
            for ids in self.tokenizer([self.strip_special_tokens(caption) for caption in captions])["input_ids"]
        ]

    def run_segment(self, segment: Segment, features: Features) -> Tensor:
        if segment.name == "vision":
            tiles_BCTT = nn.functional.adaptive_avg_pool2d(self.normalize(features["pixels"]), TILES)
            return self.backbone.vision(tiles_BCTT.flatten(1))  # type: ignore[no-any-return]
        if segment.name == "caption":
            tokens_BT, length_B1 = features["tokens"], features["length"][:, None]
            mask_BT = torch.arange(tokens_BT.shape[1], device=self.device) < length_B1
            vectors_BTD = self.backbone.caption(tokens_BT) * mask_BT[..., None]
            return vectors_BTD.sum(1) / length_B1  # type: ignore[no-any-return]
        both_BD = torch.cat([features["image"], features["text"]], dim=-1)
        return both_BD + self.backbone.mixer(both_BD)  # type: ignore[no-any-return]

    def verbalizer_readout(self) -> nn.Module:
        words = [ids[-1] for ids in self.token_ids([f" {tone}" for tone in TONES])]
        return ToyReadout(self.backbone.caption.weight[words])

    @classmethod
    def make_tiny(cls, folder: Path, captions: Sequence[str], labels: Labels = TONE_LABELS) -> None:
        tokenizer = tiny.train_tokenizer(captions, "<s>", "</s>", "<pad>", tiny.answers(labels))
        config = ToyConfig(words=len(tokenizer))
        side = tiny.IMAGE_SIDE
        processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        tiny.save(folder, lambda: ToyBackbone(config), tokenizer, processor)
