"""CLIP ViT-B/32 (openai/clip-vit-base-patch32): two towers, their embeddings side by side.

A. Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import processors as post_processors
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize
from torch.nn.utils.rnn import pad_sequence
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.models.clip.configuration_clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.clip.modeling_clip import CLIPModel
from transformers.models.clip.processing_clip import CLIPProcessor

from src.core.labels import TONE_LABELS, Labels
from src.modeling import tiny
from src.modeling.base import Features, ToneModel
from src.modeling.last_layer import LayerParts
from src.modeling.segments import LENGTH, POOLED, Segment, join_layers, stack
from src.modeling.spec import Spec, TokenCounts
from src.modeling.transformers_usage import TransformersUsage

# Random embeddings must be this wide, or an adapter cannot tell the words of a vocabulary apart.
TINY_TEXT_WIDTH = 256
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


class PromptReadout(nn.Module):
    """CLIP's verbalizer: the cosine of an image with one prompt for each label, scaled by CLIP's temperature.

    Section 3.1.4 of CLIP's paper describes it.
    """

    prompts_KD: Tensor
    scale: Tensor

    def __init__(self, prompts_KD: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("prompts_KD", normalize(prompts_KD.detach().float(), dim=-1), persistent=False)
        self.register_buffer("scale", scale.detach().float().clone(), persistent=False)

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """Compute logits_BK from the image's half of pooled_BD."""
        image_BD = pooled_BD[:, : self.prompts_KD.shape[1]]
        return self.scale * normalize(image_BD, dim=-1) @ self.prompts_KD.T


class Model(ToneModel):
    """CLIP ViT-B/32; pooled_BD is the image's embedding, followed by the caption's."""

    # Revision: pinned in embeddings-benchmark/mteb, mteb/models/clip_models.py.
    # Prompt: the form of the zero-shot prompts in CLIP's paper (section 3.1.4).
    spec: ClassVar[Spec] = Spec(
        name="clip",
        checkpoint="openai/clip-vit-base-patch32",
        revision="3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
        layers=r"(text_model|vision_model)\.encoder\.layers\.\d+\.",
        target_projections="qv",
        projections={
            **{letter: rf"self_attn\.{letter}_proj" for letter in "qkv"},
            "o": r"self_attn\.out_proj",
            "m": r"mlp\.fc[12]",
        },
        prompt="a photo with a {caption} tone",
        tokens=TokenCounts(opening=0, prompt=2, caption=46),
    )

    @classmethod
    def architecture(cls) -> Any:
        """Return CLIP's class in transformers."""
        return CLIPModel

    @classmethod
    def build_segments(cls, config: CLIPConfig) -> tuple[Segment, ...]:
        """Return both towers layer by layer, then the segment that joins their embeddings."""
        return (
            *stack(
                "vision",
                "vision_model.encoder.layers",
                config.vision_config.num_hidden_layers,
                ("pixels",),
                "image",
                before=("vision_model.embeddings", "vision_model.pre_layrnorm"),
                after=("vision_model.post_layernorm", "visual_projection"),
            ),
            *stack(
                "text",
                "text_model.encoder.layers",
                config.text_config.num_hidden_layers,
                ("tokens", LENGTH),
                "text",
                before=("text_model.embeddings",),
                after=("text_model.final_layer_norm", "text_projection"),
                per_token=True,
            ),
            Segment("join", ("image", "text"), POOLED, ()),
        )

    @classmethod
    def published_config(cls) -> CLIPConfig:
        """Return transformers' defaults: ViT-B/32 and a text tower of 12 layers, 512 wide.

        Tables 19 and 20 of CLIP's paper give the sizes.
        """
        return CLIPConfig()

    @classmethod
    def load_processors(cls, source: str, **revision: str) -> tuple[Any, Any]:
        """Load CLIP's tokenizer and image processor."""
        tokenizer = AutoTokenizer.from_pretrained(source, **revision)
        return tokenizer, CLIPImageProcessorPil.from_pretrained(source, **revision)

    @property
    def width(self) -> int:
        """Return D of pooled_BD: the width of both embeddings."""
        return 2 * int(self.backbone.config.projection_dim)

    def token_ids(self, captions: Sequence[str]) -> list[list[int]]:
        """Return the caption's tokens between the begin and end tokens, cut to the positions of the text tower."""
        max_length = self.backbone.config.text_config.max_position_embeddings
        texts = [self.strip_special_tokens(caption) for caption in captions]
        ids: list[list[int]] = self.tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
        return ids

    def run_segment(self, segment: Segment, features: Features) -> Tensor:
        """Compute states_BPD or image_BD (`vision`), states_BTD or text_BD (`text`), or pooled_BD (`join`)."""
        if segment.name == "vision":
            return self._vision(segment, features)
        if segment.name == "text":
            return self._text(segment, features)
        return torch.cat([features["image"], features["text"]], dim=-1)

    def _vision(self, segment: Segment, features: Features) -> Tensor:
        assert segment.layers is not None
        tower = self.backbone.vision_model
        first, last = segment.layers
        pools = segment.writes == "image"
        if first == 0:
            states_BPD = tower.pre_layrnorm(tower.embeddings(self.normalize(features["pixels"])))
        else:
            states_BPD = features[segment.reads[0]]
        for layer in tower.encoder.layers[first : last - pools]:
            states_BPD = layer(states_BPD, None)
        if not pools:
            return states_BPD  # type: ignore[no-any-return]
        # CLIP reads the image at the class token, which stands first.
        first_B = torch.zeros(len(states_BPD), dtype=torch.long, device=self.device)
        class_BD = layer_parts(tower.encoder.layers[-1]).forward_at(states_BPD, first_B, causal=False)
        return self.backbone.visual_projection(tower.post_layernorm(class_BD))  # type: ignore[no-any-return]

    def _text(self, segment: Segment, features: Features) -> Tensor:
        assert segment.layers is not None
        tower = self.backbone.text_model
        first, last = segment.layers
        pools = segment.writes == "text"
        states_BTD = tower.embeddings(features["tokens"]) if first == 0 else features[segment.reads[0]]
        # CLIP reads the caption at the end token. Padding stands behind that token, and a causal tower does not look
        # ahead, so the causal mask is enough.
        for layer in tower.encoder.layers[first : last - pools]:
            states_BTD = layer(states_BTD, None, is_causal=True)
        if not pools:
            return states_BTD
        end_BD = layer_parts(tower.encoder.layers[-1]).forward_at(states_BTD, features[LENGTH] - 1, causal=True)
        return self.backbone.text_projection(tower.final_layer_norm(end_BD))  # type: ignore[no-any-return]

    def similarity(self, features: Features) -> Tensor:
        """Return cosine_B of both embeddings. CLIP was trained to raise it for an image and its own caption."""
        image_BD, text_BD = self.forward_pooled(features)[POOLED].float().chunk(2, dim=-1)
        return cosine_similarity(image_BD, text_BD, dim=-1)

    @classmethod
    def label_prompts(cls, labels: Labels) -> list[str]:
        """Return the zero-shot prompt of each label: its description, or the template with its word."""
        return [label.description or cls.spec.prompt.format(caption=label.word) for label in labels]

    def verbalizer_readout(self) -> nn.Module:
        """Return zero-shot CLIP, which compares the image with a prompt for each label."""
        ids = self.token_ids(self.label_prompts(self.labels))
        tokens = pad_sequence([torch.tensor(row) for row in ids], batch_first=True).to(self.device)
        length_K = torch.tensor([len(row) for row in ids], device=self.device)
        (tower,) = join_layers(segment for segment in self.segments if segment.name == "text")
        with torch.no_grad():
            prompts_KD = self._text(tower, {"tokens": tokens, LENGTH: length_K})
        return PromptReadout(prompts_KD, self.backbone.logit_scale.exp())

    def transformers_usage(self) -> TransformersUsage:
        """Return the lines that compute both embeddings, as they are before CLIP's own forward pass normalises them."""
        max_length = self.backbone.config.text_config.max_position_embeddings
        image = 'image_embeds = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output'
        text = 'text_embeds = model.get_text_features(input_ids=inputs["input_ids"]).pooler_output'
        lines: tuple[str, ...] = (image, text, "pooled = torch.cat([image_embeds, text_embeds], dim=-1)")
        if isinstance(self.readout, PromptReadout):
            cosine = 'torch.nn.functional.normalize(image_embeds.float(), dim=-1) @ head["prompts_KD"].T'
            lines = (image, f'logits = head["scale"] * {cosine}')
        processor = CLIPProcessor(self.image_processor, self.tokenizer)
        return TransformersUsage(processor, f"text=caption, truncation=True, max_length={max_length}", lines)

    @classmethod
    def make_tiny(cls, folder: Path, captions: Sequence[str], labels: Labels = TONE_LABELS) -> None:
        """Write a small CLIP."""
        corpus = [*captions, *cls.label_prompts(labels)]
        tokenizer = tiny.train_tokenizer(corpus, BEGIN, END, END, tiny.answers(labels))
        begin, end = tokenizer.convert_tokens_to_ids([BEGIN, END])
        tokenizer.backend_tokenizer.post_processor = post_processors.TemplateProcessing(
            single=f"{BEGIN} $A {END}", special_tokens=[(BEGIN, begin), (END, end)]
        )
        shape = {"num_hidden_layers": 2, "num_attention_heads": tiny.HEADS}
        vision = CLIPVisionConfig(
            **shape,
            hidden_size=tiny.WIDTH,
            intermediate_size=2 * tiny.WIDTH,
            image_size=tiny.IMAGE_SIDE,
            patch_size=tiny.PATCH_SIDE,
        )
        text = CLIPTextConfig(
            **shape,
            hidden_size=TINY_TEXT_WIDTH,
            intermediate_size=2 * TINY_TEXT_WIDTH,
            vocab_size=len(tokenizer),
            bos_token_id=begin,
            eos_token_id=end,
            pad_token_id=end,
        )
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)
        side = tiny.IMAGE_SIDE
        processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        tiny.save(folder, lambda: CLIPModel(config), tokenizer, processor)


def layer_parts(layer: Any) -> LayerParts:
    """Return the parts of a layer of either tower."""
    return LayerParts.of(layer.layer_norm1, layer.self_attn, "out_proj", layer.layer_norm2, layer.mlp)
