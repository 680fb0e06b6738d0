"""The encoding of posts by the frozen segments, while other processes decode images.

The input is images and captions, or the cached features of an earlier boundary, so that no segment runs twice.
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

# One process decodes and resizes about 110 images of MVSA a second, so that more processes would wait for the model.
MOST_WORKERS = 16
# With fewer batches, this process has decoded all images by the time that other processes would have started.
FEWEST_BATCHES = 4


def encode_posts(
    model: ToneModel, posts: Sequence[EncodablePost], batch_size: int
) -> Iterator[list[tuple[EncodablePost, Features]]]:
    """Yield posts with their features from the frozen segments, a batch at a time.

    Captions of about equal length are in one batch.

    Raises:
        UserError: A post's image cannot be read.
    """
    images = [post.image for post in posts]
    captions = [post.caption for post in posts]
    for batch, inputs in read_inputs(model, images, captions, batch_size):
        yield _encode(model, [posts[index] for index in batch], inputs)


def read_inputs(
    model: ToneModel, images: Sequence[Source], captions: Sequence[str], batch_size: int
) -> Iterator[tuple[list[int], Features]]:
    """Yield the model's inputs for images and their captions, a batch at a time, with their indices in the sequences.

    Captions of about equal length are in one batch.

    Raises:
        UserError: An image cannot be read.
    """
    if not captions:
        return  # tokenizers fail on an empty list
    rows = model.read_captions(captions)
    batches = in_order([int(row[LENGTH]) for row in rows], batch_size)
    for batch, pixels in zip(batches, _decoded(model, images, batches), strict=True):
        if isinstance(pixels, str):
            raise UserError(pixels)
        yield batch, {"pixels": pixels, **collate([rows[index] for index in batch])}


def encode_further(
    model: ToneModel,
    posts: Sequence[EncodablePost],
    lengths: Sequence[int],
    read: Callable[[int], Features],
    batch_size: int,
) -> Iterator[list[tuple[EncodablePost, Features]]]:
    """Yield the same as `encode_posts`, from the features of an earlier boundary.

    `read` returns the features of the post at an index, and `lengths` has the number of tokens of each post.
    """
    for batch in in_order(lengths, batch_size):
        yield _encode(model, [posts[index] for index in batch], collate([read(index) for index in batch]))


def _encode(model: ToneModel, posts: Sequence[EncodablePost], inputs: Features) -> list[tuple[EncodablePost, Features]]:
    model.eval()
    encoded = model.encode({name: value.to(model.device) for name, value in inputs.items()})
    ragged = per_token_features(model.segments)
    # The cache has no padding, because later batches pad the same posts to other lengths.
    padding_B = (inputs[LENGTH].max() - inputs[LENGTH]).tolist()
    features = {name: value.cpu() for name, value in encoded.items()}
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


class _Images(Dataset[Tensor | str]):
    """Images as the model takes them, or the error's message for an image that cannot be read.

    The message is returned because the loader would add the worker's traceback to a raised error.
    """

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
        _Images(model, images),
        batch_sampler=batches,
        num_workers=min(torch.get_num_threads(), MOST_WORKERS) if len(batches) >= FEWEST_BATCHES else 0,
        collate_fn=_stacked,
        # Without it, the loader draws from the global generator, and a cold cache would change a training.
        generator=torch.Generator(),
    )
    return iter(loader)


def _stacked(images: Sequence[Tensor | str]) -> Tensor | str:
    errors = [image for image in images if isinstance(image, str)]
    return errors[0] if errors else torch.stack([image for image in images if isinstance(image, Tensor)])
