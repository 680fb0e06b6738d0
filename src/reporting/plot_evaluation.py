"""Plots of results, as PNG. Numbers, hatches and dashes make them readable in black and white."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from src.core.records import Bin, Interval
from src.reporting.plot_style import COLOURS, new_figure, png_of, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Five, where there are four colours: a colour and its hatch, dash and marker repeat together only after twenty.
_HATCHES = ("", "//", "..", "xx", "--")
_CURVE_DASHES = ("-", "--", "-.", ":", (0, (8, 1.5, 1, 1.5)))
_CURVE_MARKERS = "os^Dv"


_DASHES = ("-", "--", ":", "-.")


_NAMES = {
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "val_macro_f1": "validation macro-F1",
    "val_accuracy": "validation accuracy",
}


def confusion_matrix(counts_KK: Sequence[Sequence[int]], labels: Sequence[str], title: str) -> bytes:
    """Plot a confusion matrix, rows actual and columns predicted, with counts and their shares of the row."""
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
    """Plot losses (nats per post) and validation scores by the key `epoch` of each row; other keys may be missing."""
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
    """Plot a score between 0 and 1 of each label (inner key) for each model (outer key)."""
    figure, (axes,) = new_figure(1, width=max(8.0, 1.7 * len(scores)), height=4.2)
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
        bars = axes.bar(centres, heights, width * 0.94, label=kind, color=COLOURS[k % len(COLOURS)], zorder=2)
        for bar in bars:
            bar.set(hatch=_HATCHES[k % len(_HATCHES)], edgecolor="white", linewidth=0)
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


_REFERENCE_STYLE: Mapping[str, Any] = {"color": "black", "linestyle": (0, (6, 2, 1, 2, 1, 2)), "marker": "x"}


_MARKS_A_CURVE = 12


# Smallest share of posts that a curve shows: accuracy on fewer posts is noise.
_LEAST_COVERAGE = 0.05


def forest(
    rows: Mapping[str, Mapping[str, Interval]], published: Mapping[str, float], figure_name: str, title: str
) -> bytes:
    """Plot a score between 0 and 1 of each system with its interval, one system per row.

    Args:
        rows: by system, then by the set of posts; at most two sets.
        published: the paper's scores by system, for the systems that it reports.
        figure_name: the name of the score.
        title: the title of the plot.
    """
    figure, (axes,) = new_figure(1, width=8.5, height=1.6 + 0.4 * len(rows))
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    for k, part in enumerate(parts):
        shift = 0.28 * (k - (len(parts) - 1) / 2)
        intervals = [(place + shift, row[part]) for place, row in enumerate(rows.values()) if part in row]
        _whiskers(axes, intervals, label=part, **_PART_STYLES[k])
    marks = [(published[name], place) for place, name in enumerate(rows) if name in published]
    if marks:
        style: dict[str, Any] = {"marker": "*", "s": 110, "facecolor": COLOURS[1], "edgecolor": "black", "zorder": 4}
        axes.scatter(*zip(*marks, strict=True), label="published in the paper", **style)
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
    """Plot accuracy by confidence, one panel for each name, such as before and after scaling.

    Args:
        panels: the bins of each panel. Bins without posts are not drawn.
        title: the system and its posts.
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
    """Plot the accuracy on the most confident predictions, by the share of posts kept.

    Args:
        curves: by system, the accuracy on the 1, 2, ... N posts of highest confidence.
        reference: the system that others have to beat, drawn in black.
        title: the title of the plot.
    """
    figure, (axes,) = new_figure(1, width=8.0, height=4.6)
    numbers = iter(range(len(curves)))
    for name, accuracies in curves.items():
        style = _REFERENCE_STYLE if name == reference else curve_style(next(numbers))
        first = max(1, round(_LEAST_COVERAGE * len(accuracies)))
        shares = [k / len(accuracies) for k in range(first, len(accuracies) + 1)]
        every = max(1, len(shares) // _MARKS_A_CURVE)
        shown: dict[str, Any] = {"markevery": every, "markersize": 5, "markerfacecolor": "white", "linewidth": 1.6}
        axes.plot(shares, accuracies[first - 1 :], label=name, **style, **shown)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(top=1.02)
    axes.set_xlabel("share of posts kept, the most confident first")
    axes.set_ylabel("accuracy on these posts")
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    tidy(axes)
    axes.set_title(fill(title, 70), fontsize=12)
    figure.legend(frameon=False, loc="outside lower center", ncols=3, fontsize=9, handlelength=4)
    return png_of(figure)


def curve_style(number: int) -> Mapping[str, Any]:
    """Return the style of a curve by its number; twenty differ."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": _CURVE_DASHES[number % len(_CURVE_DASHES)],
        "marker": _CURVE_MARKERS[number % len(_CURVE_MARKERS)],
    }


def _whiskers(axes: "Axes", rows: Sequence[tuple[float, Interval]], label: str, **style: Any) -> None:
    values = [interval.value for _, interval in rows]
    below = [0.0 if interval.low is None else interval.value - interval.low for _, interval in rows]
    above = [0.0 if interval.high is None else interval.high - interval.value for _, interval in rows]
    places = [place for place, _ in rows]
    axes.errorbar(values, places, xerr=[below, above], linestyle="none", capsize=3, zorder=3, label=label, **style)


def _reliability(axes: "Axes", bins: Sequence[Bin]) -> None:
    filled = [each_bin for each_bin in bins if each_bin.posts]
    centres = [(each_bin.low + each_bin.high) / 2 for each_bin in filled]
    widths = [each_bin.high - each_bin.low for each_bin in filled]
    accuracies = [each_bin.accuracy or 0.0 for each_bin in filled]
    axes.bar(centres, accuracies, widths, color="#9db3dd", edgecolor="black", linewidth=0.8, label="accuracy")
    gaps = [(each_bin.confidence or 0.0) - accuracy for each_bin, accuracy in zip(filled, accuracies, strict=True)]
    gap_style: dict[str, Any] = {"facecolor": "none", "edgecolor": COLOURS[1], "hatch": "////", "linewidth": 0.8}
    axes.bar(centres, gaps, widths, bottom=accuracies, label="gap to the confidence", **gap_style)
    axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1.2, label="perfectly calibrated")
    for centre, each_bin in zip(centres, filled, strict=True):
        axes.text(centre, 1.02, f"{each_bin.posts:,}", ha="center", va="bottom", rotation=90, fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.16)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_xlabel("confidence (above: posts)")
    tidy(axes)
