"""The scores of an inversion attack, from which all of its figures are computed."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dpsd.attacks import store

Array = NDArray[Any]


@dataclass(frozen=True)
class Cell:
    """One attack on one model: R reconstructions, ordered by seed, then by class."""

    images: Array
    """uint8 [R, C, H, W]."""
    labels: Array
    """int64 [R]: the private class that was searched for."""
    seeds: Array
    """int64 [R]."""
    confidence: Array
    """float32 [R]: the attacked model's probability of that class in the end; NaN without model."""
    network: Array
    """int64 [R]: the class that judge J1 sees."""
    neighbours: Array
    """int64 [R]: the class that judge J2 sees."""
    distances: Array
    """float32 [R, 2P]: root mean squared pixel distance to P training and P held-out images of the
    class."""
    psnr: Array
    """float32 [R]: to the nearest of those training images, in dB."""
    ssim: Array
    """float32 [R]: to the same image."""
    knowledge: Array
    """float32 [S, K]: accuracy by seed and class, on real private images, of a network that was
    trained on these reconstructions alone."""
    seconds: Array
    """float64 []: duration of the search."""

    def arrays(self) -> store.Arrays:
        """The fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class InversionScores:
    """All cells, the likeness of held-out to training images, and the facts of the report."""

    cells: dict[tuple[str, str], Cell]
    """By attack and target; target `draws` holds random draws from the attack's prior."""
    held_psnr: Array
    held_ssim: Array
    """float32 [held-out images of the pools]: as `Cell.psnr` and `Cell.ssim`."""
    real: Array
    """uint8 [K, C, H, W]: a training image of each private class, for the pictures."""
    facts: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write `scores.npz`, whole or not at all."""
        arrays = {"held_psnr": self.held_psnr, "held_ssim": self.held_ssim, "real": self.real}
        for (attack, target), cell in self.cells.items():
            arrays |= {f"{attack}/{target}/{name}": a for name, a in cell.arrays().items()}
        store.save_scores(folder, arrays, self.facts)


def load_inversion_scores(folder: Path) -> InversionScores:
    """The inverse of `InversionScores.save`.

    Raises:
        UserError: `scores.npz` is missing or damaged.
    """
    arrays, facts = store.load_scores(folder)
    names = sorted({tuple(name.split("/")[:2]) for name in arrays if "/" in name})
    cells = {
        (attack, target): Cell(*(arrays[f"{attack}/{target}/{f.name}"] for f in fields(Cell)))
        for attack, target in names
    }
    return InversionScores(cells, arrays["held_psnr"], arrays["held_ssim"], arrays["real"], facts)
