"""Inference: logits, predictions and losses of posts, from cached features or from images and captions."""

from collections.abc import Callable, Sequence

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

from src.core.records import Post, Prediction
from src.data.images import Source
from src.modeling.base import ToneModel
from src.training.batching import collate, in_order, shard_batches
from src.training.cache_encoder import read_inputs
from src.training.callbacks import noop
from src.training.dataset import LabelledFeatures, join_pooled
from src.training.distributed import SINGLE_PROCESS, DistributedContext


@torch.no_grad()
def logits(
    model: ToneModel,
    data: LabelledFeatures,
    batch_size: int,
    on_batch: Callable[[], None] = noop,
    distributed: DistributedContext = SINGLE_PROCESS,
    *,
    with_image: bool = True,
) -> Tensor:
    """Return logits_NK, float32 on the CPU, in the order of the posts.

    `on_batch` is called after every batch. `with_image` is that of `ToneModel.forward`. With several processes, each
    one runs a share of the batches, and gets the logits of all posts.
    """
    model.eval()
    result_NK = torch.zeros(len(data.posts), len(model.labels))
    batches = in_order(data.features.lengths(), batch_size)
    for indices, counts in shard_batches(batches, distributed.rank, distributed.num_processes):
        logits_BK = model(data.batch(indices, model.device), with_image=with_image).float().cpu()
        # A process with too few batches repeats a post to stay in step; the sum below must not count that post twice.
        if counts:
            result_NK[indices] = logits_BK
        on_batch()
    return distributed.sum(result_NK)


@torch.no_grad()
def logits_of(model: ToneModel, images: Sequence[Image], captions: Sequence[str]) -> Tensor:
    """Return logits_BK, float32 on the CPU, of one batch of posts that are in no cache."""
    model.eval()
    logits_BK: Tensor = model(_inputs(model, images, captions))
    return logits_BK.float().cpu()


@torch.no_grad()
def pooled_of(model: ToneModel, images: Sequence[Image], captions: Sequence[str]) -> Tensor:
    """Return pooled features_BD, float32 on the CPU, of one batch of posts that are in no cache."""
    model.eval()
    pooled = model.forward_pooled(_inputs(model, images, captions), with_image=model.pools_image)
    return join_pooled(pooled, model.width).float().cpu()


def _inputs(model: ToneModel, images: Sequence[Image], captions: Sequence[str]) -> dict[str, Tensor]:
    inputs = collate(model.preprocess(images, captions))
    return share_images({name: value.to(model.device) for name, value in inputs.items()}, model)


@torch.no_grad()
def share_images(inputs: dict[str, Tensor], model: ToneModel) -> dict[str, Tensor]:
    """Return inputs of posts with what depends on images alone, computed once for posts that show the same image.

    So several captions of one image cost one run of the vision tower, and of the prefix if no text precedes it.
    """
    images = [pixels_3SS.numpy().tobytes() for pixels_3SS in inputs["pixels"].cpu()]
    distinct = list(dict.fromkeys(images))
    if len(distinct) == len(images):
        return inputs
    shared = model.forward_images(inputs["pixels"][[images.index(image) for image in distinct]])
    place_of = [distinct.index(image) for image in images]
    return inputs | {name: value[place_of] for name, value in shared.items()}


@torch.no_grad()
def logits_uncached(
    model: ToneModel,
    images: Sequence[Source],
    captions: Sequence[str],
    batch_size: int,
    advance: Callable[[int], None] = noop,
) -> Tensor:
    """Return logits_NK, float32 on the CPU, of any number of posts that are in no cache.

    Images are decoded as for training.

    Args:
        model: The model, with its readout attached.
        images: Paths, or the content of files.
        captions: One caption for each image.
        batch_size: The number of posts in a batch.
        advance: Called after every batch with the number of posts in it.

    Raises:
        UserError: An image cannot be read.
    """
    model.eval()
    result_NK = torch.zeros(len(images), len(model.labels))
    for indices, inputs in read_inputs(model, images, captions, batch_size):
        logits_BK = model({name: value.to(model.device) for name, value in inputs.items()})
        result_NK[indices] = logits_BK.float().cpu()
        advance(len(indices))
    return result_NK


@torch.no_grad()
def similarities(model: ToneModel, data: LabelledFeatures, batch_size: int) -> list[float] | None:
    """Return the cosine similarity of each post's image and bare caption, in the order of the posts.

    The similarity is that of the base, in its joint space of images and texts: the model must have no adapter.
    The result is None if the model has no joint space.
    """
    assert not model.trainable_names(), "take the adapter off first"
    model.eval()
    cosine_N = torch.zeros(len(data.posts))
    for indices in in_order(data.features.lengths(), batch_size):
        cosine_B = model.similarity(data.batch(indices, model.device))
        if cosine_B is None:
            return None
        cosine_N[indices] = cosine_B.float().cpu()
    return list(cosine_N.tolist())


def predict(model: ToneModel, data: LabelledFeatures, batch_size: int) -> list[Prediction]:
    """Return the model's predictions in the order of the posts."""
    return predictions(data, logits(model, data, batch_size))


def predictions(data: LabelledFeatures, logits_NK: Tensor) -> list[Prediction]:
    """Return the predicted labels, with the probabilities of all labels."""
    return predictions_of(data.posts, logits_NK, data.label_names)


def predictions_of(posts: Sequence[Post], logits_NK: Tensor, label_names: Sequence[str]) -> list[Prediction]:
    """Return the same as `predictions` for posts without features; the posts need no label."""
    probabilities = logits_NK.softmax(dim=-1).tolist()
    return [Prediction.of(post, label_names, row) for post, row in zip(posts, probabilities, strict=True)]


def losses(data: LabelledFeatures, logits_NK: Tensor) -> Tensor:
    """Return losses_N, the cross-entropy of each post in nats.

    It has no label smoothing, so that trials with different smoothing are comparable.
    """
    return cross_entropy(logits_NK, data.labels(range(len(data.posts))), reduction="none")


def mean_loss(data: LabelledFeatures, logits_NK: Tensor) -> float:
    """Return the mean of `losses`."""
    return float(losses(data, logits_NK).mean())
