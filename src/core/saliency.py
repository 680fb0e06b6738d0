"""What a model's answer on a post rests on: how much each part of the post speaks for a tone, and how that is found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

GRID, WINDOW = 8, 2
METHOD = (
    "Method: occlusion. Parts of the post are taken away, one after the other, and the contribution of a part is by "
    "how much the log-odds of the tone (in nats) fall without it: above zero it speaks for the tone, below zero "
    "against it. Of the caption one word goes at a time. Of the picture, as the model sees it, a window of "
    f"{WINDOW} by {WINDOW} cells of a grid of {GRID} by {GRID} goes at a time, filled with the picture's mean colour; "
    "a cell has the mean of the windows that cover it."
)
SANITY = (
    "Sanity check: a map that shows what the model has learned must change when the readout, which turns its last "
    "states into the three tones, has its weights shuffled. Spearman's rank correlation of the map with those of "
    "shuffled readouts is 1 where nothing changes, and on average near 0 where all does."
)
_DOWN, _ACROSS = ("top", "middle", "bottom"), ("left", "middle", "right")


@dataclass(frozen=True)
class Word:
    """A word of a caption, or a run of words that are taken away together, and its contribution."""

    text: str
    contribution: float


@dataclass(frozen=True)
class SaliencyMap:
    """What speaks for a tone of one post. Contributions are in log-odds (nats), found as `METHOD` says.

    Attributes:
        tone: the tone that is explained.
        probabilities: by tone, of the whole post.
        words: those of the caption, in its order.
        cells_GG: the contribution of each cell of a grid over the picture, rows from the top.
        picture: the contribution of the picture as a whole, its mean colour left.
        caption: the contribution of the caption as a whole.
        pixels_SS3: the picture as the model sees it: red, green and blue of each pixel, 0 to 255.
        num_passes: how many posts, whole or with a part taken away, went through the model.
    """

    tone: str
    probabilities: Mapping[str, float]
    words: Sequence[Word]
    cells_GG: Sequence[Sequence[float]]
    picture: float
    caption: float
    pixels_SS3: Sequence[Sequence[Sequence[int]]]
    num_passes: int

    @property
    def predicted(self) -> str:
        """The likeliest tone."""
        return max(self.probabilities, key=lambda tone: self.probabilities[tone])

    def contributions(self) -> list[float]:
        """Those of all cells, and then of all words."""
        return [*(value for row in self.cells_GG for value in row), *(word.contribution for word in self.words)]

    def by_weight(self) -> list[Word]:
        """The words, those that change most first."""
        return sorted(self.words, key=lambda word: -abs(word.contribution))

    def halves(self) -> list[tuple[str, float]]:
        """What the picture and the caption as wholes contribute, and the places in the picture that do most."""
        places = [(f"of it, most {'for' if value > 0 else 'against'}: {name}", value) for name, value in self.places()]
        return [("the picture as a whole", self.picture), *places, ("the caption as a whole", self.caption)]

    def places(self) -> list[tuple[str, float]]:
        """Where in the picture most speaks for the tone and most against it, in words, each with its contribution."""
        cells = [
            (value, row, column) for row, values in enumerate(self.cells_GG) for column, value in enumerate(values)
        ]
        most, least = max(cells), min(cells)
        found = [most] * (most[0] > 0) + [least] * (least[0] < 0)
        return [(_place(row, column, len(self.cells_GG)), value) for value, row, column in found]


@dataclass(frozen=True)
class SanityCheck:
    """Spearman's rank correlations of a map with those of shuffled readouts; none where a map is flat."""

    correlations: Sequence[float]

    @property
    def mean(self) -> float | None:
        """Their mean; None where there is none."""
        return fmean(self.correlations) if self.correlations else None

    def __str__(self) -> str:
        if self.mean is None:
            return "cannot be told: the map is flat"
        low, high = min(self.correlations), max(self.correlations)
        return f"{self.mean:+z.2f} on average of {len(self.correlations)} ({low:+z.2f} to {high:+z.2f})"


def signed(contribution: float) -> str:
    """A contribution for the eye, such as +0.31; three places where it is small."""
    return f"{contribution:+z.{2 if abs(contribution) >= 0.1 else 3}f}".replace("-", "\N{MINUS SIGN}")


def _place(row: int, column: int, size: int) -> str:
    # By the third in which the cell's centre lies.
    down, across = _DOWN[(6 * row + 3) // (2 * size)], _ACROSS[(6 * column + 3) // (2 * size)]
    return down if down == across else f"{down} {across}"
