"""The teachers of a federation whose clients are all here; figures on them stay private."""

from collections.abc import Callable

import torch
from torch import Tensor

from dpsd.config import Config
from dpsd.errors import UserError
from dpsd.federated.home import federation_folder, open_home


def federation_teacher(config: Config) -> Callable[[Tensor], Tensor]:
    """The non-private ensemble of all clients' teachers, as an upper reference.

    Returns:
        A function of uint8 images [B, C, H, W]: the mean of the clients' log-probabilities,
        float32 [B, K]. Where clients give votes, it returns the sum of the votes, int64 [B, K].

    Raises:
        UserError: the clients' teachers are not here.
    """
    f = config.federated
    if f.partition == "own":
        raise UserError(
            "federated.partition: own: the clients' teachers are not here, so that nothing can be "
            "compared with them; accepted: another partition, or data.name none"
        )
    if not (federation_folder(config) / "clients").is_dir():
        raise UserError(
            f"teacher.root: {config.teacher.root} holds no clients of this federation; accepted: "
            "the folder in which they were trained"
        )
    classes = config.facts.classes
    homes = [open_home(config, i) for i in range(f.nodes or f.clients)]

    def ask(images: Tensor) -> Tensor:
        said = [home.teacher(images).cpu() for home in homes]
        if config.privacy.mechanism == "noisy_votes" and config.privacy.unit == "client":
            choices = torch.cat(said, 1)
            votes = torch.zeros((len(images), classes), dtype=torch.int64)
            return votes.scatter_add_(1, choices, torch.ones_like(choices))
        if not said[0].is_floating_point():
            return torch.stack(said).sum(0)
        return torch.stack([s.float().log_softmax(1) for s in said]).mean(0)

    return ask
