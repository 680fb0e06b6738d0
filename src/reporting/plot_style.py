"""Style that all plots share."""

import math
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 130


COLOURS = ("#27408b", "#c87f0a", "#7a9a3a", "#8c8c8c")


def new_figure(panels: int, width: float, height: float, columns: int | None = None) -> "tuple[Figure, list[Axes]]":
    """Create a figure with panels, in one row unless `columns` is given. Sizes are in inches."""
    # pyplot would keep every figure for the life of the process.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    rows = math.ceil(panels / (columns or panels))
    all_axes: list[Axes] = list(figure.subplots(rows, columns or panels, squeeze=False).flat)
    for spare in all_axes[panels:]:
        spare.remove()
    return figure, all_axes[:panels]


def tidy(axes: "Axes") -> None:
    """Keep only the parts of frame and grid that help to read values."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)


def png_of(figure: "Figure") -> bytes:
    """Render a figure as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = BytesIO()
    figure.set_dpi(_DOTS_PER_INCH)
    # `Figure.savefig` would draw twice, and only the first time for the layout.
    # Without the library's version in the metadata, equal results give equal files.
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
