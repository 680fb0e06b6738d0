"""Checkpoints in transformers' LLaVA format: a CLIP vision tower, a two-layer connector, a Llama language model.

H. Liu et al., Improved Baselines with Visual Instruction Tuning (LLaVA-1.5), CVPR 2024.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llava.configuration_llava import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

from src.models import tiny
from src.models.base import Features, Segment
from src.models.language import LanguageToneModel, language_segment

IMAGE_TOKEN = "<image>"
LORA_TARGETS = r"model\.language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"


class LlavaFormat(LanguageToneModel):
    """A model in LLaVA's format; a model file adds its `spec` and the shape of its tiny language model."""

    segments: ClassVar[tuple[Segment, ...]] = (
        Segment("vision", ("pixels",), "vision", ("model.vision_tower",)),
        Segment("connector", ("vision",), "image", ("model.multi_modal_projector",)),
        language_segment("image", ("model.language_model",)),
    )
    tiny_language: ClassVar[dict[str, Any]]

    @classmethod
    def architecture(cls) -> Any:
        """LLaVA's class in transformers."""
        return LlavaForConditionalGeneration

    @classmethod
    def processors(cls, source: str, **revision: str) -> tuple[Any, Any]:
        """The Llama tokenizer with an image token, and CLIP's resizing and cropping."""
        tokenizer = AutoTokenizer.from_pretrained(source, **revision)
        return tokenizer, CLIPImageProcessorPil.from_pretrained(source, **revision)

    @property
    def decoder(self) -> Any:
        """The Llama language model without its head."""
        return self.backbone.model.language_model

    @property
    def vocabulary_head(self) -> nn.Linear:
        """The Llama language model's head."""
        head: nn.Linear = self.backbone.lm_head
        return head

    def prefix_ids(self) -> list[int]:
        """`USER: ` and what begins a text."""
        ids: list[int] = self.tokenizer(self.spec.prompt.format(caption=""))["input_ids"]
        return ids[: self._image_position(ids)]

    def after_image(self, ids: list[int]) -> list[int]:
        """What follows the image token, whose place the picture's embeddings take."""
        return ids[self._image_position(ids) + 1 :]

    def run_segment(self, segment: Segment, features: Features) -> Tensor:
        """`vision`: vision_BPD before the connector; `connector`: image_BPD after it; `language`: pooled_BD."""
        if segment.name == "vision":
            return self._vision(features["pixels"])
        if segment.name == "connector":
            connected: Tensor = self.backbone.model.multi_modal_projector(features["vision"].to(self.backbone.dtype))
            return connected
        return self.run_language(features, "image")

    def _vision(self, pixels_B3SS: Tensor) -> Tensor:
        config = self.backbone.config
        tower = self.backbone.model.vision_tower
        states = tower(pixel_values=self.normalised(pixels_B3SS), output_hidden_states=True).hidden_states
        selected_BPD: Tensor = states[config.vision_feature_layer]
        # "default" leaves out the class token, which stands first.
        return selected_BPD[:, 1:] if config.vision_feature_select_strategy == "default" else selected_BPD

    def _image_position(self, ids: list[int]) -> int:
        return ids.index(self.backbone.config.image_token_index)

    @classmethod
    def make_tiny(cls, folder: Path, captions: Sequence[str]) -> None:
        """Write a small LLaVA: `tiny_language` shapes its Llama part."""
        prompts = [cls.spec.prompt.format(caption=caption) for caption in captions]
        tokenizer = tiny.train_tokenizer(prompts, "<s>", "</s>", "<pad>", extra=[IMAGE_TOKEN])
        vision = CLIPVisionConfig(
            hidden_size=tiny.WIDTH,
            intermediate_size=2 * tiny.WIDTH,
            num_hidden_layers=tiny.LAYERS,
            num_attention_heads=tiny.HEADS,
            image_size=tiny.IMAGE_SIDE,
            patch_size=tiny.PATCH_SIDE,
            initializer_range=tiny.INIT_STD,
        )
        language = LlamaConfig(
            **cls.tiny_language,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            initializer_range=tiny.INIT_STD,
        )
        config = LlavaConfig(
            vision_config=vision,
            text_config=language,
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            image_seq_length=(tiny.IMAGE_SIDE // tiny.PATCH_SIDE) ** 2,
            initializer_range=tiny.INIT_STD,
        )
        side = tiny.IMAGE_SIDE
        processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        tiny.save(folder, lambda: LlavaForConditionalGeneration(config), tokenizer, processor)
