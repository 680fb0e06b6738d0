"""The common part of checkpoints in transformers' LLaVA format.

Such a model is a CLIP vision tower, a two-layer connector and a Llama language model.

H. Liu et al., Improved Baselines with Visual Instruction Tuning (LLaVA-1.5), CVPR 2024.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llava.configuration_llava import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration
from transformers.models.llava.processing_llava import LlavaProcessor

from src.modeling import tiny
from src.modeling.base import Features
from src.modeling.language import CUT, PROMPTED, LanguageToneModel, VerbalizerReadout, language_stack
from src.modeling.last_layer import LayerParts
from src.modeling.segments import Segment
from src.modeling.transformers_usage import TransformersUsage

IMAGE_TOKEN = "<image>"
ATTENTION = r"model\.language_model\.layers\.\d+\.self_attn\."


class LlavaFormat(LanguageToneModel):
    """A model in LLaVA's format. A model file adds its `spec` and the shapes of its language model, full and tiny."""

    part_types: ClassVar[Mapping[str, Sequence[str]]] = {
        "text_config": ("llama",),
        "vision_config": ("clip_vision_model",),
    }
    # Arguments of LlamaConfig: at the published size, and for the tiny checkpoint.
    published_language: ClassVar[dict[str, Any]]
    tiny_language: ClassVar[dict[str, Any]]

    @classmethod
    def architecture(cls) -> Any:
        """Return LLaVA's class in transformers."""
        return LlavaForConditionalGeneration

    @classmethod
    def build_segments(cls, config: LlavaConfig) -> tuple[Segment, ...]:
        """Return the vision tower, the connector, and Llama layer by layer."""
        depth = config.text_config.num_hidden_layers
        return (
            Segment("vision", ("pixels",), "vision", ("model.vision_tower",)),
            Segment("connector", ("vision",), "image", ("model.multi_modal_projector",)),
            *language_stack("image", "model.language_model", depth, "norm", "embed_tokens"),
        )

    @classmethod
    def published_config(cls) -> LlavaConfig:
        """Return the configuration of CLIP ViT-L/14-336 (table 19 of its paper) and `published_language`.

        LLaVA reads the last layer but one of the vision tower. The conversion to this format (transformers'
        convert_llava_weights_to_hf.py) adds the tokens `<image>` (32000) and `<pad>` (32001), and pads the vocabulary
        to a multiple of 64.
        """
        vision = CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
            projection_dim=768,
        )
        language = LlamaConfig(**cls.published_language, vocab_size=32064, rms_norm_eps=1e-5, pad_token_id=32001)
        return LlavaConfig(
            vision_config=vision,
            text_config=language,
            image_token_index=32000,
            image_seq_length=576,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
        )

    @classmethod
    def load_processors(cls, source: str, **revision: str) -> tuple[Any, Any]:
        """Load the Llama tokenizer with an image token, and CLIP's image processor."""
        tokenizer = AutoTokenizer.from_pretrained(source, **revision)
        return tokenizer, CLIPImageProcessorPil.from_pretrained(source, **revision)

    @property
    def decoder(self) -> Any:
        """Return the Llama language model without its head."""
        return self.backbone.model.language_model

    @property
    def final_norm(self) -> nn.Module:
        """Return Llama's last norm."""
        norm: nn.Module = self.decoder.norm
        return norm

    def layer_parts(self, layer: Any) -> LayerParts:
        """Return the parts of a Llama layer."""
        return LayerParts.of(
            layer.input_layernorm, layer.self_attn, "o_proj", layer.post_attention_layernorm, layer.mlp
        )

    def layer_arguments(self, states_BTD: Tensor) -> dict[str, Any]:
        """Return rotary positions."""
        positions_1T = torch.arange(states_BTD.shape[1], device=states_BTD.device)[None]
        rotary = self.decoder.rotary_emb(states_BTD, position_ids=positions_1T)
        return {"position_ids": positions_1T, "position_embeddings": rotary}

    @property
    def vocabulary_head(self) -> nn.Linear:
        """Return the Llama language model's head."""
        head: nn.Linear = self.backbone.lm_head
        return head

    def prefix_ids(self) -> list[int]:
        """Return the begin token and `USER: `."""
        ids: list[int] = self.tokenizer(self.spec.prompt.format(caption=""))["input_ids"]
        return ids[: self._image_position(ids)]

    def tokens_after_image(self, ids: list[int]) -> list[int]:
        """Return the tokens behind the image token. The image's embeddings replace that token."""
        return ids[self._image_position(ids) + 1 :]

    def run_segment(self, segment: Segment, features: Features) -> Tensor:
        """Compute vision_BPD (`vision`), image_BPD (`connector`), or states_BTD or pooled_BD (`language`)."""
        if segment.name == "vision":
            return self._vision(features["pixels"])
        if segment.name == "connector":
            connector = self.backbone.model.multi_modal_projector
            connected: Tensor = connector(features["vision"].to(connector.linear_1.weight.dtype))
            return connected
        return self.run_language(segment, features, "image")

    def _vision(self, pixels_B3SS: Tensor) -> Tensor:
        config = self.backbone.config
        tower = self.backbone.model.vision_tower
        states = tower(pixel_values=self.normalize(pixels_B3SS), output_hidden_states=True).hidden_states
        selected_BPD: Tensor = states[config.vision_feature_layer]
        # "default" drops the class token, which stands first.
        return selected_BPD[:, 1:] if config.vision_feature_select_strategy == "default" else selected_BPD

    def transformers_usage(self) -> TransformersUsage:
        """Return the lines that read LLaVA's own forward pass at the last position."""
        line = "pooled = model(**inputs, output_hidden_states=True, logits_to_keep=1).hidden_states[-1][:, -1]"
        if isinstance(self.readout, VerbalizerReadout):
            line = f"logits = model(**inputs, logits_to_keep=1).logits[:, -1, {self.word_ids()}]"
        config = self.backbone.config
        processor = LlavaProcessor(
            self.image_processor,
            self.tokenizer,
            patch_size=config.vision_config.patch_size,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            image_token=IMAGE_TOKEN,
            num_additional_image_tokens=1,  # the class token
        )
        return TransformersUsage(processor, PROMPTED, (line,), (CUT,))

    def _image_position(self, ids: list[int]) -> int:
        return ids.index(self.backbone.config.image_token_index)

    @classmethod
    def make_tiny(cls, folder: Path, captions: Sequence[str]) -> None:
        """Write a small LLaVA whose Llama part has the shape of `tiny_language`."""
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
