"""What a model's answer on a post rests on, by occlusion: parts are taken away, and the odds of a tone fall, or do not.

M. Zeiler, R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014 (section 4.2), by way of captum
(N. Kokhlikyan et al., arXiv 2009.07896). It asks nothing of a model but its answers, so it is the same for all.

Letters of tensor shapes: B batch, G cells of a side of the grid, W words, S side of a picture in pixels, K tones.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from captum.attr import FeatureAblation, Occlusion
from PIL.Image import Image
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import interpolate

from src.core.labels import TONES
from src.core.saliency import GRID, WINDOW, SaliencyMap, SanityCheck, Word
from src.modeling.base import ToneModel
from src.modeling.segments import LENGTH
from src.training.batching import chunk, collate
from src.training.callbacks import noop

# A tweet has fewer. The words of a longer caption go in runs, so that it takes no longer.
MOST_WORDS = 80
# Maps of shuffled readouts. One alone may by chance look like the model's own, or like its opposite.
SHUFFLES = 10


@dataclass(frozen=True)
class Parts:
    """A post as parts that are there or not: cells of a grid over its picture, and the words of its caption.

    Attributes:
        pixels_3SS: the picture as the model sees it, uint8.
        caption: the whole caption.
        words: the caption without what space it begins with, in pieces: words, each with the space behind it.
        advance: called with the number of posts that went through the model.
    """

    model: ToneModel
    pixels_3SS: Tensor
    caption: str
    words: list[str]
    advance: Callable[[int], None] = noop

    @classmethod
    def of(cls, model: ToneModel, image: Image, caption: str, advance: Callable[[int], None] = noop) -> "Parts":
        """The parts of a post as the model reads it."""
        (pixels_3SS,) = model.image_resizer()([image])
        return cls(model, pixels_3SS, caption, split_words(caption), advance)

    @torch.no_grad()
    def log_odds(self, cells_BGG: Tensor, words_BW: Tensor) -> Tensor:
        """log(p / (1 - p)) of each tone, float64[B, K], of the post without the parts that are 0."""
        kept_B1SS = interpolate(cells_BGG[:, None], size=self.pixels_3SS.shape[1:]) > 0
        ids = self.model.token_ids([self._left(words_W) for words_W in words_BW.tolist()])
        tokens = collate([{"tokens": torch.tensor(row), LENGTH: torch.tensor(len(row))} for row in ids])
        inputs = {"pixels": torch.where(kept_B1SS, self.pixels_3SS, self._mean_311()), **tokens}
        logits_BK: Tensor = self.model({name: value.to(self.model.device) for name, value in inputs.items()})
        logits_BK = logits_BK.double().cpu()
        self.advance(len(logits_BK))
        others_BK = [torch.cat([logits_BK[:, :k], logits_BK[:, k + 1 :]], 1).logsumexp(1) for k in range(len(TONES))]
        return logits_BK - torch.stack(others_BK, dim=1)

    def _mean_311(self) -> Tensor:
        """What fills a cell that is gone.

        An even grey would itself be a thing to see in a dark picture or a bright one; with its mean colour a picture
        stays as dark and as warm as it is, so that a map shows what is in a place.
        """
        return self.pixels_3SS.float().mean(dim=(1, 2), keepdim=True).round().to(torch.uint8)

    def _left(self, words_W: Sequence[float]) -> str:
        """The caption without the words that are 0."""
        kept = [word for word, there in zip(self.words, words_W, strict=True) if there]
        return self.caption if len(kept) == len(self.words) else "".join(kept).strip()


def split_words(caption: str) -> list[str]:
    """What a caption is taken apart into: pieces between spaces, or runs of them where it has over `MOST_WORDS`."""
    words = re.findall(r"\S+\s*", caption)
    run = -(-len(words) // MOST_WORDS)
    return ["".join(words[place] for place in places) for places in chunk(range(len(words)), run or 1)]


def num_passes(caption: str, sanity: bool = False) -> int:
    """How many posts go through a model for one map, and for its sanity check if asked."""
    words = len(split_words(caption))
    # Whole and without either half; then, for each half, whole and without each of its parts.
    passes = 3 + (1 + (GRID - WINDOW + 1) ** 2) + (1 + words if words else 0)
    return passes * (1 + SHUFFLES) if sanity else passes


def saliency_map(
    model: ToneModel,
    image: Image,
    caption: str,
    batch_size: int,
    tone: str = "",
    advance: Callable[[int], None] = noop,
    window: int = WINDOW,
) -> SaliencyMap:
    """How much each part of a post speaks for a tone, as `METHOD` says.

    Args:
        model: with its adapter and readout on.
        image: the post's picture.
        caption: the post's caption; it may be empty.
        batch_size: how many posts go through the model at once.
        tone: one of `TONES`; empty: the likeliest.
        advance: called with the number of posts that went through the model; `num_passes` says how many there are.
        window: how many cells of the grid, down and across, are taken away together.
    """
    model.eval()
    parts = Parts.of(model, image, caption, advance)
    cells_GG, words_W = torch.ones(GRID, GRID), torch.ones(len(parts.words))
    odds_3K = parts.log_odds(
        torch.stack([cells_GG, 0 * cells_GG, cells_GG]), torch.stack([words_W, words_W, 0 * words_W])
    )
    k = TONES.index(tone) if tone else int(odds_3K[0].argmax())
    whole, no_picture, no_caption = odds_3K[:, k].tolist()
    return SaliencyMap(
        tone=TONES[k],
        probabilities=dict(zip(TONES, odds_3K[0].sigmoid().tolist(), strict=True)),
        words=_occluded_words(parts, k, batch_size),
        cells_GG=_occluded_cells(parts, k, batch_size, window),
        image=whole - no_picture,
        caption=whole - no_caption,
        pixels_SS3=parts.pixels_3SS.permute(1, 2, 0).tolist(),
        num_passes=num_passes(caption),
    )


def _occluded_cells(parts: Parts, k: int, batch_size: int, window: int) -> list[list[float]]:
    words_1W = torch.ones(1, len(parts.words))

    def log_odds(cells_BGG: Tensor) -> Tensor:
        return parts.log_odds(cells_BGG, words_1W.expand(len(cells_BGG), -1))[:, k]

    found_1GG: Tensor = Occlusion(log_odds).attribute(
        torch.ones(1, GRID, GRID),
        sliding_window_shapes=(window, window),
        strides=1,
        baselines=0,
        perturbations_per_eval=batch_size,
    )
    return found_1GG[0].tolist()


def _occluded_words(parts: Parts, k: int, batch_size: int) -> list[Word]:
    if not parts.words:
        return []
    cells_1GG = torch.ones(1, GRID, GRID)

    def log_odds(words_BW: Tensor) -> Tensor:
        return parts.log_odds(cells_1GG.expand(len(words_BW), -1, -1), words_BW)[:, k]

    found_1W: Tensor = FeatureAblation(log_odds).attribute(
        torch.ones(1, len(parts.words)), baselines=0, perturbations_per_eval=batch_size
    )
    return [Word(text.strip(), value) for text, value in zip(parts.words, found_1W[0].tolist(), strict=True)]


def sanity_check(own: SaliencyMap, shuffled_map: Callable[[], SaliencyMap], readout: nn.Module) -> SanityCheck:
    """How much a map is like those of the same model with its readout's weights shuffled.

    J. Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018 (section 3.1: the first step of the cascade). The
    readout is a trained classifier, or, with readout `verbalizer`, the rows of the vocabulary's head that belong to the
    tones' words: these are not trained here, but are as much of the model as any weights.

    Args:
        own: the map of the model as it is.
        shuffled_map: makes the map of the same post and tone again.
        readout: the model's; it is what it was when this returns.
    """
    found = []
    for seed in range(SHUFFLES):
        with shuffled(readout, seed):
            other = shuffled_map()
        if len(set(own.contributions())) > 1 and len(set(other.contributions())) > 1:
            found.append(float(spearmanr(own.contributions(), other.contributions()).statistic))
    return SanityCheck(found)


@contextmanager
def shuffled(module: nn.Module, seed: int) -> Iterator[None]:
    """Each tensor's values in another order for as long as the context lasts: it says nothing, on the same scale."""
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
