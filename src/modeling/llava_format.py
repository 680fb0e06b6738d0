"""The common part of checkpoints in transformers' LLaVA format.

Such a model is a vision tower (CLIP, SigLIP or DINOv2), a two-layer connector and a language model (Llama, Mistral or
Qwen2).

H. Liu et al., Improved Baselines with Visual Instruction Tuning (LLaVA-1.5), CVPR 2024.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llava.configuration_llava import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration
from transformers.models.llava.processing_llava import LlavaProcessor

from src.core.errors import UserError, first_line
from src.core.labels import TONE_LABELS, Labels
from src.core.outputs import PretrainedWeights
from src.modeling import tiny
from src.modeling.answers import SequenceReadout, WordReadout
from src.modeling.base import Features
from src.modeling.language import (
    CUT,
    MAX_CAPTION_TOKENS,
    PROMPTED,
    LanguageToneModel,
    language_stack,
    pool_image,
)
from src.modeling.last_layer import LayerParts
from src.modeling.segments import POOLED_IMAGE, Segment
from src.modeling.transformers_usage import TransformersUsage

IMAGE_TOKEN = "<image>"
# The vision towers by `model_type`, and the number of class tokens that stand before the patches of each.
CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0, "dinov2": 1}
# The image processors of these towers by name, without torchvision.
IMAGE_PROCESSORS = ("CLIPImageProcessorPil", "SiglipImageProcessorPil", "BitImageProcessorPil")
LAYERS = r"model\.language_model\.layers\.\d+\."


class LlavaFormat(LanguageToneModel):
    """A model in LLaVA's format. A model file adds its `spec` and the shapes of its language model, full and tiny."""

    part_types: ClassVar[Mapping[str, Sequence[str]]] = {
        "text_config": ("llama", "mistral", "qwen2"),
        "vision_config": tuple(CLASS_TOKENS),
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
        """Return the vision tower, the image's own features, the connector, and the language model layer by layer."""
        depth = config.text_config.num_hidden_layers
        return (
            Segment("vision", ("pixels",), "vision", ("model.vision_tower",)),
            pool_image("vision"),
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
    def image_side(cls, config: LlavaConfig) -> int:
        """Return S. DINOv2 interpolates its positions, and its own configuration has the side of other images."""
        vision = config.vision_config
        if vision.model_type == "dinov2":
            return math.isqrt(config.image_seq_length) * int(vision.patch_size)
        return super().image_side(config)

    @classmethod
    def load(
        cls, checkpoint: PretrainedWeights, device: torch.device, dtype: torch.dtype, labels: Labels = TONE_LABELS
    ) -> Self:
        """Load a checkpoint as `ToneModel.load` does, and check that its parts belong together.

        Raises:
            UserError: as `ToneModel.load`; the tokenizer has no token for the image; or the language model's attention
                is narrower than a prompt.
        """
        model = super().load(checkpoint, device, dtype, labels)
        model.require_fitting_parts()
        return model

    @classmethod
    def load_processors(cls, source: str, **revision: str) -> tuple[Any, Any]:
        """Load the tokenizer, and the image processor that preprocessor_config.json names.

        Raises:
            UserError: the image processor is none of `IMAGE_PROCESSORS`. LLaVA-NeXT's cuts an image into several.
        """
        tokenizer = AutoTokenizer.from_pretrained(source, **revision)
        try:
            image_processor = AutoImageProcessor.from_pretrained(source, backend="pil", **revision)
        except ValueError as error:
            raise UserError(f"{source}: its image processor is unknown: {first_line(error)}") from error
        name = type(image_processor).__name__
        if name not in IMAGE_PROCESSORS:
            raise UserError(
                f"{source}: its image processor is {name.removesuffix('Pil')}, and must be "
                f"{' or '.join(known.removesuffix('Pil') for known in IMAGE_PROCESSORS)}"
            )
        return tokenizer, image_processor

    def require_fitting_parts(self) -> None:
        """Check that the tokenizer knows the image token, and that attention reaches over the longest prompt.

        Layers run without a mask, so they attend to all positions before. Mistral attends to a sliding window, and
        Qwen2 does so on request.

        Raises:
            UserError: one of the two does not hold.
        """
        source, config = self.checkpoint.source, self.backbone.config
        ids = self.tokenizer(IMAGE_TOKEN, add_special_tokens=False)["input_ids"]
        if ids != [config.image_token_index]:
            raise UserError(
                f"{source}: its tokenizer reads {IMAGE_TOKEN} as the tokens {ids}, and config.json names token "
                f"{config.image_token_index} (image_token_index)"
            )
        window = getattr(config.text_config, "sliding_window", None)
        longest = len(self.opening_ids()) + self.num_image_positions + len(self.token_ids([""])[0]) + MAX_CAPTION_TOKENS
        if window is not None and window < longest:
            raise UserError(
                f"{source}: its text_config has a sliding_window of {window} tokens, and a prompt may have {longest}: "
                "only attention to the whole prompt is computed"
            )

    @property
    def decoder(self) -> Any:
        """Return the language model without its head."""
        return self.backbone.model.language_model

    @property
    def final_norm(self) -> nn.Module:
        """Return the language model's last norm."""
        norm: nn.Module = self.decoder.norm
        return norm

    def layer_parts(self, layer: Any) -> LayerParts:
        """Return the parts of a layer. Llama, Mistral and Qwen2 name them alike."""
        return LayerParts.of(
            layer.input_layernorm, layer.self_attn, "o_proj", layer.post_attention_layernorm, layer.mlp
        )

    def layer_arguments(self, states_BTD: Tensor, positions_BT: Tensor) -> dict[str, Any]:
        """Return rotary positions."""
        rotary = self.decoder.rotary_emb(states_BTD, position_ids=positions_BT)
        return {"position_ids": positions_BT, "position_embeddings": rotary}

    @property
    def vocabulary_head(self) -> nn.Linear:
        """Return the language model's head."""
        head: nn.Linear = self.backbone.lm_head
        return head

    @property
    def num_image_positions(self) -> int:
        """Return the number of positions that an image takes: its patches, perhaps with a class token."""
        config = self.backbone.config
        num_patches: int = (self.image_resizer().side // config.vision_config.patch_size) ** 2
        num_dropped = int(config.vision_feature_select_strategy == "default")
        return num_patches + self._num_class_tokens - num_dropped

    @property
    def pooled_image_width(self) -> int:
        """Return I: the width of the connector's input, for the class token and for the mean of the patches."""
        width: int = self.backbone.model.multi_modal_projector.linear_1.in_features
        return width * (self._num_class_tokens + 1)

    @property
    def _num_class_tokens(self) -> int:
        return CLASS_TOKENS[self.backbone.config.vision_config.model_type]

    @property
    def _vision_layers(self) -> list[int]:
        """Return the layers of the vision tower whose states the connector reads."""
        layers: int | list[int] = self.backbone.config.vision_feature_layer
        return [layers] if isinstance(layers, int) else layers

    def opening_ids(self) -> list[int]:
        """Return the tokens before the image: the begin token if the tokenizer adds one, and `USER: `."""
        ids: list[int] = self.tokenizer(self.prompt.format(caption=""))["input_ids"]
        return ids[: self._image_position(ids)]

    def tokens_after_image(self, ids: list[int]) -> list[int]:
        """Return the tokens behind the image token. The image's embeddings replace that token."""
        return ids[self._image_position(ids) + 1 :]

    def run_segment(self, segment: Segment, features: Features) -> Tensor:
        """Compute the feature that a segment writes.

        They are vision_BPD (`vision`), pooled_image_BI (`pooled_image`), image_BPD (`connector`), and states_BTD or
        pooled_BD (`language`).
        """
        if segment.name == "vision":
            return self._vision(features["pixels"])
        if segment.name == POOLED_IMAGE:
            return self.pooled_image(features["vision"], features["pixels"], self._num_class_tokens)
        if segment.name == "connector":
            connector = self.backbone.model.multi_modal_projector
            # "default" drops the first token. That is the class token, except in SigLIP, which has none.
            num_dropped = int(self.backbone.config.vision_feature_select_strategy == "default")
            connected: Tensor = connector(features["vision"][:, num_dropped:].to(connector.linear_1.weight.dtype))
            return connected
        return self.run_language(segment, features, "image")

    def _vision(self, pixels_B3SS: Tensor) -> Tensor:
        tower = self.backbone.model.vision_tower
        states = tower(pixel_values=self.normalize(pixels_B3SS), output_hidden_states=True).hidden_states
        return torch.cat([states[layer] for layer in self._vision_layers], dim=-1)

    def transformers_usage(self) -> TransformersUsage:
        """Return the lines that read LLaVA's own forward pass at the last position."""
        end, prefix = "**inputs", []
        if self.text_weights:
            # The base alone runs the prompt up to the image's end, and the adapted model runs the rest.
            end = "input_ids=ids[:, start:], past_key_values=past"
            prefix = [
                'ids, pixels = inputs["input_ids"], inputs["pixel_values"]',
                "start = int((ids[0] == model.config.image_token_id).nonzero()[-1]) + 1",
                "with model.disable_adapter():",
                "    past = model(input_ids=ids[:, :start], pixel_values=pixels, use_cache=True).past_key_values",
                *self.rounding_usage(),
            ]
        line = f"pooled = model({end}, output_hidden_states=True, logits_to_keep=1).hidden_states[-1][:, -1]"
        if isinstance(self.readout, WordReadout | SequenceReadout):
            line = f"logits = model({end}, logits_to_keep=1).logits[:, -1, {self.word_ids()}]"
        config = self.backbone.config
        states = [f"states[{layer}]" for layer in self._vision_layers]
        tower_states = states[0] if len(states) == 1 else f"torch.cat([{', '.join(states)}], dim=-1)"
        tower = 'model.get_image_features(pixel_values=inputs["pixel_values"], output_hidden_states=True)'
        image = self.image_usage(tower_states, self._num_class_tokens)
        if image:
            image.insert(0, f"states = {tower}.hidden_states")
        processor = LlavaProcessor(
            self.image_processor,
            self.tokenizer,
            patch_size=config.vision_config.patch_size,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            image_token=IMAGE_TOKEN,
            num_additional_image_tokens=CLASS_TOKENS[config.vision_config.model_type],
        )
        return TransformersUsage(processor, PROMPTED, (*image, *prefix, line), (CUT,))

    def _image_position(self, ids: list[int]) -> int:
        return ids.index(self.backbone.config.image_token_index)

    @classmethod
    def tiny_tokenizer(cls, prompts: Sequence[str], labels: Labels) -> Any:
        """Train the tokenizer of a small checkpoint."""
        return tiny.train_tokenizer(prompts, "<s>", "</s>", "<pad>", tiny.answers(labels), extra=[IMAGE_TOKEN])

    @classmethod
    def tiny_vision(cls) -> Any:
        """Return the configuration of the vision tower of a small checkpoint."""
        return CLIPVisionConfig(
            hidden_size=tiny.WIDTH,
            intermediate_size=2 * tiny.WIDTH,
            num_hidden_layers=tiny.LAYERS,
            num_attention_heads=tiny.HEADS,
            image_size=tiny.IMAGE_SIDE,
            patch_size=tiny.PATCH_SIDE,
            initializer_range=tiny.INIT_STD,
        )

    @classmethod
    def make_tiny(cls, folder: Path, captions: Sequence[str], labels: Labels = TONE_LABELS) -> None:
        """Write a small LLaVA whose language model is a Llama of the shape of `tiny_language`."""
        prompt = cls.prompt_for(labels)
        tokenizer = cls.tiny_tokenizer([prompt.format(caption=caption) for caption in captions], labels)
        language = LlamaConfig(
            **cls.tiny_language,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            initializer_range=tiny.INIT_STD,
        )
        config = LlavaConfig(
            vision_config=cls.tiny_vision(),
            text_config=language,
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            image_seq_length=(tiny.IMAGE_SIDE // tiny.PATCH_SIDE) ** 2,
            initializer_range=tiny.INIT_STD,
        )
        side = tiny.IMAGE_SIDE
        processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        tiny.save(folder, lambda: LlavaForConditionalGeneration(config), tokenizer, processor)
