"""Plots of a search, as PNG. Kinds of trials differ by marker, so plots are readable in black and white."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

from src.core.training_config import Setting, display_value
from src.reporting.plot_style import COLOURS, new_figure, png_of, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TrialKind = Literal["complete", "pruned", "infeasible", "failed"]
_KINDS: Mapping[TrialKind, tuple[str, Mapping[str, Any]]] = {
    "complete": ("complete", {"marker": "o", "s": 26, "color": COLOURS[0], "zorder": 3}),
    "pruned": ("pruned, last score", {"marker": "x", "s": 24, "color": COLOURS[1], "zorder": 2}),
    "infeasible": ("infeasible, no score", {"marker": "v", "s": 26, "facecolor": "white", "edgecolor": "black"}),
    "failed": ("failed, no score", {"marker": "|", "s": 60, "color": "black"}),
}
_MOST_TICKS = 6


@dataclass(frozen=True)
class TrialPoint:
    """A trial in a plot."""

    number: int
    kind: TrialKind
    settings: Mapping[str, Setting]
    # None for an infeasible or failed trial.
    score: float | None
    # The second objective of a search that has two.
    size: float | None = None
    # Whether no other trial is as good in both objectives.
    on_front: bool = False


@dataclass(frozen=True)
class SettingAxis:
    """The search space of one setting: from `low` to `high` on a scale, or one of `choices`."""

    scale: Literal["linear", "log", "log2", "choices"]
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()

    def place(self, value: Setting) -> float:
        """Return the position of a value on the axis; choices are numbered from 0."""
        return float(self.choices.index(str(value))) if self.scale == "choices" else float(value)

    def reach(self) -> tuple[float, float]:
        """Return both ends of the axis: the search space and a small margin."""
        if self.scale == "choices":
            return -0.5, len(self.choices) - 0.5
        if self.scale == "linear":
            margin = 0.05 * (self.high - self.low) or 0.5
            return self.low - margin, self.high + margin
        factor = (self.high / self.low) ** 0.05 if self.high > self.low else 2.0
        return self.low / factor, self.high * factor

    def powers_of_two(self) -> list[int]:
        """Return the possible values on a scale of powers of two."""
        return [2**power for power in range(round(math.log2(self.low)), round(math.log2(self.high)) + 1)]


def optimization_history(trials: Sequence[TrialPoint], score_name: str, title: str) -> bytes:
    """Plot the score of every trial by number, and the best score so far.

    A pruned trial stands at its last score. A trial without a score is a mark at the lower edge.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (axes,) = new_figure(1, width=9.0, height=4.0)
    _scatter(axes, [(float(trial.number), trial) for trial in trials], _labels(trials))
    complete = [(trial.number, trial.score) for trial in trials if trial.kind == "complete" and trial.score is not None]
    if complete:
        numbers = [number for number, _ in complete]
        best = [max(score for _, score in complete[: n + 1]) for n in range(len(complete))]
        end = max(trial.number for trial in trials)
        axes.step([*numbers, end], [*best, best[-1]], where="post", color="black", linewidth=1.2, label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("trial")
    axes.set_ylabel(score_name)
    tidy(axes)
    figure.suptitle(fill(title, 90), fontsize=12)
    _legend_below(figure, axes)
    return png_of(figure)


def slices(trials: Sequence[TrialPoint], space: Mapping[str, SettingAxis], score_name: str, title: str) -> bytes:
    """Plot the score of every trial over each searched setting, one panel per setting.

    The axes span the search space. A trial without a score is a mark at the lower edge. A trial without the setting is
    left out.
    """
    columns = min(4, len(space))
    rows = math.ceil(len(space) / columns)
    figure, panels = new_figure(len(space), width=max(5.0, 2.7 * columns), height=0.9 + 2.7 * rows, columns=columns)
    for k, (axes, (name, axis)) in enumerate(zip(panels, space.items(), strict=True)):
        chosen = [(axis.place(trial.settings[name]), trial) for trial in trials if name in trial.settings]
        _scatter(axes, chosen, _labels(trials))
        _scale(axes, axis)
        axes.set_xlabel(name)
        axes.sharey(panels[0])
        axes.tick_params(labelleft=k % columns == 0)
        if k % columns == 0:
            axes.set_ylabel(score_name)
        tidy(axes)
    figure.suptitle(fill(title, 26 * columns), fontsize=12)
    _legend_below(figure, *panels)
    return png_of(figure)


def importance_bars(importances: Mapping[str, float], title: str) -> bytes:
    """Plot the importance of each setting, shares between 0 and 1, the highest on top."""
    figure, (axes,) = new_figure(1, width=7.0, height=1.3 + 0.42 * len(importances))
    names = sorted(importances, key=importances.__getitem__)
    bars = axes.barh(names, [importances[name] for name in names], 0.7, color=COLOURS[0])
    axes.bar_label(bars, fmt="%.2f", fontsize=9, padding=3)
    axes.set_xlim(0, 1.08)
    axes.set_xlabel("importance (share)")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(fill(title, 70), fontsize=12)
    return png_of(figure)


def pareto_front(trials: Sequence[TrialPoint], score_name: str, size_name: str, title: str) -> bytes:
    """Plot scores over sizes (above 0): the Pareto front with its line, and the dominated trials.

    Trials without a score are left out, and counted in the legend.
    """
    figure, (axes,) = new_figure(1, width=7.5, height=4.4)
    points = [(trial.size, trial.score, trial.on_front) for trial in trials if trial.size and trial.score is not None]
    front = sorted((size, score) for size, score, on_front in points if on_front)
    rest = [(size, score) for size, score, on_front in points if not on_front]
    if front:
        line: dict[str, Any] = {"color": COLOURS[0], "marker": "o", "drawstyle": "steps-post", "zorder": 3}
        axes.plot(*zip(*front, strict=True), label=f"front ({len(front)})", **line)
    if rest:
        rings: dict[str, Any] = {"marker": "o", "s": 26, "facecolor": "white", "edgecolor": "#555555"}
        axes.scatter(*zip(*rest, strict=True), label=f"dominated ({len(rest)})", **rings)
    if left_out := Counter(trial.kind for trial in trials if trial.score is None):
        counts = ", ".join(f"{count} {kind}" for kind, count in left_out.items())
        axes.plot([], [], linestyle="none", label=f"left out: {counts}")
    axes.set_xscale("log")
    axes.set_xlabel(size_name)
    axes.set_ylabel(score_name)
    tidy(axes)
    figure.suptitle(fill(title, 75), fontsize=12)
    _legend_below(figure, axes)
    return png_of(figure)


def _labels(trials: Sequence[TrialPoint]) -> dict[TrialKind, str]:
    counts = Counter(trial.kind for trial in trials)
    return {kind: f"{label} ({counts[kind]})" for kind, (label, _) in _KINDS.items()}


def _scatter(axes: "Axes", places: Sequence[tuple[float, TrialPoint]], labels: Mapping[TrialKind, str]) -> None:
    # The margin leaves room for the marks at the lower edge.
    axes.margins(y=0.12)
    for kind, (_, style) in _KINDS.items():
        points = [(place, trial.score) for place, trial in places if trial.kind == kind]
        scored = [(place, score) for place, score in points if score is not None]
        edge = [place for place, score in points if score is None]
        if scored:
            axes.scatter(*zip(*scored, strict=True), label=labels[kind], **style)
        if edge:
            below = axes.get_xaxis_transform()
            axes.scatter(edge, [0.03] * len(edge), transform=below, label=None if scored else labels[kind], **style)


def _scale(axes: "Axes", axis: SettingAxis) -> None:
    if axis.scale == "choices":
        axes.set_xticks(range(len(axis.choices)), [fill(display_value(choice), 14) for choice in axis.choices])
    elif axis.scale != "linear":
        axes.set_xscale("log", base=2 if axis.scale == "log2" else 10)
    if axis.scale == "log2":
        powers = axis.powers_of_two()
        ticks = powers[:: math.ceil(len(powers) / _MOST_TICKS)]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlim(axis.reach())


def _legend_below(figure: "Figure", *panels: "Axes") -> None:
    """Draw one legend for all panels, at the lower edge of the figure."""
    named = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if named:
        figure.legend(named.values(), named.keys(), frameon=False, loc="outside lower center", ncols=5, fontsize=9)
