"""The picture of a membership attack: ROC curves on log axes."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from dpsd.attacks.membership.report import ATTACKS, score_cells
from dpsd.attacks.statistics import Floats, Mask
from dpsd.attacks.store import Arrays
from dpsd.figures import new_figure, save_figure

_COLUMNS = 3


def draw_roc(arrays: Arrays, facts: dict[str, Any], path: Path) -> None:
    """Write a PNG with a panel for each target and kind of rows, from saved scores."""
    from sklearn.metrics import roc_curve

    panels: dict[str, list[tuple[str, Floats, Mask]]] = {}
    for target, kind, name, scores, member in score_cells(arrays, facts):
        panels.setdefault(f"{target}, {kind}", []).append((name, scores, member))
    rows = math.ceil(len(panels) / _COLUMNS)
    figure = new_figure(3.2 * _COLUMNS, 3.2 * rows)
    every = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes in every:
        axes.set_axis_off()
    for axes, (title, curves) in zip(every, panels.items(), strict=False):
        axes.set_axis_on()
        least = 0.5 / max(len(member) for _, _, member in curves)
        for name, scores, member in curves:
            # Points on a straight line are not on one where the axes are logarithmic.
            fpr, tpr, _ = roc_curve(member, scores, drop_intermediate=False)
            colour = f"C{ATTACKS.index(name)}"
            axes.plot(np.maximum(fpr, least), np.maximum(tpr, least), colour, label=name)
        axes.plot([least, 1], [least, 1], color="grey", linestyle=":", label="chance")
        axes.set(xscale="log", yscale="log", title=title, xlim=(least, 1), ylim=(least, 1),
                 xlabel="false-positive rate", ylabel="true-positive rate")  # fmt: skip
        axes.legend(fontsize=7, loc="lower right")
    save_figure(figure, path, dpi=120)
