"""Pictures of an inversion attack: what each model gives away, and the memorisation gaps."""

from pathlib import Path

import numpy as np

from dpsd.attacks.inversion.report import BASELINES
from dpsd.attacks.inversion.scores import InversionScores, load_inversion_scores
from dpsd.attacks.inversion.text import ATTACK_NAMES, target_name
from dpsd.figures import new_figure, save_figure

_MOST_CLASSES = 10


def write_pictures(folder: Path) -> None:
    """Draw one sheet of reconstructions for each attack, and the gaps of all, from the scores.

    Columns are classes; each image is the first of the first seed, none is picked.
    """
    scores = load_inversion_scores(folder)
    for attack in scores.facts["budget"]["attacks"]:
        _draw_sheet(scores, attack, folder / f"reconstructions-{attack}.png")
    _draw_gaps(scores, folder / "memorisation.png")


def _models(scores: InversionScores) -> list[str]:
    """The attacked models that are no baselines, in their order."""
    return [name for name in scores.facts["targets"] if name not in BASELINES]


def _draw_sheet(scores: InversionScores, attack: str, path: Path) -> None:
    classes = scores.facts["classes"][:_MOST_CLASSES]
    rows = [("private image", scores.real)]
    for name in (*_models(scores), *BASELINES):
        cell = scores.cells[attack, name]
        first = [int(np.flatnonzero(cell.labels == c)[0]) for c in range(len(classes))]
        rows.append((target_name(name), cell.images[first]))
    height, width = scores.real.shape[2:]
    figure = new_figure(2.2 + len(classes) * width / height, len(rows) + 0.5)
    panels = figure.subplots(len(rows), len(classes), squeeze=False)
    for line, (name, images) in zip(panels, rows, strict=True):
        for c, axes in enumerate(line):
            image = np.moveaxis(images[c], 0, -1)
            axes.imshow(image[:, :, 0] if image.shape[2] != 3 else image, cmap="gray")
            axes.set(xticks=[], yticks=[])
            if c == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
            if line is panels[0]:
                axes.set_title(classes[c], fontsize=8)
    figure.suptitle(f"{ATTACK_NAMES[attack]}: what each model gives away", fontsize=9)
    save_figure(figure, path, dpi=100)


def _draw_gaps(scores: InversionScores, path: Path) -> None:
    attacks = scores.facts["budget"]["attacks"]
    figure = new_figure(4 * len(attacks), 3)
    for axes, attack in zip(
        figure.subplots(1, len(attacks), squeeze=False)[0], attacks, strict=True
    ):
        for name in _models(scores):
            d = scores.cells[attack, name].distances
            size = d.shape[1] // 2
            axes.hist(d[:, :size].min(1) - d[:, size:].min(1), bins=20, histtype="step",
                      label=target_name(name))  # fmt: skip
        axes.axvline(0, color="black", linewidth=0.5)
        axes.set(title=ATTACK_NAMES[attack], xlabel="nearest training - nearest held-out")
        axes.legend(fontsize=6)
    save_figure(figure, path, dpi=100)
