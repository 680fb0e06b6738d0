"""A model at its published size without what only the Hub has: shapes for its weights, a stand-in for its tokenizer.

It lies on torch's meta device, where a tensor has a shape and no content, so that LLaVA takes no memory and a second.
"""

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

import torch

from src.core.outputs import PretrainedWeights
from src.modeling.base import Features, Spec, ToneModel
from src.modeling.llava_format import IMAGE_TOKEN

M = TypeVar("M", bound=ToneModel)
META = torch.device("meta")
WORD = re.compile(r"\S+")
PROMPT_ID = 0


class MeasuredTokenizer:
    """Stands in for a checkpoint's tokenizer: gives as many tokens as that does for the prompt, and one for a word.

    `image_id` is the token that the model's configuration knows a picture by, if it knows one.
    """

    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def __init__(self, spec: Spec, image_id: int | None) -> None:
        image = [image_id] if IMAGE_TOKEN in spec.prompt else []
        self._prompt_ids = [PROMPT_ID] * spec.tokens.prefix + image + [PROMPT_ID] * spec.tokens.prompt
        self._head = spec.prompt.partition("{caption}")[0]
        self._num_prompt_words = len(spec.prompt.format(caption="").split())
        self._ids: dict[str, int] = {}

    def __call__(
        self, text: str | Sequence[str], add_special_tokens: bool = True, max_length: int | None = None, **_: Any
    ) -> dict[str, Any]:
        """Return `input_ids` and `offset_mapping` as transformers' tokenizers do, for one text or several.

        A text without special tokens is a caption; others are a caption in the prompt, which an answer may follow.
        """
        if not isinstance(text, str):
            return {"input_ids": [self(each, add_special_tokens, max_length)["input_ids"] for each in text]}
        words = list(WORD.finditer(text))
        if text.startswith(self._head):
            words = words[self._num_prompt_words :]
        ids = [self._ids.setdefault(word.group(), PROMPT_ID + 1 + len(self._ids)) for word in words]
        prompt_ids = self._prompt_ids if add_special_tokens else []
        return {"input_ids": [*prompt_ids, *ids][:max_length], "offset_mapping": [word.span() for word in words]}


def build_on_meta(kind: type[M], dtype: torch.dtype) -> M:
    """The model of `kind` at its published size: it can be adapted, run and differentiated, and gives shapes."""
    config = kind.published_config()
    tokenizer = MeasuredTokenizer(kind.spec, getattr(config, "image_token_id", None))
    colours = SimpleNamespace(image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5))
    with META:
        backbone = kind.architecture()(config).to(dtype)
        return kind(backbone, tokenizer, colours, PretrainedWeights(kind.spec.checkpoint, kind.spec.revision, "full"))


def blank_inputs(model: ToneModel, caption_tokens: int | None = None) -> Features:
    """Return one post's inputs as a batch: shapes without content, of a caption of so many tokens, or a long one."""
    side = model.backbone.config.vision_config.image_size
    num_words = model.spec.tokens.caption if caption_tokens is None else caption_tokens
    (tokens,) = model.token_ids([" ".join(["a"] * num_words)])
    return {
        "pixels": torch.empty(1, 3, side, side, dtype=torch.uint8, device=META),
        "tokens": torch.empty(1, len(tokens), dtype=torch.long, device=META),
        "length": torch.empty(1, dtype=torch.long, device=META),
    }
