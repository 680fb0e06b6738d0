"""Models of the Trainer baseline: transformers models with peft's adapters and their own forward pass.

Letters of tensor shapes: B batch, T tokens, D width, K tones, V vocabulary.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from benchmarks.lib.hf_trainer_inputs import image_token
from benchmarks.lib.sizes import Sized
from src.core.labels import TONES
from src.core.training_config import TrainingConfig
from src.modeling.base import ToneModel
from src.modeling.language import LanguageToneModel
from src.training.adapter import ClassifierHead


@dataclass(frozen=True)
class Facts:
    """Facts about a model that the baseline needs before it loads one."""

    # Width of the pooled features.
    width: int
    is_language_model: bool
    # Token ids of the image and of the tones' words. 0 and empty without a language model.
    image_token: int
    tone_ids: tuple[int, ...]
    # The number of positions up to the end of the image; 0 without a language model.
    prefix_length: int

    @classmethod
    def of(cls, model: ToneModel) -> "Facts":
        """Read the facts from a project model."""
        if not isinstance(model, LanguageToneModel):
            return cls(model.width, False, 0, (), 0)
        space = "" if model.prompt.endswith("\n") else " "
        words = model.tokenizer([f"{space}{tone}" for tone in TONES], add_special_tokens=False)["input_ids"]
        token = image_token(model.backbone.config, model.tokenizer)
        return cls(model.width, True, token, tuple(ids[0] for ids in words), model.num_prefix_positions)


class TextAdapters(nn.Module):
    """A model whose adapters act on the text alone: in every step the base runs the prefix, without gradients.

    The call is that of the model, and its output has the positions of the text alone.
    """

    def __init__(self, backbone: Any, prefix_length: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.prefix_length = prefix_length

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, use_cache: bool, **options: Any
    ) -> Any:
        """Return the model's output for the text, with the keys and values of the prefix."""
        prefix_BP, text_BT = input_ids[:, : self.prefix_length], input_ids[:, self.prefix_length :]
        # BLIP-2 takes keys and values by its language model alone.
        model = getattr(self.backbone, "language_model", self.backbone)
        with torch.no_grad(), self.backbone.disable_adapter():
            if model is self.backbone:
                inputs = {"input_ids": prefix_BP, "pixel_values": pixel_values}
            else:
                image = self.backbone.get_image_features(pixel_values=pixel_values)
                inputs = {"inputs_embeds": image.pooler_output}
            past = model(**inputs, use_cache=True).past_key_values
        return model(input_ids=text_BT, attention_mask=attention_mask, past_key_values=past, use_cache=True, **options)


class VerbalizerModel(nn.Module):
    """A verbalizer: the language model's logits of the tones' words at the last position."""

    def __init__(self, backbone: Any, words: Sequence[int], logits: str, start: int) -> None:
        super().__init__()
        self.backbone = backbone
        # The first position of the output.
        self.start = start
        self.words = list(words)
        self.keep_last = logits == "last"

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, ends: Tensor) -> dict[str, Any]:
        """Return `logits`: logits_BK."""
        ends = ends - self.start
        keep = {"logits_to_keep": ends[:, None]} if self.keep_last else {}
        logits_BTV = self.backbone(
            pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **keep
        ).logits
        logits_BV = logits_BTV[:, 0] if self.keep_last else _at(logits_BTV, ends)
        return {"logits": logits_BV[:, self.words].float()}


class PooledModel(nn.Module):
    """A head on the language model's last hidden state at the last position."""

    def __init__(self, backbone: Any, head: nn.Module, logits: str, start: int) -> None:
        super().__init__()
        self.backbone = backbone
        # The first position of the output.
        self.start = start
        self.head = head
        self.keep_last = logits == "last"

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, ends: Tensor) -> dict[str, Any]:
        """Return `logits`: logits_BK."""
        ends = ends - self.start
        output = self.backbone(
            pixel_values=pixel_values,
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=True,
            use_cache=False,
            **({"logits_to_keep": ends[:, None]} if self.keep_last else {}),
        )
        # BLIP-2 nests the output of its language model.
        states = getattr(output, "language_model_outputs", output).hidden_states
        return {"logits": self.head(_at(states[-1], ends).float())}


class TowersModel(nn.Module):
    """A head on CLIP's concatenated image and text embeddings."""

    def __init__(self, backbone: Any, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, ends: Tensor) -> dict[str, Any]:
        """Return `logits`: logits_BK."""
        image_BD = self.backbone.get_image_features(pixel_values=pixel_values).pooler_output
        text_BD = self.backbone.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return {"logits": self.head(torch.cat([image_BD, text_BD], dim=-1).float())}


def build(
    sized: Sized, facts: Facts, settings: TrainingConfig, adapted: Sequence[str], logits: str, seed: int
) -> VerbalizerModel | PooledModel | TowersModel:
    """Return a new model for one trial. Weights are drawn in the project's order: first the adapter, then the head."""
    backbone = sized.backbone()
    if facts.is_language_model and backbone.config.image_token_id is None:
        backbone.config.image_token_index = facts.image_token
    torch.manual_seed(seed)
    backbone.requires_grad_(False)
    if settings.rank:
        with warnings.catch_warnings():
            # peft 0.21 uses a name that transformers 5.23 deprecates.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            backbone = get_peft_model(backbone, _lora(settings, adapted))
    start = 0
    if settings.adapter_positions == "text":
        start = facts.prefix_length
        backbone = TextAdapters(backbone, start)
    if settings.readout == "verbalizer":
        return VerbalizerModel(backbone, facts.tone_ids, logits, start)
    head = ClassifierHead(facts.width, settings, 3)
    return PooledModel(backbone, head, logits, start) if facts.is_language_model else TowersModel(backbone, head)


def _lora(settings: TrainingConfig, adapted: Sequence[str]) -> LoraConfig:
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(adapted),
        bias="none",
    )


def _at(values_BTX: Tensor, ends: Tensor) -> Tensor:
    return values_BTX[torch.arange(len(ends), device=ends.device), ends]
