"""Heat maps over pictures and shaded captions, as PNG.

Orange speaks for the tone and purple against it (ColorBrewer's PuOr, which the colour-blind can tell apart); in black
and white + and - say the same, with a whole line under a word that speaks for the tone and a dotted one against.
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
# The least that the strongest colour stands for, in log-odds: what moves a chance by less than 0.3% stays pale.
LEAST_SCALE = 0.01
# Of the strongest, what is marked by its sign.
_MARKED = 0.2
_WIDTH, _MAP_HEIGHT, _LINE, _MARGIN = 9.0, 4.3, 0.36, 0.25
_FONT, _SIZE, _LONGEST = "DejaVu Sans", 12, 60


# Words, each with where it begins, in inches.
_Line = list[tuple[float, Word]]


class Shade(NamedTuple):
    """How a contribution is shown: colours as #rrggbb, and `sign` +, - or nothing where it hardly matters."""

    background: str
    text: str
    sign: str


def scale_of(contributions: Iterable[float]) -> float:
    """The contribution that has the strongest colour: the largest of them, but for what hardly matters."""
    return max([LEAST_SCALE, *map(abs, contributions)])


def shade(contribution: float, scale: float) -> Shade:
    """How a word of this contribution is shown."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    share = contribution / scale
    # Not the map's darkest, on which black cannot be read.
    background = to_hex(colormaps[COLOUR_MAP](0.5 + 0.32 * share))
    return Shade(background, "#000000", "" if abs(share) < _MARKED else "+" if share > 0 else "\N{MINUS SIGN}")


def heat_map(found: SaliencyMap) -> bytes:
    """The picture as the model sees it, and beside it in grey under its heat map."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _MAP_HEIGHT), layout="constrained")
    _draw_map(figure, found)
    return png_of(figure)


def explained_post(found: SaliencyMap, title: str, notice: str) -> bytes:
    """The heat map, and below it the caption, its words shaded.

    Args:
        found: the map.
        title: which model, which post.
        notice: what every reader of it must know.
    """
    from matplotlib.figure import Figure

    lines = _lines(found.words)
    height = _LINE * (len(lines) + 1) + 2 * _MARGIN
    figure = Figure(figsize=(_WIDTH, _MAP_HEIGHT + height), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(_MAP_HEIGHT, height)).flat
    above.suptitle(f"{_drawable(title)}\n{notice}", fontsize=11, parse_math=False)
    _draw_map(above, found)
    _draw_caption(below, lines, found.tone, height)
    return png_of(figure)


def _draw_map(figure: "FigureBase", found: SaliencyMap) -> None:
    picture, heat = figure.subplots(1, 2)
    cells = [(row, column, value) for row, values in enumerate(found.cells_GG) for column, value in enumerate(values)]
    scale = scale_of(value for _, _, value in cells)
    side, cell = len(found.pixels_SS3), len(found.pixels_SS3) / len(found.cells_GG)
    picture.imshow(found.pixels_SS3)
    picture.set_title("as the model sees it", fontsize=11)
    greys_SS = [[0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue in row] for row in found.pixels_SS3]
    # From middle grey to white, however dark the picture is: colours are to be seen over it.
    darkest, brightest = min(map(min, greys_SS)), max(map(max, greys_SS))
    heat.imshow(greys_SS, cmap="gray", vmin=2 * darkest - brightest - 1, vmax=brightest)
    frame = (-0.5, side - 0.5, side - 0.5, -0.5)
    drawn = heat.imshow(found.cells_GG, cmap=COLOUR_MAP, vmin=-scale, vmax=scale, alpha=0.65, extent=frame)
    heat.set_title(f"what speaks for {found.tone}", fontsize=11)
    for row, column, value in cells:
        _mark(heat, (column + 0.5) * cell - 0.5, (row + 0.5) * cell - 0.5, value / scale)
    for axes in (picture, heat):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#8c8c8c")
    bar = figure.colorbar(drawn, ax=heat, fraction=0.046, pad=0.03)
    bar.set_label(f"log-odds of {found.tone}: + for, \N{MINUS SIGN} against", fontsize=10)


def _mark(axes: "Axes", x: float, y: float, share: float) -> None:
    from matplotlib.patheffects import withStroke

    if abs(share) >= _MARKED:
        sign, size = "+" if share > 0 else "\N{MINUS SIGN}", 7 + 8 * abs(share)
        halo = [withStroke(linewidth=2, foreground="white")]
        axes.text(x, y, sign, ha="center", va="center", fontsize=size, fontweight="bold", path_effects=halo)


def _draw_caption(figure: "FigureBase", lines: Sequence[_Line], tone: str, height: float) -> None:
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    scale = scale_of(word.contribution for line in lines for _, word in line)
    said = f"the caption; the strongest colour is {scale:.2f} log-odds of {tone}" if lines else "there is no caption"
    axes.text(_MARGIN, _LINE, said, fontsize=10, va="center", parse_math=False)
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
    """A word as the font can write it, cut if it is very long."""
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
    # What only joins or alters other letters, as in many an emoji, leaves no hole.
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
