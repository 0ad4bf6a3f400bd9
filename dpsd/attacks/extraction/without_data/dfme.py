"""DFME: a generator learns to ask where clone and model differ, by estimated gradients.

Truong, Maini, Walls and Papernot, *Data-Free Model Extraction* (CVPR 2021), algorithm 1.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from dpsd.attacks.extraction.clone import (
    Clone,
    Holdings,
    Transcript,
    hash_seed,
    learnt,
    need_probabilities,
    staged,
)
from dpsd.attacks.extraction.endpoint import Endpoint
from dpsd.generator.adversarial import Generator
from dpsd.models.networks import build_model

STEP = 16
"""Grey levels of a forward difference, of random sign for each pixel."""
_LATENT, _BATCH = 64, 32
_CLONE_STEPS = 5  # for each of the generator's, as in the paper's section 4.1
_RATE = 1e-3
_SMALLEST = 1e-6  # a probability that was answered as 0


def dfme(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask about images of a generator that is trained against the endpoint; every probe is paid.

    The generator raises the mean absolute difference of logits between model and clone. The
    model's logits are its log-probabilities less their mean. Their change along one random
    direction estimates the gradient with regard to the image (forward differences; the paper takes
    one direction too). Images are uint8, so that a step is whole grey levels. In the end of each
    step of the ladder a fresh clone learns all that was answered. The paper asks 20 million
    questions; it is not made for a few thousand. `Holdings.pool` is not used.

    Raises:
        UserError: an endpoint that gives labels.
    """
    need_probabilities(endpoint, "dfme")
    game = _Game(endpoint, holdings)

    def ask(transcript: Transcript, count: int) -> None:
        end = transcript.asked + count
        while (left := end - transcript.asked) > 0:
            with torch.random.fork_rng():
                torch.manual_seed(hash_seed(holdings.seed, f"dfme {transcript.asked}"))
                if left >= 2 * _BATCH:
                    game.generate(transcript, _BATCH)
                for _ in range(_CLONE_STEPS):
                    game.imitate(transcript, min(_BATCH, end - transcript.asked))

    return staged(endpoint, holdings, ask, lambda t: learnt(t, holdings, endpoint))


class _Game:
    """Generator and clone that learn against each other."""

    def __init__(self, endpoint: Endpoint, holdings: Holdings) -> None:
        self.endpoint = endpoint
        with torch.random.fork_rng():
            torch.manual_seed(hash_seed(holdings.seed, "dfme"))
            self.generator = Generator(_LATENT, endpoint.shape)
            self.clone = build_model(holdings.model, endpoint.shape, endpoint.classes)
        self.makes = torch.optim.Adam(self.generator.parameters(), lr=_RATE)
        self.learns = torch.optim.Adam(self.clone.parameters(), lr=_RATE)

    def generate(self, transcript: Transcript, count: int) -> None:
        """One step of the generator, for 2 * count questions."""
        self.clone.eval()
        x = self.generator(torch.randn(count, _LATENT))
        images = _pixels(x.detach())
        signs = torch.randint(0, 2, images.shape) * 2 - 1
        moved = (images.int() + STEP * signs).clamp(0, 255).to(torch.uint8)
        answers = transcript.ask(self.endpoint, torch.cat([images, moved]))
        with torch.no_grad():
            said = _centred(self.clone(torch.cat([images, moved]).float() / 255))
            gap = (_logits(answers) - said).abs().sum(1)
            slope = (gap[count:] - gap[:count]) / (STEP / 255)
        # The direction's slope times the direction estimates the gradient.
        gradient = slope[:, None, None, None] * signs / signs[0].numel()
        self.makes.zero_grad()
        x.backward(-gradient / count)
        self.makes.step()

    def imitate(self, transcript: Transcript, count: int) -> None:
        """One step of the clone on new images."""
        if count == 0:
            return
        with torch.no_grad():
            images = _pixels(self.generator(torch.randn(max(2, count), _LATENT)))[:count]
        answers = transcript.ask(self.endpoint, images)
        if count == 1:  # batch normalisation needs two
            return
        self.clone.train()
        loss = F.l1_loss(_centred(self.clone(images.float() / 255)), _logits(answers))
        self.learns.zero_grad()
        loss.backward()
        self.learns.step()


def _pixels(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


def _logits(answers: Tensor) -> Tensor:
    return _centred(answers.clamp_min(_SMALLEST).log())


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)
