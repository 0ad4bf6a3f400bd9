"""Which client holds which training rows: seeded, saved as an index file, drawn as a picture.

Everything here stays on the private side: a partition by labels reveals labels.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpsd.config import Config
from dpsd.config.sections import FederatedConfig
from dpsd.data.load import PrivateData
from dpsd.data.users import held_users, read_user_ids
from dpsd.errors import UserError
from dpsd.figures import new_figure, save_figure
from dpsd.imports import brief

_SHOWN = 60  # clients in the picture


def partition(config: Config, data: PrivateData) -> list[Tensor]:
    """Row numbers of the training split for each client, int64, increasing.

    Raises:
        UserError: a client would stay empty or below `federated.least_rows`, or a field does
            not fit the data.
    """
    f, labels = config.federated, data.train.labels.numpy()
    rng = np.random.Generator(np.random.Philox(f.seed))
    if f.partition == "own":
        raise UserError("federated.partition: own, so there is no common data set to cut")
    if f.partition == "iid":
        owner = iid(len(labels), f.clients, rng)
    elif f.partition == "dirichlet":
        owner = _enough(f, labels, rng)
    elif f.partition == "classes":
        owner = by_classes(labels, f.clients, f.client_classes, rng)
    else:
        owner = _by_user(config, len(data.train), len(data.holdout), rng)
    rows = [torch.from_numpy(np.flatnonzero(owner == i)) for i in range(f.clients)]
    small = min(range(f.clients), key=lambda i: len(rows[i]))
    if len(rows[small]) < f.least_rows:
        raise UserError(
            f"federated.partition: {f.partition} leaves client {small} with {len(rows[small])} of "
            f"{len(labels)} rows; accepted: at least federated.least_rows ({f.least_rows}) each"
        )
    return rows


def iid(rows: int, clients: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The owner of each row, int64 [rows], at random. Clients' sizes differ by at most one."""
    owner = np.empty(rows, dtype=np.int64)
    owner[rng.permutation(rows)] = np.arange(rows) % clients
    return owner


def dirichlet(
    labels: NDArray[np.int64], clients: int, alpha: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The owner of each row. The clients' shares of each class are drawn from Dirichlet(alpha).

    Hsu, Qi and Brown 2019 (arXiv 1909.06335), in the form of Yurochkin et al. 2019 (arXiv
    1905.12022): one draw of shares over the clients for each class.
    """
    owner = np.empty(len(labels), dtype=np.int64)
    for c in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == c))
        cuts = np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * len(rows)
        for i, part in enumerate(np.split(rows, np.rint(cuts).astype(np.int64))):
            owner[part] = i
    return owner


def by_classes(
    labels: NDArray[np.int64], clients: int, each: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The owner of each row. Every client holds `each` classes; its holders share a class evenly.

    Classes are dealt round after round in a random order. Every class has a holder if clients times
    `each` reaches the number of classes (McMahan et al. 2017, arXiv 1602.05629).
    """
    classes = np.unique(labels)
    if each > len(classes) or clients * each < len(classes):
        low = -(-len(classes) // clients)
        raise UserError(
            f"federated.client_classes: {each} with {clients} clients and {len(classes)} classes; "
            f"accepted: {low} to {len(classes)}, so that each class has a holder"
        )
    order = rng.permutation(classes)
    held = [{int(order[(i * each + j) % len(classes)]) for j in range(each)}
            for i in rng.permutation(clients)]  # fmt: skip
    owner = np.empty(len(labels), dtype=np.int64)
    for c in classes:
        holders = [i for i in range(clients) if int(c) in held[i]]
        rows = rng.permutation(np.flatnonzero(labels == c))
        owner[rows] = np.array(holders)[np.arange(len(rows)) % len(holders)]
    return owner


def _enough(
    f: FederatedConfig, labels: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    best = 0
    for _ in range(f.tries):
        owner = dirichlet(labels, f.clients, f.alpha, rng)
        least = int(np.bincount(owner, minlength=f.clients).min())
        if least >= f.least_rows:
            return owner
        best = max(best, least)
    raise UserError(
        f"federated.alpha: {f.alpha:g}: none of {f.tries} draws gave each of {f.clients} clients "
        f"federated.least_rows ({f.least_rows}) rows, the best gave {best}; raise alpha or tries, "
        "or lower least_rows or clients"
    )


def _by_user(
    config: Config, train: int, holdout: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The owner of each row. A user's rows go to one client; users are dealt in random order."""
    assert config.data.user_ids is not None
    user_of, roster = read_user_ids(config.data.user_ids, train + holdout)
    kept = roster - held_users(roster)
    client_of = iid(kept, config.federated.clients, rng)
    owner: NDArray[np.int64] = client_of[user_of[user_of < kept].numpy()]
    return owner


def save_partition(path: Path, rows: list[Tensor], dealt: str) -> None:
    """Write the index file: `rows`, the clients' row numbers one after another, and `sizes`.

    Args:
        path: of the file.
        rows: of each client.
        dealt: private fingerprint of the data that the rows belong to.
    """
    sizes = np.array([len(r) for r in rows])
    np.savez_compressed(path, rows=torch.cat(rows).numpy(), sizes=sizes, dealt=np.array(dealt))


def load_partition(path: Path, dealt: str) -> list[Tensor]:
    """The inverse of `save_partition`.

    Raises:
        UserError: the file is missing, damaged, or made for other data.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            rows = list(torch.from_numpy(archive["rows"]).split(archive["sizes"].tolist()))
            found = str(archive["dealt"])
    except Exception as e:
        raise UserError(f"{path}: not a readable partition ({brief(e)})") from e
    if found != dealt:
        raise UserError(f"{path}: deals the rows of other data; accepted: another teacher.root")
    return rows


def histograms(rows: list[Tensor], labels: Tensor, classes: int) -> Tensor:
    """How many rows of each class each client holds, int64 [clients, K]."""
    return torch.stack([torch.bincount(labels[r], minlength=classes) for r in rows])


def draw_partition(path: Path, counts: Tensor) -> None:
    """Write a PNG of the label distributions, one bar for each of the first 60 clients.

    Args:
        path: of the PNG.
        counts: int64 [clients, K].
    """
    from matplotlib import colormaps

    shown = counts[:_SHOWN].numpy()
    clients, classes = shown.shape
    figure = new_figure(8, 1.2 + 0.2 * clients)
    axes = figure.subplots()
    left = np.zeros(clients)
    for c in range(classes):
        color = colormaps["tab20"](c % 20)
        axes.barh(np.arange(clients), shown[:, c], left=left, color=color, label=str(c))
        left += shown[:, c]
    axes.invert_yaxis()
    axes.set(xlabel="training rows, a colour for each class", ylabel="client")
    if classes <= 20:
        figure.legend(ncols=10, fontsize=6, loc="outside upper center")
    save_figure(figure, path, dpi=110)
