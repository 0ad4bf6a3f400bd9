"""Two judges of different kinds, which say which private class an image shows.

J1 is a network of another architecture than the attacked models. J2, k nearest neighbours of the
principal components, has no gradient that an attack could follow. Both learn from private rows that
the teacher never saw.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpsd.data.load import Split
from dpsd.data.rows import in_memory
from dpsd.errors import UserError
from dpsd.models.fit import FitRecipe, fit
from dpsd.models.networks import as_input, build_model

Judge = Callable[[Tensor], Tensor]
"""uint8 images [B, C, H, W] -> classes int64 [B]."""

_COMPONENTS = 40
_BATCH = 64
_ROWS = 512
_LR = 4e-3


@dataclass(frozen=True)
class Judges:
    """Both judges, and the share of real private images, unseen by them, that each gets right."""

    network: Judge
    neighbours: Judge
    network_accuracy: float
    neighbours_accuracy: float
    both_accuracy: float


def train_judges(
    used: Collection[str], holdout: Split, real: Split, *, steps: int, seed: int
) -> Judges:
    """J1 and J2, trained on the holdout and measured on other real rows of the same classes.

    Args:
        used: architectures of the attacked models; J1 has another one.
        holdout: private rows that no attacked model saw.
        real: other private rows.
        steps: of J1's training.
        seed: of J1.

    Raises:
        UserError: scikit-learn is missing.
    """
    network = network_judge(used, holdout, steps=steps, seed=seed)
    neighbours = neighbours_judge(holdout)
    both = [(network(x), neighbours(x)) for x in real.images.split(_ROWS)]
    first, second = (torch.cat(named) == real.labels for named in zip(*both, strict=True))
    shares = [float(hits.double().mean()) for hits in (first, second, first & second)]
    return Judges(network, neighbours, *shares)


def need_judges() -> None:
    """Refuse an attack before anything is trained where scikit-learn is missing.

    Raises:
        UserError: it is.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as e:
        raise UserError(f"judge J2: needs scikit-learn ({e}); pip install scikit-learn") from e


def network_judge(used: Collection[str], split: Split, *, steps: int, seed: int) -> Judge:
    """J1: a small network of another architecture than those used, trained with shifts."""
    name = next(n for n in ("cnn-tiny", "cnn-small", "cnn", "resnet20") if n not in used)
    shape = tuple(split.images.shape[1:])
    model = train_classifier(
        split, name, (shape[0], shape[1], shape[2]), int(split.labels.max()) + 1, steps=steps,
        seed=seed,
    )  # fmt: skip

    @torch.inference_mode()
    def judge(images: Tensor) -> Tensor:
        return torch.cat([model(as_input(x)).argmax(1) for x in images.split(512)])

    return judge


def train_classifier(
    split: Split, name: str, shape: tuple[int, int, int], classes: int, *, steps: int, seed: int
) -> torch.nn.Module:
    """A network without batch norm, trained on shifted images; frozen, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(name, shape, classes, norm="group")
        fit(model, split.images, split.labels, FitRecipe(steps, _BATCH, lr=_LR))
    return model.requires_grad_(False)


def neighbours_judge(split: Split) -> Judge:
    """J2: nearest neighbours on the principal components of pixels, scikit-learn.

    Raises:
        UserError: scikit-learn is missing.
    """
    need_judges()
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline

    rows = int(split.labels.bincount().min())
    images = in_memory(split.images, "judge J2")
    components = min(_COMPONENTS, len(split) - 1, images[0].numel())
    pipeline = make_pipeline(
        PCA(components, random_state=0), KNeighborsClassifier(1 if rows < 10 else 3)
    )
    pipeline.fit(_flat(images), split.labels.numpy())

    def judge(images: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(pipeline.predict(_flat(images)), dtype=np.int64))

    return judge


def _flat(images: Tensor) -> NDArray[np.float32]:
    return np.asarray(images.flatten(1).float().numpy() / 255, dtype=np.float32)
