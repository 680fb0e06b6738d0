"""A model at its published size without what only the Hub has: shapes for its weights, a stand-in for its tokenizer.

It lies on torch's meta device, where a tensor has a shape and no content, so that LLaVA takes no memory and a second.
"""

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

import torch

from src.models.base import Checkpoint, Features, ToneModel

M = TypeVar("M", bound=ToneModel)
META = torch.device("meta")
PIECE = re.compile(r"<\w+>|\w+|[^\w\s]")
BEGIN_ID, FIRST_ID = 0, 1


class WordTokenizer:
    """Stands in for a tokenizer: a word is a token, and so is a mark, which plain English prompts come close to.

    `image_id` is the token that the model's configuration knows a picture by, if it knows one.
    """

    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def __init__(self, image_id: int | None) -> None:
        self._ids = {} if image_id is None else {"<image>": image_id}

    def __call__(self, text: str | Sequence[str], max_length: int | None = None, **_: Any) -> dict[str, Any]:
        """`input_ids` and `offset_mapping` as transformers' tokenizers give them, for one text or several."""
        if not isinstance(text, str):
            return {"input_ids": [self(each, max_length)["input_ids"] for each in text]}
        pieces = list(PIECE.finditer(text))
        ids = [self._ids.setdefault(piece.group(), FIRST_ID + len(self._ids)) for piece in pieces]
        return {"input_ids": [BEGIN_ID, *ids][:max_length], "offset_mapping": [piece.span() for piece in pieces]}


def outline(kind: type[M], dtype: torch.dtype) -> M:
    """The model of `kind` at its published size: it can be adapted, run and differentiated, and gives shapes."""
    config = kind.published_config()
    tokenizer = WordTokenizer(getattr(config, "image_token_id", None))
    colours = SimpleNamespace(image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5))
    with META:
        backbone = kind.architecture()(config).to(dtype)
        return kind(backbone, tokenizer, colours, Checkpoint(kind.spec.checkpoint, kind.spec.revision, "full"))


def blank_inputs(model: ToneModel, caption_tokens: int) -> Features:
    """The inputs of one post whose caption has so many tokens, as a batch of one: shapes without content."""
    side = model.backbone.config.vision_config.image_size
    (tokens,) = model.token_ids([" ".join(["a"] * caption_tokens)])
    return {
        "pixels": torch.empty(1, 3, side, side, dtype=torch.uint8, device=META),
        "tokens": torch.empty(1, len(tokens), dtype=torch.long, device=META),
        "length": torch.empty(1, dtype=torch.long, device=META),
    }
