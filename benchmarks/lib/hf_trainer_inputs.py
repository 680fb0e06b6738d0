"""Dataset, collator and batch sampler of the Trainer baseline. Captions are tokenised once, images on every access."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from src.core.labels import TONES
from src.core.records import Post
from src.data.images import open_image
from src.modeling.base import ToneModel
from src.modeling.language import LanguageToneModel
from src.training.batching import shuffled

Item = dict[str, Tensor]


class PostDataset(Dataset[Item]):
    """Posts as a transformers model reads them: `pixel_values`, `input_ids` with all image tokens, and `labels`.

    `at_least` goes to `open_image`. Without it, images are decoded at full size.
    """

    def __init__(self, model: ToneModel, posts: Sequence[Post], at_least: int | None = None) -> None:
        self.image_processor = model.image_processor
        self.posts = posts
        self.at_least = at_least
        captions = model.token_ids([post.caption for post in posts]) if posts else []
        self.ids = [[*before_caption(model), *ids] for ids in captions]

    def __len__(self) -> int:
        return len(self.posts)

    def __getitem__(self, index: int) -> Item:
        post = self.posts[index]
        image = open_image(post.image, at_least=self.at_least)
        pixels = self.image_processor(image, return_tensors="pt")["pixel_values"]
        label = torch.tensor(TONES.index(post.label))
        return {"pixel_values": pixels[0], "input_ids": torch.tensor(self.ids[index]), "labels": label}


def before_caption(model: ToneModel) -> list[int]:
    """Return the tokens before the caption: the start of the prompt, and one image token per image feature."""
    if not isinstance(model, LanguageToneModel):
        return []
    config = model.backbone.config
    num_image_tokens = getattr(config, "num_query_tokens", None) or config.image_seq_length
    return [*model.opening_ids(), *[image_token(config, model.tokenizer)] * num_image_tokens]


def image_token(config: Any, tokenizer: Any) -> int:
    """Return the id of the image token, or of padding if the configuration has none, as the small BLIP-2."""
    token = getattr(config, "image_token_id", None)
    return int(tokenizer.pad_token_id if token is None else token)


class Collator:
    """A collator that pads captions on the right to the longest of the batch."""

    def __init__(self, model: ToneModel) -> None:
        # Masked positions may hold any token but the image token.
        self.pad_id = model.tokenizer.eos_token_id

    def __call__(self, items: Sequence[Item]) -> Item:
        """Return `pixel_values`, `input_ids`, `attention_mask`, `labels`, and the last tokens' positions as `ends`."""
        rows = [item["input_ids"] for item in items]
        length_B = torch.tensor([len(row) for row in rows])
        ids_BT = pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        return {
            "pixel_values": torch.stack([item["pixel_values"] for item in items]),
            "input_ids": ids_BT,
            "attention_mask": (torch.arange(ids_BT.shape[1]) < length_B[:, None]).long(),
            "ends": length_B - 1,
            "labels": torch.stack([item["labels"] for item in items]),
        }


class Replay(Sampler[list[int]]):
    """A sampler of the batches that the project's side trains on.

    `epoch` returns the current epoch, counted from 1. The sampler does not count, because a dataloader may ask for the
    batches of one epoch twice.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, epoch: Callable[[], int]) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(shuffled(self.lengths, self.batch_size, 0))

    def __iter__(self) -> Iterator[list[int]]:
        # The seed of src/training/trainer.py.
        return iter(shuffled(self.lengths, self.batch_size, self.seed * 1000 + self.epoch()))
