"""Heat maps over images and shaded captions, as PNG.

Orange supports the label and purple opposes it (ColorBrewer's PuOr, which is safe for colour-blind readers). The signs
+ and - say the same in black and white. A solid line underlines words for the label, a dotted line words against it.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from src.core.saliency import SaliencyMap, Word
from src.reporting.plot_style import png_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

COLOUR_MAP = "PuOr_r"
# Smallest contribution of the strongest colour, in log-odds: effects on a probability below 0.3% stay pale.
LEAST_SCALE = 0.01
# Contributions from this share of the strongest upwards are marked by their sign.
_MARKED = 0.2
_WIDTH, _MAP_HEIGHT, _LINE, _MARGIN = 9.0, 4.3, 0.36, 0.25
_FONT, _SIZE, _LONGEST = "DejaVu Sans", 12, 60


# Words with their start in inches.
_Line = list[tuple[float, Word]]


class Shade(NamedTuple):
    """Appearance of a contribution: colours as #rrggbb, and the sign, which is empty for a small contribution."""

    background: str
    text: str
    sign: str


def scale_of(contributions: Iterable[float]) -> float:
    """Return the contribution of the strongest colour: the largest absolute one, and at least `LEAST_SCALE`."""
    return max([LEAST_SCALE, *map(abs, contributions)])


def shade(contribution: float, scale: float) -> Shade:
    """Return the appearance of a word with this contribution."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    share = contribution / scale
    # The darkest colours of the map are left out: black text must stay readable.
    background = to_hex(colormaps[COLOUR_MAP](0.5 + 0.32 * share))
    return Shade(background, "#000000", "" if abs(share) < _MARKED else "+" if share > 0 else "\N{MINUS SIGN}")


def heat_map(saliency_map: SaliencyMap) -> bytes:
    """Plot the image as the model sees it, and beside it the grey image under its heat map."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _MAP_HEIGHT), layout="constrained")
    _draw_map(figure, saliency_map)
    return png_of(figure)


def explained_post(saliency_map: SaliencyMap, title: str, notice: str) -> bytes:
    """Plot the heat map, and below it the caption with shaded words.

    Args:
        saliency_map: the map.
        title: the model and the post.
        notice: a warning that every reader must see.
    """
    from matplotlib.figure import Figure

    lines = _lines(saliency_map.words)
    height = _LINE * (len(lines) + 1) + 2 * _MARGIN
    figure = Figure(figsize=(_WIDTH, _MAP_HEIGHT + height), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(_MAP_HEIGHT, height)).flat
    above.suptitle(f"{_drawable(title)}\n{notice}", fontsize=11, parse_math=False)
    _draw_map(above, saliency_map)
    _draw_caption(below, lines, saliency_map.label, height)
    return png_of(figure)


def _draw_map(figure: "FigureBase", saliency_map: SaliencyMap) -> None:
    image, heat = figure.subplots(1, 2)
    grid_GG = saliency_map.cells_GG
    pixels_RC3 = saliency_map.pixels_RC3
    cells = [(row, column, value) for row, values in enumerate(grid_GG) for column, value in enumerate(values)]
    scale = scale_of(value for _, _, value in cells)
    rows, columns = len(pixels_RC3), len(pixels_RC3[0])
    image.imshow(pixels_RC3)
    image.set_title("the image that is explained", fontsize=11)
    greys_RC = [[0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue in row] for row in pixels_RC3]
    # The image spans middle grey to white even if it is dark: colours must be visible over it.
    darkest, brightest = min(map(min, greys_RC)), max(map(max, greys_RC))
    heat.imshow(greys_RC, cmap="gray", vmin=2 * darkest - brightest - 1, vmax=brightest)
    frame = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    drawn = heat.imshow(grid_GG, cmap=COLOUR_MAP, vmin=-scale, vmax=scale, alpha=0.65, extent=frame)
    heat.set_title(f"contributions to {saliency_map.label}", fontsize=11)
    for row, column, value in cells:
        x, y = ((place + 0.5) * length / len(grid_GG) - 0.5 for place, length in ((column, columns), (row, rows)))
        _mark(heat, x, y, value / scale)
    for axes in (image, heat):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#8c8c8c")
    bar = figure.colorbar(drawn, ax=heat, fraction=0.046, pad=0.03)
    bar.set_label(f"log-odds of {saliency_map.label}: + for, \N{MINUS SIGN} against", fontsize=10)


def _mark(axes: "Axes", x: float, y: float, share: float) -> None:
    from matplotlib.patheffects import withStroke

    if abs(share) >= _MARKED:
        sign, size = "+" if share > 0 else "\N{MINUS SIGN}", 7 + 8 * abs(share)
        halo = [withStroke(linewidth=2, foreground="white")]
        axes.text(x, y, sign, ha="center", va="center", fontsize=size, fontweight="bold", path_effects=halo)


def _draw_caption(figure: "FigureBase", lines: Sequence[_Line], label: str, height: float) -> None:
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    scale = scale_of(word.contribution for line in lines for _, word in line)
    heading = (
        f"the caption; the strongest colour is {scale:.2f} log-odds of {label}" if lines else "there is no caption"
    )
    axes.text(_MARGIN, _LINE, heading, fontsize=10, va="center", parse_math=False)
    for number, line in enumerate(lines, start=2):
        for x, word in line:
            _draw_word(axes, _MARGIN + x, _LINE * number, word, scale)


def _draw_word(axes: "Axes", x: float, y: float, word: Word, scale: float) -> None:
    look, text = shade(word.contribution, scale), _shown(word.text)
    box = {"facecolor": look.background, "edgecolor": "none", "boxstyle": "square,pad=0.12"}
    axes.text(x, y, text, fontsize=_SIZE, family=_FONT, va="center", bbox=box, parse_math=False)
    if look.sign:
        end = x + _inches(text, _SIZE)
        line = "-" if look.sign == "+" else (0, (1, 1.5))
        axes.plot([x, end], [y + 0.14] * 2, color="black", linestyle=line, linewidth=1.4)
        axes.text(end + 0.02, y - 0.07, look.sign, fontsize=9, fontweight="bold", va="center")


def _lines(words: Iterable[Word]) -> list[_Line]:
    lines: list[_Line] = []
    x = _WIDTH
    for word in words:
        width = _inches(_shown(word.text), _SIZE) + 0.22
        if x + width > _WIDTH - 2 * _MARGIN:
            lines.append([])
            x = 0.0
        lines[-1].append((x, word))
        x += width
    return lines


def _shown(text: str) -> str:
    """Return a word with the letters that the font has, cut if it is very long."""
    drawn = _drawable(text)
    return drawn if len(drawn) <= _LONGEST else f"{drawn[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def _drawable(text: str) -> str:
    known = _glyphs()
    return "".join(_drawn(letter, known) for letter in text)


def _drawn(letter: str, known: "set[int]") -> str:
    if ord(letter) in known and letter.isprintable():
        return letter
    if letter.isspace():
        return " "
    # Characters that only join or modify others, as in many emoji, are dropped without a placeholder.
    return "" if unicodedata.category(letter) in ("Cf", "Mn", "Me", "Cc") else "\N{WHITE SQUARE}"


@cache
def _glyphs() -> "set[int]":
    from matplotlib.font_manager import findfont, get_font

    return set(get_font(findfont(_FONT)).get_charmap())


def _inches(text: str, size: float) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font: Any = FontProperties(family=_FONT, size=size)
    width, _, _ = TextToPath().get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72
