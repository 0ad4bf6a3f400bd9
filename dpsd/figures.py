"""Make and save figures: no screen, and a file that is whole and the same on every machine."""

from pathlib import Path
from typing import TYPE_CHECKING

from dpsd.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", path: Path, dpi: int) -> None:
    """Write a PNG, whole or not at all, without the name of the software that drew it."""
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi, metadata={"Software": None})
