"""Saliency maps: the contribution of each image region and each word of a post to one label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

# The image is a grid of GRID by GRID cells, and WINDOW by WINDOW cells are occluded at a time.
GRID, WINDOW = 8, 2
METHOD = (
    "Method: occlusion. Parts of the post are removed one after the other. The contribution of a part is the decrease "
    "of the label's log-odds (in nats) without it. A positive contribution supports the label, a negative one opposes "
    "it. In the caption, one word is removed at a time. In the image, a window of "
    f"{WINDOW} by {WINDOW} cells of a grid of {GRID} by {GRID} is filled with the image's mean colour; a cell gets the "
    "mean of the windows that cover it. The image as a whole is compared with the placeholder of a missing image."
)
SANITY = (
    "Sanity check: a map that shows what the model has learned must change when the readout's weights are shuffled. "
    "Spearman's rank correlation of the map with maps of shuffled readouts is 1 if the map does not change, and near "
    "0 on average if it changes completely."
)
_DOWN = ("top", "middle", "bottom")
_ACROSS = ("left", "middle", "right")


@dataclass(frozen=True)
class Word:
    """A word of a caption, or several adjacent words that are removed together, with its contribution."""

    text: str
    contribution: float


@dataclass(frozen=True)
class SaliencyMap:
    """Contributions to one label of one post, in log-odds (nats), as `METHOD` describes."""

    # The label that the contributions support or oppose.
    label: str
    # The model's probability of each label for the whole post.
    probabilities: Mapping[str, float]
    # In the caption's order.
    words: Sequence[Word]
    # The contribution of each cell of the grid over the image, rows from the top.
    cells_GG: Sequence[Sequence[float]]
    # The contribution of the image as a whole, against a post without an image.
    image: float
    # The contribution of the caption as a whole.
    caption: float
    # The image whose cells were removed: red, green and blue of each pixel, 0 to 255.
    pixels_RC3: Sequence[Sequence[Sequence[int]]]
    # The number of posts, whole or occluded, that went through the model.
    num_passes: int

    @property
    def predicted(self) -> str:
        """The label with the highest probability."""
        return max(self.probabilities, key=lambda label: self.probabilities[label])

    def contributions(self) -> list[float]:
        """Return the contributions of all cells, then those of all words."""
        return [*(value for row in self.cells_GG for value in row), *(word.contribution for word in self.words)]

    def by_weight(self) -> list[Word]:
        """Return the words, those with the largest absolute contribution first."""
        return sorted(self.words, key=lambda word: -abs(word.contribution))

    def halves(self) -> list[tuple[str, float]]:
        """Return the contributions of the image, of its strongest places and of the caption, each with its name."""
        places = [(f"of it, most {'for' if value > 0 else 'against'}: {name}", value) for name, value in self.places()]
        return [("the image as a whole", self.image), *places, ("the caption as a whole", self.caption)]

    def places(self) -> list[tuple[str, float]]:
        """Return the place in the image that supports the label most and the one that opposes it most.

        Each comes as words with its contribution. A place is left out if no cell supports, or opposes, the label.
        """
        cells = [
            (value, row, column) for row, values in enumerate(self.cells_GG) for column, value in enumerate(values)
        ]
        extremes = []
        if max(cells)[0] > 0:
            extremes.append(max(cells))
        if min(cells)[0] < 0:
            extremes.append(min(cells))
        return [(_place(row, column, len(self.cells_GG)), value) for value, row, column in extremes]


@dataclass(frozen=True)
class SanityCheck:
    """Spearman's rank correlations of a map with maps of shuffled readouts."""

    # Empty where a map is flat, which has no ranks.
    correlations: Sequence[float]

    @property
    def mean(self) -> float | None:
        """The mean correlation. None without a correlation."""
        return fmean(self.correlations) if self.correlations else None

    def __str__(self) -> str:
        if self.mean is None:
            return "undefined: the map is flat"
        lowest = min(self.correlations)
        highest = max(self.correlations)
        return f"{self.mean:+z.2f} on average of {len(self.correlations)} ({lowest:+z.2f} to {highest:+z.2f})"


def signed(contribution: float) -> str:
    """Format a contribution with its sign, such as +0.31. A small one gets three decimals."""
    return f"{contribution:+z.{2 if abs(contribution) >= 0.1 else 3}f}".replace("-", "\N{MINUS SIGN}")


def _place(row: int, column: int, size: int) -> str:
    """Return the third of the image, down and across, in which the centre of a cell lies."""
    down = _DOWN[(6 * row + 3) // (2 * size)]
    across = _ACROSS[(6 * column + 3) // (2 * size)]
    return down if down == across else f"{down} {across}"
