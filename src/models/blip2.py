"""BLIP-2 with OPT-2.7B (Salesforce/blip2-opt-2.7b).

J. Li et al., BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large Language Models,
ICML 2023.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.blip_2.configuration_blip_2 import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2ForConditionalGeneration
from transformers.models.blip_2.processing_blip_2 import Blip2Processor
from transformers.models.opt.configuration_opt import OPTConfig

from src.core.labels import TONE_LABELS, Labels
from src.modeling import tiny
from src.modeling.answers import SequenceReadout, WordReadout
from src.modeling.base import Features
from src.modeling.language import CUT, PROMPTED, LanguageToneModel, language_stack, pool_image
from src.modeling.last_layer import LayerParts
from src.modeling.segments import POOLED_IMAGE, Segment
from src.modeling.spec import Spec, TokenCounts
from src.modeling.transformers_usage import TransformersUsage

# Of ViT-g, before its patches.
NUM_CLASS_TOKENS = 1


class Model(LanguageToneModel):
    """BLIP-2: an EVA ViT-g, a Q-Former with 32 queries, a projection, and OPT-2.7B."""

    # Revision: pinned in mrveiss/AutoBot-AI, autobot_shared/pinned_model_registry.py, with the shards' SHA-256.
    # Prompt: the question-answer form of the paper's VQA prompts (section 4.2).
    spec: ClassVar[Spec] = Spec(
        name="blip2",
        checkpoint="Salesforce/blip2-opt-2.7b",
        revision="59a1ef6c1e5117b3f65523d1c6066825bcf315e3",
        layers=r"language_model\.model\.decoder\.layers\.\d+\.",
        target_projections="qv",
        projections={
            **{letter: rf"self_attn\.{letter}_proj" for letter in "qkv"},
            "o": r"self_attn\.out_proj",
            "m": "fc[12]",
        },
        prompt=(
            "This picture was posted with the caption: {caption}\nQuestion: is the tone of the post {labels}? Answer:"
        ),
        tokens=TokenCounts(opening=0, prompt=27, caption=51),
    )

    # BLIP-2 also exists with Flan-T5.
    part_types: ClassVar[Mapping[str, Sequence[str]]] = {"text_config": ("opt",)}

    @classmethod
    def architecture(cls) -> Any:
        """Return BLIP-2's class in transformers."""
        return Blip2ForConditionalGeneration

    @classmethod
    def build_segments(cls, config: Blip2Config) -> tuple[Segment, ...]:
        """Return the vision tower, the image's own features, the Q-Former, the projection, and OPT layer by layer."""
        depth = config.text_config.num_hidden_layers
        decoder = "language_model.model.decoder"
        return (
            Segment("vision", ("pixels",), "vision", ("vision_model",)),
            pool_image("vision"),
            Segment("qformer", ("vision",), "queries", ("qformer", "query_tokens")),
            Segment("connector", ("queries",), "image", ("language_projection",)),
            *language_stack("image", decoder, depth, "final_layer_norm", "embed_tokens", "embed_positions"),
        )

    @classmethod
    def published_config(cls) -> Blip2Config:
        """Return the configuration of ViT-g, a Q-Former of 12 layers (section 3 of the paper), and OPT-2.7B.

        Transformers' defaults describe ViT-g and the Q-Former. OPT: S. Zhang et al., arXiv 2205.01068, table 1. The
        vocabulary is that of the checkpoint's config.json, padded for the image's token.
        """
        language = OPTConfig(
            hidden_size=2560,
            num_hidden_layers=32,
            num_attention_heads=32,
            ffn_dim=10240,
            word_embed_proj_dim=2560,
            vocab_size=50304,
            eos_token_id=50118,
        )
        return Blip2Config(text_config=language, image_token_index=50265)

    @classmethod
    def load_processors(cls, source: str, **revision: str) -> tuple[Any, Any]:
        """Load OPT's tokenizer and BLIP's image processor."""
        tokenizer = AutoTokenizer.from_pretrained(source, **revision)
        return tokenizer, BlipImageProcessorPil.from_pretrained(source, **revision)

    @property
    def decoder(self) -> Any:
        """Return OPT without its head."""
        return self.backbone.language_model.model.decoder

    @property
    def final_norm(self) -> nn.Module:
        """Return OPT's last norm."""
        norm: nn.Module = self.decoder.final_layer_norm
        return norm

    def layer_parts(self, layer: Any) -> LayerParts:
        """Return the parts of an OPT layer."""

        def feed(states_BD: Tensor) -> Tensor:
            return layer.fc2(layer.activation_fn(layer.fc1(states_BD)))  # type: ignore[no-any-return]

        return LayerParts.of(
            layer.self_attn_layer_norm, layer.self_attn, "out_proj", layer.final_layer_norm, feed, layer.dropout
        )

    def add_positions(self, embeddings_BTD: Tensor, positions_BT: Tensor) -> Tensor:
        """Return the embeddings plus OPT's learned position embeddings."""
        positioned_BTD: Tensor = embeddings_BTD + self.decoder.embed_positions(None, position_ids=positions_BT)
        return positioned_BTD

    @property
    def vocabulary_head(self) -> nn.Linear:
        """Return OPT's head."""
        head: nn.Linear = self.backbone.language_model.lm_head
        return head

    @property
    def num_image_positions(self) -> int:
        """Return the number of the Q-Former's queries."""
        return int(self.backbone.config.num_query_tokens)

    @property
    def pooled_image_width(self) -> int:
        """Return I: the width of the vision tower, for the class token and for the mean of the patches."""
        return int(self.backbone.config.vision_config.hidden_size) * (NUM_CLASS_TOKENS + 1)

    def run_segment(self, segment: Segment, features: Features) -> Tensor:
        """Compute the feature that a segment writes.

        They are vision_BPD (`vision`), pooled_image_BI (`pooled_image`), queries_BPD (`qformer`), image_BPD
        (`connector`), and states_BTD or pooled_BD (`language`).
        """
        backbone = self.backbone
        if segment.name == "vision":
            return backbone.vision_model(pixel_values=self.normalize(features["pixels"])).last_hidden_state  # type: ignore[no-any-return]
        if segment.name == POOLED_IMAGE:
            return self.pooled_image(features["vision"], features["pixels"], NUM_CLASS_TOKENS)
        if segment.name == "qformer":
            vision_BPD = features["vision"].to(backbone.dtype)
            queries_BPD = backbone.query_tokens.expand(len(vision_BPD), -1, -1)
            return backbone.qformer(query_embeds=queries_BPD, encoder_hidden_states=vision_BPD).last_hidden_state  # type: ignore[no-any-return]
        if segment.name == "connector":
            connector = backbone.language_projection
            return connector(features["queries"].to(connector.weight.dtype))  # type: ignore[no-any-return]
        return self.run_language(segment, features, "image")

    def transformers_usage(self) -> TransformersUsage:
        """Return the lines that put the image's embeddings before the text's, and read the last position.

        They do not depend on whether the tokenizer has a token for the image.
        """
        image = [
            'images = model.get_image_features(pixel_values=inputs["pixel_values"])',
            "image_embeds = images.pooler_output",
            *self.image_usage("images.last_hidden_state", NUM_CLASS_TOKENS),
        ]
        prefix = ['embeds = torch.cat([image_embeds, model.get_input_embeddings()(inputs["input_ids"])], dim=1)']
        text = "inputs_embeds=embeds"
        if self.text_weights:
            # The base alone runs the image, and the adapted model runs the text.
            text = 'input_ids=inputs["input_ids"], past_key_values=past'
            prefix = [
                "with model.disable_adapter():",
                "    past = model.language_model(inputs_embeds=image_embeds, use_cache=True).past_key_values",
                *self.rounding_usage(),
            ]
        end = f"pooled = model.language_model.model({text}).last_hidden_state[:, -1]"
        if isinstance(self.readout, WordReadout | SequenceReadout):
            end = f"logits = model.language_model({text}).logits[:, -1, {self.word_ids()}]"
        # The processor adds a token for the image to its tokenizer. A copy keeps ours without that token.
        processor = Blip2Processor(self.image_processor, copy.deepcopy(self.tokenizer))
        return TransformersUsage(processor, PROMPTED, (*image, *prefix, end), (CUT,))

    @classmethod
    def make_tiny(cls, folder: Path, captions: Sequence[str], labels: Labels = TONE_LABELS) -> None:
        """Write a small BLIP-2."""
        prompts = [cls.prompt_for(labels).format(caption=caption) for caption in captions]
        tokenizer = tiny.train_tokenizer(prompts, "</s>", "</s>", "<pad>", tiny.answers(labels))
        shape = {"hidden_size": tiny.WIDTH, "num_hidden_layers": 2, "num_attention_heads": tiny.HEADS}
        inner = {"intermediate_size": 2 * tiny.WIDTH, "initializer_range": tiny.INIT_STD}
        vision = Blip2VisionConfig(**shape, **inner, image_size=tiny.IMAGE_SIDE, patch_size=tiny.PATCH_SIDE)
        qformer = Blip2QFormerConfig(
            **shape,
            **inner,
            encoder_hidden_size=tiny.WIDTH,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        language = OPTConfig(
            **shape,
            ffn_dim=2 * tiny.WIDTH,
            word_embed_proj_dim=tiny.WIDTH,
            vocab_size=len(tokenizer),
            max_position_embeddings=1024,
            dropout=0.0,
            init_std=tiny.INIT_STD,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        config = Blip2Config(
            vision_config=vision,
            qformer_config=qformer,
            text_config=language,
            num_query_tokens=8,
            image_token_index=None,
        )
        side = tiny.IMAGE_SIDE
        processor = BlipImageProcessorPil(size={"height": side, "width": side})
        tiny.save(folder, lambda: _with_queries(Blip2ForConditionalGeneration(config)), tokenizer, processor)


def _with_queries(backbone: Blip2ForConditionalGeneration) -> Blip2ForConditionalGeneration:
    # transformers starts the queries at zero; random queries would then all give the same result.
    nn.init.normal_(backbone.query_tokens)
    return backbone
