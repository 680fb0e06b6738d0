"""Running a model over posts to see what it says of them."""

from collections.abc import Callable, Sequence

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

from src.core.labels import TONES
from src.core.records import Post, Prediction
from src.data.images import Source
from src.modeling.base import ToneModel
from src.training.batching import collate, in_order, shard_batches
from src.training.cache_encoder import read_inputs
from src.training.callbacks import noop
from src.training.dataset import LabelledFeatures
from src.training.distributed import SINGLE_PROCESS, DistributedContext


@torch.no_grad()
def logits(
    model: ToneModel,
    data: LabelledFeatures,
    batch_size: int,
    on_batch: Callable[[], None] = noop,
    parallel: DistributedContext = SINGLE_PROCESS,
) -> Tensor:
    """logits_NK, float32 on the CPU, in the order of the posts; `on_batch` is called after every batch.

    Several processes run a share of the batches each, and all get the logits of all posts.
    """
    model.eval()
    result_NK = torch.zeros(len(data.posts), len(TONES))
    batches = in_order(data.features.lengths(), batch_size)
    for indices, counts in shard_batches(batches, parallel.rank, parallel.num_processes):
        found_BK = model(data.batch(indices, model.device)).float().cpu()
        if counts:
            result_NK[indices] = found_BK
        on_batch()
    return parallel.sum(result_NK)


@torch.no_grad()
def logits_of(model: ToneModel, images: Sequence[Image], captions: Sequence[str]) -> Tensor:
    """logits_BK, float32 on the CPU, of posts that are in no cache."""
    model.eval()
    inputs = collate(model.preprocess(images, captions))
    logits_BK: Tensor = model({name: value.to(model.device) for name, value in inputs.items()})
    return logits_BK.float().cpu()


@torch.no_grad()
def logits_uncached(
    model: ToneModel,
    images: Sequence[Source],
    captions: Sequence[str],
    batch_size: int,
    advance: Callable[[int], None] = noop,
) -> Tensor:
    """logits_NK, float32 on the CPU, of any number of posts that are in no cache, pictures decoded as for training.

    Args:
        model: with its readout on.
        images: paths, or the content of files.
        captions: one for each.
        batch_size: posts at a time.
        advance: called after every batch with the number of posts in it.

    Raises:
        UserError: a picture cannot be read.
    """
    model.eval()
    result_NK = torch.zeros(len(images), len(TONES))
    for indices, inputs in read_inputs(model, images, captions, batch_size):
        found_BK = model({name: value.to(model.device) for name, value in inputs.items()})
        result_NK[indices] = found_BK.float().cpu()
        advance(len(indices))
    return result_NK


@torch.no_grad()
def alignments(model: ToneModel, data: LabelledFeatures, batch_size: int) -> list[float] | None:
    """The cosine of each post's picture and bare caption in the space that the model has for both, in their order.

    None where the model has no such space. It is the base's: no adapter may be on the model.
    """
    assert not model.trainable_names(), "take the adapter off first"
    model.eval()
    cosine_N = torch.zeros(len(data.posts))
    for indices in in_order(data.features.lengths(), batch_size):
        found_B = model.alignment(data.batch(indices, model.device))
        if found_B is None:
            return None
        cosine_N[indices] = found_B.float().cpu()
    return list(cosine_N.tolist())


def predict(model: ToneModel, data: LabelledFeatures, batch_size: int) -> list[Prediction]:
    """Run the model over posts, and return its predictions in their order."""
    return predictions(data, logits(model, data, batch_size))


def predictions(data: LabelledFeatures, logits_NK: Tensor) -> list[Prediction]:
    """The tones with their probabilities."""
    return predictions_of(data.posts, logits_NK)


def predictions_of(posts: Sequence[Post], logits_NK: Tensor) -> list[Prediction]:
    """The same of posts without their features; they need no label."""
    probabilities = logits_NK.softmax(dim=-1).tolist()
    return [
        Prediction(post.id, post.label, TONES[row.index(max(row))], *row)
        for post, row in zip(posts, probabilities, strict=True)
    ]


def losses(data: LabelledFeatures, logits_NK: Tensor) -> Tensor:
    """losses_N: cross-entropy in nats, without label smoothing, so that trials with different smoothing compare."""
    return cross_entropy(logits_NK, data.labels(range(len(data.posts))), reduction="none")


def mean_loss(data: LabelledFeatures, logits_NK: Tensor) -> float:
    """The mean of `losses`."""
    return float(losses(data, logits_NK).mean())
