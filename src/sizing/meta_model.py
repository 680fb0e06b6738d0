"""A model at full size, built from its configuration: weights that are shapes, and a tokenizer that counts.

The model lies on torch's meta device, where a tensor has a shape and no content. LLaVA takes no memory and one second.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch

from src.core.labels import TONE_LABELS, Labels
from src.core.outputs import PretrainedWeights
from src.modeling.base import Features, ToneModel
from src.modeling.llava_format import IMAGE_TOKEN
from src.modeling.spec import Spec

M = TypeVar("M", bound=ToneModel)
META = torch.device("meta")
WORD = re.compile(r"\S+")
# The token that stands for every token of the prompt.
PROMPT_ID = 0


class MeasuredTokenizer:
    """A replacement for a checkpoint's tokenizer.

    It returns the measured number of tokens for the prompt (`Spec.tokens`), and one token for each word of a caption.

    Args:
        spec: the model's facts.
        prompt: the model's prompt.
        image_id: the token that stands for an image in the model's configuration, if it has one.
    """

    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def __init__(self, spec: Spec, prompt: str, image_id: int | None) -> None:
        image = [image_id] if IMAGE_TOKEN in spec.prompt else []
        self._prompt_ids = [PROMPT_ID] * spec.tokens.opening + image + [PROMPT_ID] * spec.tokens.prompt
        self._head = prompt.partition("{caption}")[0]
        self._num_prompt_words = len(prompt.format(caption="").split())
        self._ids: dict[str, int] = {}

    def __call__(
        self, text: str | Sequence[str], add_special_tokens: bool = True, max_length: int | None = None, **_: Any
    ) -> dict[str, Any]:
        """Return `input_ids` and `offset_mapping` as transformers' tokenizers do, for one text or several.

        Without special tokens, a text is a caption. With them, it is a caption in the prompt, and perhaps an answer.
        """
        if not isinstance(text, str):
            return {"input_ids": [self(one_text, add_special_tokens, max_length)["input_ids"] for one_text in text]}
        words = list(WORD.finditer(text))
        if text.startswith(self._head):
            words = words[self._num_prompt_words :]
        ids = [self._ids.setdefault(word.group(), PROMPT_ID + 1 + len(self._ids)) for word in words]
        prompt_ids = self._prompt_ids if add_special_tokens else []
        return {"input_ids": [*prompt_ids, *ids][:max_length], "offset_mapping": [word.span() for word in words]}


class BlankImageProcessor:
    """A replacement for a checkpoint's image processor, which returns black images of the model's size.

    Args:
        side: the side of an image in pixels.
    """

    image_mean: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)
    image_std: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)

    def __init__(self, side: int) -> None:
        self.size = {"height": side, "width": side}

    def __call__(self, images: Sequence[Any], **_: Any) -> dict[str, Any]:
        """Return `pixel_values` as transformers' image processors do."""
        pixels_B3SS = torch.zeros(len(images), 3, self.size["height"], self.size["width"], dtype=torch.uint8)
        return {"pixel_values": pixels_B3SS.numpy()}


def build_on_meta(model_type: type[M], dtype: torch.dtype, config: Any = None, labels: Labels = TONE_LABELS) -> M:
    """Build a model at full size. It can be adapted, run and differentiated; its results are shapes.

    Args:
        model_type: the class of the model.
        dtype: the precision of the base.
        config: the configuration of its checkpoint; None for the published one.
        labels: the labels that it scores.
    """
    config = config or model_type.published_config()
    tokenizer = MeasuredTokenizer(
        model_type.spec, model_type.prompt_for(labels), getattr(config, "image_token_id", None)
    )
    image_processor = BlankImageProcessor(model_type.image_side(config))
    with META:
        backbone = model_type.architecture()(config).to(dtype)
        checkpoint = PretrainedWeights(model_type.spec.checkpoint, model_type.spec.revision, "full")
        return model_type(backbone, tokenizer, image_processor, checkpoint, labels)


def blank_inputs(model: ToneModel, caption_tokens: int | None = None) -> Features:
    """Return the inputs of one post as a batch of shapes without content.

    Args:
        model: a model on the meta device.
        caption_tokens: the length of the caption; None for a long one (`TokenCounts.caption`).
    """
    side = model.image_side(model.backbone.config)
    num_words = model.spec.tokens.caption if caption_tokens is None else caption_tokens
    (tokens,) = model.token_ids([" ".join(["a"] * num_words)])
    return {
        "pixels": torch.empty(1, 3, side, side, dtype=torch.uint8, device=META),
        "tokens": torch.empty(1, len(tokens), dtype=torch.long, device=META),
        "length": torch.empty(1, dtype=torch.long, device=META),
        "has_caption": torch.empty(1, dtype=torch.bool, device=META),
    }
