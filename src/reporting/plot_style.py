"""The style that all plots share."""

import math
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 130


COLOURS = ("#27408b", "#c87f0a", "#7a9a3a", "#8c8c8c")


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
