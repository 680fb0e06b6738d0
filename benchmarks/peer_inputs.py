"""What the peer's dataloader gives: each picture decoded and processed when asked for, captions tokenised once."""

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
    """Posts as the bare model reads them: `pixel_values`, `input_ids` with a place for every piece of the picture.

    `at_least` is for `open_image`: pictures are decoded whole unless it is given.
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
    """The tokens before a caption's: what begins the prompt, and the image token as often as the picture has pieces."""
    if not isinstance(model, LanguageToneModel):
        return []
    config = model.backbone.config
    num_pieces = getattr(config, "num_query_tokens", None) or config.image_seq_length
    return [*model.prefix_ids(), *[image_token(config, model.tokenizer)] * num_pieces]


def image_token(config: Any, tokenizer: Any) -> int:
    """The configuration's own, or the padding token where it has none, as our small BLIP-2 does not."""
    token = getattr(config, "image_token_id", None)
    return int(tokenizer.pad_token_id if token is None else token)


class Collator:
    """A batch padded on the right to its longest; `ends` is the position of each post's last token."""

    def __init__(self, model: ToneModel) -> None:
        # What is masked may be anything but the image token.
        self.pad_id = model.tokenizer.eos_token_id

    def __call__(self, items: Sequence[Item]) -> Item:
        """`pixel_values`, `input_ids`, `attention_mask`, `ends` and `labels`, with a leading B."""
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
    """The batches that our side trains on in the epoch that `epoch` names, counted from 1.

    It is not counted here, for a dataloader may ask for one epoch's batches twice.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, epoch: Callable[[], int]) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(shuffled(self.lengths, self.batch_size, 0))

    def __iter__(self) -> Iterator[list[int]]:
        # As src/training/trainer.py seeds them.
        return iter(shuffled(self.lengths, self.batch_size, self.seed * 1000 + self.epoch()))
