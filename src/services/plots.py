"""Pictures of results, as PNG. They read in black and white too: numbers in cells and on bars, hatches, dashes."""

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from textwrap import fill
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 130
COLOURS = ("#27408b", "#c87f0a", "#7a9a3a", "#8c8c8c")
_HATCHES = ("", "//", "..", "xx")
_DASHES = ("-", "--", ":", "-.")
_NAMES = {
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "val_macro_f1": "validation macro-F1",
    "val_accuracy": "validation accuracy",
}


def confusion_matrix(counts_KK: Sequence[Sequence[int]], labels: Sequence[str], title: str) -> bytes:
    """A confusion matrix, rows actual and columns predicted: in each cell the count and its share of the row."""
    figure, (axes,) = new_figure(1, width=5.0, height=4.6)
    shares_KK = [[count / max(1, sum(row)) for count in row] for row in counts_KK]
    axes.imshow(shares_KK, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(counts_KK):
        for j, count in enumerate(row):
            share = shares_KK[i][j]
            colour = "white" if share > 0.55 else "black"
            axes.text(j, i, f"{count:,}\n{share:.0%}", ha="center", va="center", color=colour, fontsize=12)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels, rotation=90, va="center")
    axes.tick_params(length=0, pad=6)
    axes.set_xlabel("predicted", labelpad=8)
    axes.set_ylabel("actual", labelpad=8)
    axes.spines[:].set_visible(False)
    axes.set_title(fill(title, 50), fontsize=12)
    return png_of(figure)


def learning_curves(history: Sequence[Mapping[str, float]], title: str) -> bytes:
    """Losses (nats a post) and validation scores by epoch, from rows with the key `epoch`; a key may be missing."""
    figure, (losses, scores) = new_figure(2, width=9.0, height=3.8)
    _curves(losses, history, ("train_loss", "val_loss"))
    losses.set_ylabel("loss (nats)")
    losses.set_ylim(bottom=0)
    _curves(scores, history, ("val_macro_f1", "val_accuracy"))
    scores.set_ylabel("score")
    scores.set_ylim(0, 1)
    figure.suptitle(fill(title, 90), fontsize=12)
    return png_of(figure)


def per_class_bars(scores: Mapping[str, Mapping[str, float]], metric_name: str, title: str) -> bytes:
    """A score between 0 and 1 of each tone (inner key) for each model (outer key)."""
    figure, (axes,) = new_figure(1, width=max(8.0, 2.4 * len(scores)), height=4.2)
    _grouped_bars(axes, scores)
    axes.set_ylabel(metric_name)
    axes.set_title(fill(title, 60), fontsize=12)
    return png_of(figure)


def new_figure(panels: int, width: float, height: float, columns: int | None = None) -> "tuple[Figure, list[Axes]]":
    """A picture of some panels, in one row unless `columns` says otherwise; sizes in inches."""
    # Not by pyplot, which keeps every figure of the process.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    rows = math.ceil(panels / (columns or panels))
    shown: list[Axes] = list(figure.subplots(rows, columns or panels, squeeze=False).flat)
    for spare in shown[panels:]:
        spare.remove()
    return figure, shown[:panels]


def _curves(axes: "Axes", history: Sequence[Mapping[str, float]], names: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    for name, colour, dash in zip(names, COLOURS, _DASHES, strict=False):
        points = [(row["epoch"], row[name]) for row in history if name in row]
        if points:
            epochs, values = zip(*points, strict=True)
            axes.plot(epochs, values, color=colour, linestyle=dash, marker="o", markersize=4, label=_NAMES[name])
    axes.set_xlabel("epoch")
    axes.set_xlim(0.7, len(history) + 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    tidy(axes)
    if axes.lines:
        axes.legend(frameon=False, loc="best")


def _grouped_bars(axes: "Axes", scores: Mapping[str, Mapping[str, float]]) -> None:
    kinds = list(dict.fromkeys(kind for row in scores.values() for kind in row))
    width = 0.8 / max(1, len(kinds))
    for k, kind in enumerate(kinds):
        places = [i for i, row in enumerate(scores.values()) if kind in row]
        heights = [row[kind] for row in scores.values() if kind in row]
        centres = [place + (k - (len(kinds) - 1) / 2) * width for place in places]
        bars = axes.bar(centres, heights, width * 0.94, label=kind, color=COLOURS[k % 4], zorder=2)
        for bar in bars:
            bar.set(hatch=_HATCHES[k % 4], edgecolor="white", linewidth=0)
        plate = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        axes.bar_label(bars, fmt="%.2f", fontsize=9, padding=2, bbox=plate)
    axes.set_xticks(range(len(scores)), list(scores), fontsize=11)
    axes.set_ylim(0, 1.05)
    axes.tick_params(axis="x", length=0)
    tidy(axes)
    axes.legend(frameon=False, ncols=len(kinds) + 1, loc="upper center", bbox_to_anchor=(0.5, -0.1))


def tidy(axes: "Axes") -> None:
    """Leave of a frame and a grid what helps to read values off."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)


def png_of(figure: "Figure") -> bytes:
    """A picture as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = BytesIO()
    FigureCanvasAgg(figure)
    # Without the library's version in it, equal results give equal files.
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()
