"""KED-MI (Chen et al. 2021): a prior that learned from the attacked model itself.

The critic's discriminator is also a classifier, taught the attacked model's soft labels of public
images, so the generator learns what matters to that model. It is trained anew for every model. The
search then recovers a distribution of latent vectors for each image, not a single one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpsd.attacks.inversion.gan import GanConfig
from dpsd.attacks.inversion.priors import ImagePrior
from dpsd.attacks.inversion.targets import Logits
from dpsd.generator.adversarial import Generator

_LATENT = 32
_WIDTH = 16
_ENTROPY = 1e-2
_SPREAD = -1.0  # log of the first standard deviation


class Discriminator(nn.Module):
    """Images float [B, C, H, W] in [0, 1] -> class scores [B, K]; log-sum-exp means "real"."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        w = 2 * _WIDTH
        self.body = nn.Sequential(
            nn.Conv2d(shape[0], w, 5, 2, 2), nn.LeakyReLU(0.2),
            nn.Conv2d(w, 2 * w, 5, 2, 2), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * w, 2 * w, 3, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(),
        )  # fmt: skip
        with torch.no_grad():
            flat = self.body(torch.zeros(1, *shape)).shape[1]
        self.head = nn.Linear(flat, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, D] and class scores [B, K]."""
        features = self.body((x - 0.5) / 0.5)
        return features, self.head(features)


def discriminator_loss(real: Tensor, fake: Tensor, soft: Tensor) -> Tensor:
    """Real against fake by log-sum-exp, and the attacked model's soft labels on real images.

    With L = logsumexp: mean(softplus(L(real)) - L(real)) + mean(softplus(L(fake))) + CE(real, soft)
    (Salimans et al. 2016; equations 2 and 3 of the paper).

    Args:
        real: class scores of real images, [B, K].
        fake: of generated ones, [B, K].
        soft: the attacked model's probabilities of the real images, [B, K].
    """
    at_real, at_fake = real.logsumexp(1), fake.logsumexp(1)
    apart = (F.softplus(at_real) - at_real).mean() + F.softplus(at_fake).mean()
    return apart + F.cross_entropy(real, soft)


def kedmi_prior(logits: Logits, public: Tensor, classes: int, config: GanConfig) -> ImagePrior:
    """A prior whose generator was trained against one model.

    Its parameters are means and logs of standard deviations of latent vectors.

    Args:
        logits: of the attacked model.
        public: uint8 [N, C, H, W].
        classes: number of classes.
        config: steps, batch, rate and seed; `critic_steps` and `penalty` are not read.
    """
    shape = (int(public.shape[1]), int(public.shape[2]), int(public.shape[3]))
    rng = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        generator, judge = Generator(_LATENT, shape, width=_WIDTH), Discriminator(shape, classes)
    g_step = torch.optim.Adam(generator.parameters(), config.lr, betas=(0.5, 0.999))
    d_step = torch.optim.Adam(judge.parameters(), config.lr, betas=(0.5, 0.999))
    for _ in range(config.steps):
        real = public[torch.randint(len(public), (config.batch,), generator=rng)].float() / 255
        z = torch.randn(config.batch, _LATENT, generator=rng)
        with torch.no_grad():
            soft = logits(real).cpu().softmax(1)
        fake = generator(z)
        loss = discriminator_loss(judge(real)[1], judge(fake.detach())[1], soft)
        d_step.zero_grad()
        loss.backward()
        d_step.step()
        with torch.no_grad():
            wanted = judge(real)[0].mean(0)
        features, scores = judge(fake)
        entropy = -(scores.softmax(1) * scores.log_softmax(1)).sum(1).mean()
        loss = (features.mean(0) - wanted).square().mean() + _ENTROPY * entropy
        g_step.zero_grad()
        loss.backward()
        g_step.step()
    generator.eval().requires_grad_(False)
    judge.eval().requires_grad_(False)
    noise = torch.Generator().manual_seed(config.seed + 1)

    def start(n: int, rng: torch.Generator) -> Tensor:
        mean = torch.randn(n, _LATENT, generator=rng)
        return torch.cat([mean, torch.full((n, _LATENT), _SPREAD)], 1)

    def decode(p: Tensor) -> Tensor:
        mean, spread = p.chunk(2, 1)
        drawn: Tensor = generator(mean + spread.exp() * torch.randn(mean.shape, generator=noise))
        return drawn

    def unreal(start: Tensor, p: Tensor, x: Tensor) -> Tensor:
        level: Tensor = judge(x)[1].logsumexp(1)
        return F.softplus(level) - level

    return ImagePrior("kedmi", start, decode, unreal, weight=100.0, lr=0.02)
