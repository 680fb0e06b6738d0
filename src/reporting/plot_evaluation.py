"""Pictures of results, as PNG. They read in black and white too: numbers in cells and on bars, hatches, dashes."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from src.core.records import Bin, Interval
from src.reporting.plot_style import COLOURS, new_figure, png_of, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


_PART_STYLES: Sequence[Mapping[str, Any]] = (
    {"color": COLOURS[0], "marker": "o", "markersize": 6, "elinewidth": 2.0},
    {"color": "#555555", "marker": "s", "markersize": 4.5, "markerfacecolor": "white", "elinewidth": 1.0},
)


_CURVE_STYLES: Sequence[Mapping[str, Any]] = (
    {"color": COLOURS[0], "linestyle": "-", "marker": "o"},
    {"color": COLOURS[1], "linestyle": "--", "marker": "s"},
    {"color": COLOURS[2], "linestyle": "-.", "marker": "^"},
    {"color": COLOURS[3], "linestyle": ":", "marker": "D"},
)


_REFERENCE_STYLE: Mapping[str, Any] = {"color": "black", "linestyle": (0, (6, 2, 1, 2, 1, 2)), "marker": "x"}


_MARKS_A_CURVE = 12


# On fewer posts an accuracy jumps up and down, and says nothing.
_LEAST_COVERAGE = 0.05


def forest(
    rows: Mapping[str, Mapping[str, Interval]], published: Mapping[str, float], figure_name: str, title: str
) -> bytes:
    """A score between 0 and 1 of each system with its interval, one system below another.

    Args:
        rows: by system and by the posts it is scored on, two kinds at most.
        published: what the study reports, by system; it may say nothing of some.
        figure_name: what the score is.
        title: what is compared.
    """
    figure, (axes,) = new_figure(1, width=8.5, height=1.6 + 0.4 * len(rows))
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    for k, part in enumerate(parts):
        shift = 0.28 * (k - (len(parts) - 1) / 2)
        found = [(place + shift, row[part]) for place, row in enumerate(rows.values()) if part in row]
        _whiskers(axes, found, label=part, **_PART_STYLES[k])
    marks = [(published[name], place) for place, name in enumerate(rows) if name in published]
    if marks:
        style: dict[str, Any] = {"marker": "*", "s": 110, "facecolor": COLOURS[1], "edgecolor": "black", "zorder": 4}
        axes.scatter(*zip(*marks, strict=True), label="published by the study", **style)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel(figure_name)
    axes.tick_params(axis="y", length=0)
    tidy(axes)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_title(fill(title, 75), fontsize=12)
    figure.legend(frameon=False, loc="outside lower center", ncols=3, fontsize=9)
    return png_of(figure)


def reliability_diagram(panels: Mapping[str, Sequence[Bin]], title: str) -> bytes:
    """How often a system is right by how sure it is: one panel for each name, such as before and after scaling.

    Args:
        panels: the bins of each; one without a post has neither confidence nor accuracy.
        title: whose predictions they are.
    """
    figure, all_axes = new_figure(len(panels), width=4.6 * len(panels), height=4.6)
    for axes, (name, bins) in zip(all_axes, panels.items(), strict=True):
        _reliability(axes, bins)
        axes.set_title(fill(name, 45), fontsize=11)
    all_axes[0].set_ylabel("accuracy")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=3, fontsize=9)
    figure.suptitle(fill(title, 45 * len(panels)), fontsize=12)
    return png_of(figure)


def selective_curves(curves: Mapping[str, Sequence[float]], reference: str, title: str) -> bytes:
    """The accuracy on the posts that a system is surest of, by the share of posts kept.

    Args:
        curves: by system, the accuracy on its 1, 2, ... N surest posts.
        reference: the system that others have to beat, drawn in black.
        title: which posts they are.
    """
    figure, (axes,) = new_figure(1, width=8.0, height=4.6)
    styles = iter([*_CURVE_STYLES] * (1 + len(curves) // len(_CURVE_STYLES)))
    for name, accuracies in curves.items():
        style = _REFERENCE_STYLE if name == reference else next(styles)
        first = max(1, round(_LEAST_COVERAGE * len(accuracies)))
        shares = [k / len(accuracies) for k in range(first, len(accuracies) + 1)]
        every = max(1, len(shares) // _MARKS_A_CURVE)
        shown: dict[str, Any] = {"markevery": every, "markersize": 5, "markerfacecolor": "white", "linewidth": 1.6}
        axes.plot(shares, accuracies[first - 1 :], label=name, **style, **shown)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(top=1.02)
    axes.set_xlabel("share of posts kept, the surest first")
    axes.set_ylabel("accuracy on these")
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    tidy(axes)
    axes.set_title(fill(title, 70), fontsize=12)
    figure.legend(frameon=False, loc="outside lower center", ncols=3, fontsize=9, handlelength=4)
    return png_of(figure)


def _whiskers(axes: "Axes", rows: Sequence[tuple[float, Interval]], label: str, **style: Any) -> None:
    values = [each.value for _, each in rows]
    below = [0.0 if each.low is None else each.value - each.low for _, each in rows]
    above = [0.0 if each.high is None else each.high - each.value for _, each in rows]
    places = [place for place, _ in rows]
    axes.errorbar(values, places, xerr=[below, above], linestyle="none", capsize=3, zorder=3, label=label, **style)


def _reliability(axes: "Axes", bins: Sequence[Bin]) -> None:
    filled = [each for each in bins if each.posts]
    centres = [(each.low + each.high) / 2 for each in filled]
    widths = [each.high - each.low for each in filled]
    accuracies = [each.accuracy or 0.0 for each in filled]
    axes.bar(centres, accuracies, widths, color="#9db3dd", edgecolor="black", linewidth=0.8, label="accuracy")
    gaps = [(each.confidence or 0.0) - accuracy for each, accuracy in zip(filled, accuracies, strict=True)]
    gap_style: dict[str, Any] = {"facecolor": "none", "edgecolor": COLOURS[1], "hatch": "////", "linewidth": 0.8}
    axes.bar(centres, gaps, widths, bottom=accuracies, label="gap to the confidence", **gap_style)
    axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1.2, label="perfectly calibrated")
    for centre, each in zip(centres, filled, strict=True):
        axes.text(centre, 1.02, f"{each.posts:,}", ha="center", va="bottom", rotation=90, fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.16)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_xlabel("confidence (above: posts)")
    tidy(axes)
