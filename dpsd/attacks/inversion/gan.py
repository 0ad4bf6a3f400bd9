"""A small Wasserstein GAN with gradient penalty: what an attacker learns from public images.

Gulrajani et al. 2017, algorithm 1. It is trained on images of classes that no attacked model knows.
A cache keeps it under a hash of those images and the configuration, so that all attacks share it.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dpsd.files import whole_file
from dpsd.generator.adversarial import Generator

_LATENT = 32
_WIDTH = 16


@dataclass(frozen=True)
class GanConfig:
    """How the prior is trained."""

    steps: int
    """Updates of the generator."""
    critic_steps: int = 2
    """Updates of the critic for each of them."""
    batch: int = 48
    lr: float = 4e-4
    penalty: float = 10.0
    seed: int = 0


class Critic(nn.Module):
    """Images float [B, C, H, W] in [0, 1] -> scores [B]; no layer mixes the batch."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        rows, columns = height, width
        for _ in range(3):
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        w = 2 * _WIDTH
        self.body = nn.Sequential(
            nn.Conv2d(channels, w, 5, 2, 2), nn.LeakyReLU(0.2),
            nn.Conv2d(w, 2 * w, 5, 2, 2), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * w, 2 * w, 3, 2, 1), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(2 * w * rows * columns, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """How real each image looks, unbounded."""
        out: Tensor = self.body((x - 0.5) / 0.5)
        return out[:, 0]


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """Mean of (|d critic / dx|_2 - 1)^2 between real and fake images (equation 3).

    Args:
        critic: images [B, C, H, W] -> scores [B].
        real: images.
        fake: images, of the same shape.
        mix: shares of `real`, [B].
    """
    share = mix[:, None, None, None]
    x = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    penalty: Tensor = (slope.float().flatten(1).norm(dim=1) - 1).square().mean()
    return penalty


def train_gan(images: Tensor, config: GanConfig) -> tuple[Generator, Critic]:
    """Generator and critic of public images, uint8 [N, C, H, W]; frozen, in evaluation mode."""
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    rng = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        generator = Generator(_LATENT, shape, width=_WIDTH)
        critic = Critic(shape)
    fast = torch.autocast(
        "cpu", dtype=torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()
    )
    for model in (generator, critic):
        model.to(memory_format=torch.channels_last)
    slow = {"lr": config.lr, "betas": (0.5, 0.9)}
    g_step = torch.optim.Adam(generator.parameters(), **slow)  # type: ignore[arg-type]
    c_step = torch.optim.Adam(critic.parameters(), **slow)  # type: ignore[arg-type]

    def latent() -> Tensor:
        return torch.randn(config.batch, _LATENT, generator=rng)

    for _ in range(config.steps):
        for _ in range(config.critic_steps):
            rows = torch.randint(len(images), (config.batch,), generator=rng)
            real = images[rows].float() / 255
            mix = torch.rand(config.batch, generator=rng)
            with fast:
                with torch.no_grad():
                    fake = generator(latent()).float()
                loss = critic(fake).float().mean() - critic(real).float().mean()
                loss = loss + config.penalty * gradient_penalty(critic, real, fake, mix)
            c_step.zero_grad()
            loss.backward()
            c_step.step()
        with fast:
            loss = -critic(generator(latent())).float().mean()
        g_step.zero_grad()
        loss.backward()
        g_step.step()
    return generator.eval().requires_grad_(False), critic.eval().requires_grad_(False)


def cached_gan(images: Tensor, config: GanConfig, folder: Path) -> tuple[Generator, Critic, bool]:
    """The GAN of these images and this configuration, trained where the folder lacks it.

    Returns:
        Generator, critic, and whether the folder held them. An unreadable file is replaced.
    """
    digest = hashlib.blake2b(json.dumps(asdict(config)).encode(), digest_size=12)
    digest.update(repr((tuple(images.shape), _LATENT, _WIDTH)).encode())
    digest.update(images.contiguous().numpy().data)
    path = folder / f"gan-{digest.hexdigest()}.safetensors"
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    cached = _load(path, shape)
    if cached is not None:
        return (*cached, True)
    trained = train_gan(images, config)
    weights = {f"{i}.{k}": v for i, m in enumerate(trained) for k, v in m.state_dict().items()}
    with whole_file(path) as partial:
        save_file({k: v.contiguous() for k, v in weights.items()}, partial)
    return (*(_load(path, shape) or trained), False)


def _load(path: Path, shape: tuple[int, int, int]) -> tuple[Generator, Critic] | None:
    """The models of a file, or None where it is missing or unreadable."""
    models = Generator(_LATENT, shape, width=_WIDTH), Critic(shape)
    try:
        state = load_file(path)
        for i, model in enumerate(models):
            model.load_state_dict({k[2:]: v for k, v in state.items() if k[0] == str(i)})
            model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    except Exception:
        return None
    return models
