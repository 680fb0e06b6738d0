"""Running the frozen part over posts: pictures are decoded by other processes while the model works.

What an earlier boundary has left in the cache stands in for pictures and captions, so that no segment runs twice.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.core.errors import UserError
from src.data.images import EncodablePost, Source, UnreadableImage, open_image
from src.modeling.base import Features, ToneModel
from src.modeling.segments import LENGTH, per_token_features
from src.training.batching import collate, in_order

# One decodes and resizes some 110 pictures of MVSA a second, so that many more would wait for the model.
MOST_WORKERS = 16
# Of fewer batches the last is decoded here by the time that other processes have started.
FEWEST_BATCHES = 4


def encode_posts(
    model: ToneModel, posts: Sequence[EncodablePost], batch_size: int
) -> Iterator[list[tuple[EncodablePost, Features]]]:
    """The frozen part's features of posts, a batch at a time, captions of about equal length together.

    Raises:
        UserError: a post's picture cannot be read.
    """
    images, captions = [post.image for post in posts], [post.caption for post in posts]
    for batch, inputs in read_inputs(model, images, captions, batch_size):
        yield _encode(model, [posts[index] for index in batch], inputs)


def read_inputs(
    model: ToneModel, images: Sequence[Source], captions: Sequence[str], batch_size: int
) -> Iterator[tuple[list[int], Features]]:
    """The model's inputs for pictures and their captions, a batch at a time, each with its places in the sequences.

    Captions of about equal length are together.

    Raises:
        UserError: a picture cannot be read.
    """
    if not captions:
        return  # tokenizers fail on none
    tokens = [torch.tensor(ids) for ids in model.token_ids(captions)]
    batches = in_order([len(row) for row in tokens], batch_size)
    for batch, pixels in zip(batches, _decoded(model, images, batches), strict=True):
        if isinstance(pixels, str):
            raise UserError(pixels)
        rows = [{"tokens": tokens[index], LENGTH: torch.tensor(len(tokens[index]))} for index in batch]
        yield batch, {"pixels": pixels, **collate(rows)}


def encode_further(
    model: ToneModel,
    posts: Sequence[EncodablePost],
    lengths: Sequence[int],
    read: Callable[[int], Features],
    batch_size: int,
) -> Iterator[list[tuple[EncodablePost, Features]]]:
    """The same from features of an earlier boundary: `read` gives those of a post by its place."""
    for batch in in_order(lengths, batch_size):
        yield _encode(model, [posts[index] for index in batch], collate([read(index) for index in batch]))


def _encode(model: ToneModel, posts: Sequence[EncodablePost], inputs: Features) -> list[tuple[EncodablePost, Features]]:
    model.eval()
    found = model.encode({name: value.to(model.device) for name, value in inputs.items()})
    ragged = per_token_features(model.segments)
    padding_B = (inputs[LENGTH].max() - inputs[LENGTH]).tolist()
    features = {name: value.cpu() for name, value in found.items()}
    return [
        (
            post,
            {
                name: value[row, : value.shape[1] - padding_B[row]] if name in ragged else value[row]
                for name, value in features.items()
            },
        )
        for row, post in enumerate(posts)
    ]


class _Pictures(Dataset[Tensor | str]):
    """Pictures as the model takes them, or, where one cannot be read, the words that say so."""

    def __init__(self, model: ToneModel, images: Sequence[Source]) -> None:
        self.images = images
        self.resize = model.image_resizer()

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return self.resize([open_image(self.images[index], at_least=self.resize.min_decoded_side)])[0]
        except UnreadableImage as error:
            return str(error)


def _decoded(model: ToneModel, images: Sequence[Source], batches: list[list[int]]) -> Iterator[Tensor | str]:
    loader: DataLoader[Any] = DataLoader(
        _Pictures(model, images),
        batch_sampler=batches,
        num_workers=min(torch.get_num_threads(), MOST_WORKERS) if len(batches) >= FEWEST_BATCHES else 0,
        collate_fn=_stacked,
        generator=torch.Generator(),  # else it draws from the process's own, and a cold cache would change a training
    )
    return iter(loader)


def _stacked(pictures: Sequence[Tensor | str]) -> Tensor | str:
    refused = [picture for picture in pictures if isinstance(picture, str)]
    return refused[0] if refused else torch.stack([picture for picture in pictures if isinstance(picture, Tensor)])
