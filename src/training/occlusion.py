"""Saliency maps by occlusion: parts of a post are removed, and the change of a label's log-odds is their contribution.

Source: M. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014 (section 4.2).
captum implements it (N. Kokhlikyan et al., arXiv 2009.07896). The method uses only a model's logits, so that it is
the same for all models.

Letters of tensor shapes: B batch, G cells of a side of the grid, W words, R and C rows and columns of an image in
pixels, S side of a square image, K labels.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from captum.attr import FeatureAblation, Occlusion
from PIL.Image import Image
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import interpolate

from src.core.labels import names_of
from src.core.saliency import GRID, WINDOW, SaliencyMap, SanityCheck, Word
from src.modeling.base import ToneModel
from src.training.batching import chunk, collate
from src.training.callbacks import noop
from src.training.inference import share_images

# A tweet has fewer words. A longer caption is occluded in groups of adjacent words, which bounds the time of a map.
MOST_WORDS = 80
# The number of shuffled readouts. The map of a single one may resemble the model's own map, or its opposite, by chance.
SHUFFLES = 10


@dataclass(frozen=True)
class ClassifiedImage:
    """A post's image, and the classifier whose answer to the post is explained."""

    # The names of the labels.
    labels: tuple[str, ...]
    # The image, uint8. Its cells are removed.
    pixels_3RC: Tensor
    # The image that stands for a missing one, uint8, of a size of its own.
    placeholder_3RC: Tensor
    # Returns log(p / (1 - p)) of each label, float64[B, K], for images uint8[B, 3, R, C] and a caption for each.
    log_odds: Callable[[Tensor, Sequence[str]], Tensor]

    @classmethod
    def of(cls, model: ToneModel, image: Image) -> "ClassifiedImage":
        """Return the image as a model with a readout gets it, resized and cropped, and the model as the classifier."""
        (pixels_3SS,) = model.image_resizer()([image])
        return cls(names_of(model.labels), pixels_3SS, model.placeholder_pixels, partial(_model_log_odds, model.eval()))


@torch.no_grad()
def _model_log_odds(model: ToneModel, pixels_B3SS: Tensor, captions: Sequence[str]) -> Tensor:
    read = collate(model.read_captions(captions))
    inputs = {name: value.to(model.device) for name, value in {"pixels": pixels_B3SS, **read}.items()}
    logits_BK: Tensor = model(share_images(inputs, model))
    return log_odds_of(logits_BK.double().cpu())


def log_odds_of(logits_BK: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of each label. `logits_BK` are log-probabilities up to a constant for each row."""
    # The log-odds are a logit minus the log-sum-exp of the others. 1 - p would round to 0 for a confident model.
    others_BK = [
        torch.cat([logits_BK[:, :k], logits_BK[:, k + 1 :]], 1).logsumexp(1) for k in range(logits_BK.shape[1])
    ]
    return logits_BK - torch.stack(others_BK, dim=1)


@dataclass(frozen=True)
class Parts:
    """A post in parts that can be removed: the cells of a grid over its image, and the words of its caption."""

    classified: ClassifiedImage
    # The whole caption.
    caption: str
    # The caption in pieces, as `split_words` returns them.
    words: list[str]
    # Called with the number of posts that went through the classifier.
    advance: Callable[[int], None] = noop

    def log_odds(self, cells_BGG: Tensor, words_BW: Tensor) -> Tensor:
        """Return log(p / (1 - p)) of each label, float64[B, K], for the post without the parts that are 0."""
        pixels_3RC = self.classified.pixels_3RC
        kept_B1RC = interpolate(cells_BGG[:, None], size=pixels_3RC.shape[1:]) > 0
        captions = [self._remaining_caption(words_W) for words_W in words_BW.tolist()]
        odds_BK = self.classified.log_odds(torch.where(kept_B1RC, pixels_3RC, self._mean_311()), captions)
        self.advance(len(odds_BK))
        return odds_BK

    def log_odds_without_image(self) -> Tensor:
        """Return log(p / (1 - p)) of each label, float64[K], for the whole caption alone."""
        odds_1K = self.classified.log_odds(self.classified.placeholder_3RC[None], [self.caption])
        self.advance(1)
        return odds_1K[0]

    def _mean_311(self) -> Tensor:
        """Return the colour of a removed cell: the image's mean colour.

        A fixed grey would be a visible object in a dark or a bright image. The mean colour keeps the image's brightness
        and tint, so that a map shows the effect of a cell's content alone.
        """
        return self.classified.pixels_3RC.float().mean(dim=(1, 2), keepdim=True).round().to(torch.uint8)

    def _remaining_caption(self, words_W: Sequence[float]) -> str:
        """Return the caption without the words that are 0."""
        kept = [word for word, is_kept in zip(self.words, words_W, strict=True) if is_kept]
        return self.caption if len(kept) == len(self.words) else "".join(kept).strip()


def split_words(caption: str) -> list[str]:
    """Return the pieces of a caption: its words, each with the space behind it, without the leading space.

    A caption of more than `MOST_WORDS` words is cut into groups of adjacent words.
    """
    words = re.findall(r"\S+\s*", caption)
    words_a_piece = -(-len(words) // MOST_WORDS)
    return ["".join(words[index] for index in indices) for indices in chunk(range(len(words)), words_a_piece or 1)]


def num_passes(caption: str, sanity: bool = False) -> int:
    """Return the number of posts that go through a model for one map, with its sanity check if `sanity`."""
    words = len(split_words(caption))
    # The post whole, without its image, and without its caption; then, for each of both, whole and without each part.
    passes = 3 + (1 + (GRID - WINDOW + 1) ** 2) + (1 + words if words else 0)
    return passes * (1 + SHUFFLES) if sanity else passes


def saliency_map(
    classified: ClassifiedImage,
    caption: str,
    batch_size: int,
    label: str = "",
    advance: Callable[[int], None] = noop,
    window: int = WINDOW,
) -> SaliencyMap:
    """Return the contribution of each part of a post to a label, as `METHOD` describes.

    Args:
        classified: The post's image and the classifier.
        caption: The post's caption, which may be empty.
        batch_size: The number of posts that go through the classifier at once.
        label: A label of the classifier; if empty, the most probable one.
        advance: Called with the number of posts that went through the classifier; `num_passes` returns their sum.
        window: The side of the square of cells that are removed together.
    """
    parts = Parts(classified, caption, split_words(caption), advance)
    cells_GG = torch.ones(GRID, GRID)
    words_W = torch.ones(len(parts.words))
    odds_K, without_caption_K = parts.log_odds(
        torch.stack([cells_GG, cells_GG]), torch.stack([words_W, torch.zeros_like(words_W)])
    )
    without_image_K = parts.log_odds_without_image()
    names = classified.labels
    k = names.index(label) if label else int(odds_K.argmax())
    return SaliencyMap(
        label=names[k],
        probabilities=dict(zip(names, odds_K.sigmoid().tolist(), strict=True)),
        words=_occluded_words(parts, k, batch_size),
        cells_GG=_occluded_cells(parts, k, batch_size, window),
        image=float(odds_K[k] - without_image_K[k]),
        caption=float(odds_K[k] - without_caption_K[k]),
        pixels_RC3=classified.pixels_3RC.permute(1, 2, 0).tolist(),
        num_passes=num_passes(caption),
    )


def _occluded_cells(parts: Parts, k: int, batch_size: int, window: int) -> list[list[float]]:
    words_1W = torch.ones(1, len(parts.words))

    def log_odds(cells_BGG: Tensor) -> Tensor:
        return parts.log_odds(cells_BGG, words_1W.expand(len(cells_BGG), -1))[:, k]

    contributions_1GG: Tensor = Occlusion(log_odds).attribute(
        torch.ones(1, GRID, GRID),
        sliding_window_shapes=(window, window),
        strides=1,
        baselines=0,
        perturbations_per_eval=batch_size,
    )
    return contributions_1GG[0].tolist()


def _occluded_words(parts: Parts, k: int, batch_size: int) -> list[Word]:
    if not parts.words:
        return []
    cells_1GG = torch.ones(1, GRID, GRID)

    def log_odds(words_BW: Tensor) -> Tensor:
        return parts.log_odds(cells_1GG.expand(len(words_BW), -1, -1), words_BW)[:, k]

    contributions_1W: Tensor = FeatureAblation(log_odds).attribute(
        torch.ones(1, len(parts.words)), baselines=0, perturbations_per_eval=batch_size
    )
    contributions_W = contributions_1W[0].tolist()
    return [Word(text.strip(), value) for text, value in zip(parts.words, contributions_W, strict=True)]


def sanity_check(own: SaliencyMap, shuffled_map: Callable[[], SaliencyMap], heads: Iterable[nn.Module]) -> SanityCheck:
    """Return the rank correlations of a map with the maps of the same model whose heads' weights are shuffled.

    Source: J. Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018 (section 3.1: the first step of the
    cascade). A head is a trained classifier. A verbalizer is the rows of the language model's head that belong to the
    labels' words: they are not trained here, but are weights of the model like any others.

    Args:
        own: The map of the model with its own heads.
        shuffled_map: Returns a new map of the same post and label.
        heads: The model's readout, and its image head if it has one. Their weights are restored at the end.
    """
    module = nn.ModuleList(heads)
    correlations = []
    for seed in range(SHUFFLES):
        with shuffled(module, seed):
            other = shuffled_map()
        # A constant map has no rank correlation.
        if len(set(own.contributions())) > 1 and len(set(other.contributions())) > 1:
            correlations.append(float(spearmanr(own.contributions(), other.contributions()).statistic))
    return SanityCheck(correlations)


@contextmanager
def shuffled(module: nn.Module, seed: int) -> Iterator[None]:
    """Shuffle the values of each tensor of a module while the context lasts.

    The weights lose what they have learned, and keep their scale.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = [*module.parameters(), *module.buffers()]
    originals = [weight.data for weight in weights]
    for weight in weights:
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.data = weight.data.flatten()[order].view_as(weight)
    try:
        yield
    finally:
        for weight, original in zip(weights, originals, strict=True):
            weight.data = original
