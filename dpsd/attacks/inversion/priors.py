"""What an attacker believes that images look like: three priors behind one interface.

`total_variation`: smooth images that start at the mean of the public ones (Fredrikson et al. 2015
with the penalty of Mahendran and Vedaldi 2015). `gmi`: a Wasserstein GAN of public images (Zhang et
al. 2020, equation 5: the critic's score is the prior). `released`: the synthesizer that the run
releases: its trainable generator where it has one, else its procedural images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dpsd.attacks.inversion.gan import GanConfig, cached_gan
from dpsd.device import pick_device
from dpsd.runs.folder import Run
from dpsd.runs.release import Labeller, load_student, released_synthesizer

_MARGIN = 0.02
_ROUND = -10_000_000  # a random stream that neither training nor `dpsd sample` uses


@dataclass(frozen=True)
class ImagePrior:
    """A parametrised family of images, and a cost of its members."""

    name: str
    start: Callable[[int, torch.Generator], Tensor]
    """Parameters float [n, ...] of n random draws."""
    decode: Callable[[Tensor], Tensor]
    """Parameters -> images float [n, C, H, W] in [0, 1], with gradient."""
    penalty: Callable[[Tensor, Tensor, Tensor], Tensor]
    """Start, parameters, images -> cost [n] of being unlikely."""
    weight: float
    """Of the cross-entropy beside the penalty."""
    lr: float
    """Of Adam on the parameters."""
    descend_alone: bool = False
    """Random draws are refined on the penalty too, as they are no images yet."""


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, [B, C, H, W] -> [B]."""
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean((1, 2, 3))
    across = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean((1, 2, 3))
    return down + across


def smooth_prior(public: Tensor) -> ImagePrior:
    """Pixels from the public mean image (uint8 [N, C, H, W]) plus noise, under total variation."""
    mean = _pixel_logits(public.float().mean(0) / 255)

    def start(n: int, rng: torch.Generator) -> Tensor:
        return mean + torch.randn(n, *mean.shape, generator=rng)

    return ImagePrior(
        "total_variation", start, torch.sigmoid, lambda s, p, x: 2 * total_variation(x),
        weight=1.0, lr=0.1, descend_alone=True,
    )  # fmt: skip


def gan_prior(public: Tensor, config: GanConfig, cache: Path) -> tuple[ImagePrior, bool]:
    """Latent search in a GAN of public images, and whether the cache held the GAN."""
    generator, critic, cached = cached_gan(public, config, cache)

    def start(n: int, rng: torch.Generator) -> Tensor:
        return torch.randn(n, generator.latent, generator=rng)

    prior = ImagePrior("gmi", start, generator, lambda s, z, x: -critic(x), weight=100.0, lr=0.05)
    return prior, cached


def released_prior(run: Run, pool: int) -> ImagePrior:
    """The released synthesizer: its generator's latent space, or `pool` of its images.

    Without a trainable generator the attacked model chooses an image of the pool, and the search
    refines it at a cost for leaving it.
    """
    cpu = pick_device("cpu")
    synthesizer = released_synthesizer(run, cpu)
    if synthesizer.adversarial is not None:
        model = synthesizer.adversarial.model
        model.eval().requires_grad_(False)

        def latent(n: int, rng: torch.Generator) -> Tensor:
            return torch.randn(n, model.latent, generator=rng)

        return ImagePrior(
            "released", latent, model, lambda s, z, x: 0.1 * z.square().mean(1), weight=1.0, lr=0.05
        )
    images = synthesizer.sample(pool, Labeller(load_student(run), cpu), round=_ROUND)
    pixels = _pixel_logits(images.float() / 255)

    def drawn(n: int, rng: torch.Generator) -> Tensor:
        return pixels[torch.randint(len(pixels), (n,), generator=rng)]

    def leaving(start: Tensor, p: Tensor, x: Tensor) -> Tensor:
        return total_variation(x) + 10 * (x - torch.sigmoid(start)).square().mean((1, 2, 3))

    return ImagePrior("released", drawn, torch.sigmoid, leaving, weight=1.0, lr=0.05)


def _pixel_logits(x: Tensor) -> Tensor:
    return torch.logit(x.clamp(_MARGIN, 1 - _MARGIN))
