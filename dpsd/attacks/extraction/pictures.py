"""The picture of an extraction: agreement over queries, on a log axis."""

import math
from pathlib import Path
from typing import Any

from dpsd.figures import new_figure, save_figure

_COLUMNS = 3


def draw_curves(report: dict[str, Any], path: Path) -> None:
    """Write a PNG with a panel for each target and defence, a curve for each attack.

    Bars are 95 % intervals (Wilson) of the first seed.
    """
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in report["cells"]:
        if cell["curve"]:
            panels.setdefault((cell["target"], cell["defence"]), []).append(cell)
    rows = max(1, math.ceil(len(panels) / _COLUMNS))
    figure = new_figure(3.6 * _COLUMNS, 3.2 * rows)
    every = list(figure.subplots(rows, _COLUMNS, squeeze=False, sharey=True).flat)
    names = sorted({cell["attack"] for cell in report["cells"]})
    for axes in every:
        axes.set_axis_off()
    for axes, ((target, defence), cells) in zip(every, panels.items(), strict=False):
        axes.set_axis_on()
        first = min(cell["seed"] for cell in cells)
        for cell in (c for c in cells if c["seed"] == first):
            x = [c["asked"] for c in cell["curve"]]
            y = [c["agreement"] for c in cell["curve"]]
            reach = [[c["agreement"] - c["interval"][0] for c in cell["curve"]],
                     [c["interval"][1] - c["agreement"] for c in cell["curve"]]]  # fmt: skip
            n = names.index(cell["attack"])
            style = ("-", "--", ":", "-.")[n // 10 % 4]
            axes.errorbar(x, y, yerr=reach, color=f"C{n % 10}", linestyle=style, capsize=2,
                          marker=".", label=cell["attack"])  # fmt: skip
        axes.set(xscale="log", title=f"{target}, {defence}", xlabel="images asked",
                 ylabel="agreement", ylim=(0, 1))  # fmt: skip
        axes.legend(fontsize=6, loc="lower right")
    save_figure(figure, path, dpi=100)
