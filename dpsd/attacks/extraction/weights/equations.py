"""Solve for the weights of a model that is linear on features that everybody can compute.

A student `scatter-linear` or `scatter-bn` is one linear layer on fixed wavelet features, and
`scatter-public` is one on principal components of them that two public photographs fix. The log of
its probabilities, less their mean over the classes, is linear in known numbers, and each answer is
one equation for each class (Tramèr et al. 2016, section 4.1).
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dpsd.attacks.extraction.clone import (
    Clone,
    Holdings,
    Transcript,
    next_images,
    staged,
)
from dpsd.attacks.extraction.endpoint import Endpoint
from dpsd.attacks.extraction.weights.linear import Solution, from_likelihood, from_logits
from dpsd.errors import UserError
from dpsd.models.dp_networks import ScatterNet
from dpsd.models.frozen import Shape
from dpsd.models.networks import ScatterBn, as_input, build_model
from dpsd.models.public_features import PublicNet
from dpsd.models.scattering import scattering_maps, unit_roots

SOLVED = ("scatter-linear", "scatter-bn", "scatter-public")
"""Architectures whose weights are found."""
_HIDDEN = 0.1  # a larger share of answers with a 0 was rounded or cut
_BATCH = 256


def equations(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask about images of the pool and solve for the weights.

    Probabilities give linear equations, which least squares solves in float64. Rounded ones and
    labels give the weights of largest likelihood. All answers are used, none is held out.

    Args:
        endpoint: of probabilities or labels.
        holdings: `model` names the victim's architecture, which the attacker knows.

    Raises:
        UserError: another architecture.
    """
    if holdings.model not in SOLVED:
        raise UserError(f"model: {holdings.model}; equations solves {', '.join(SOLVED)}")
    features = torch.zeros(0)

    def ask(transcript: Transcript, count: int) -> None:
        nonlocal features
        images = next_images(holdings, transcript.asked, count, "equations")
        transcript.ask(endpoint, images)
        new = known_features(holdings.model, images)
        features = torch.cat([features.view(-1, new.shape[1]), new])

    def train(transcript: Transcript) -> Clone:
        exact = endpoint.gives == "probabilities" and not _coarse(transcript.answers)
        solve = from_logits if exact else from_likelihood
        how = "least squares" if exact else "largest likelihood"
        holdings.say(f"equations: {len(transcript):,} answers, {how}")
        solution = solve(features, transcript.answers)
        model = solved(holdings.model, endpoint.shape, solution)
        return Clone(len(transcript), model, None)

    return staged(endpoint, holdings, ask, train)


def _coarse(answers: Tensor) -> bool:
    """Whether many answers hold a 0: digits or classes of them were hidden."""
    return float((answers == 0).any(1).double().mean()) > _HIDDEN


@torch.inference_mode()
def known_features(model: str, images: Tensor) -> Tensor:
    """What the linear layer of an architecture reads, up to a fixed scale and shift of each column.

    Args:
        model: one of `SOLVED`.
        images: uint8 [N, C, H, W].

    Returns:
        float32 [N, F].
    """
    net = build_model(model, _shape(images), 2)
    parts = []
    for part in images.split(_BATCH):
        if isinstance(net, ScatterNet | PublicNet):
            parts.append(net.inputs(as_input(part)))
        else:
            parts.append(unit_roots(scattering_maps(as_input(part)).flatten(1)))
    return torch.cat(parts)


def solved(model: str, shape: Shape, solution: Solution) -> nn.Module:
    """A model of this architecture with these weights, in evaluation mode."""
    net = build_model(model, shape, len(solution.bias))
    head = net.head
    assert isinstance(net, ScatterNet | ScatterBn | PublicNet) and isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.copy_(solution.weight)
        head.bias.copy_(solution.bias)
    if isinstance(net, ScatterBn) and isinstance(net.norm, nn.BatchNorm1d):
        variance = net.norm.running_var
        assert variance is not None
        variance.fill_(1 - net.norm.eps)  # then it leaves the roots as they are
    return net.eval().requires_grad_(False)


def _shape(images: Tensor) -> Shape:
    channels, height, width = images.shape[1:]
    return channels, height, width
