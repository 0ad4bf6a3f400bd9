"""Take a two-layer ReLU network apart: its units by their kinks, the rest by least squares."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from dpsd.attacks.extraction.clone import (
    Clone,
    Holdings,
    Transcript,
    need_probabilities,
    next_images,
    staged,
)
from dpsd.attacks.extraction.endpoint import Endpoint
from dpsd.attacks.extraction.weights.kinks import (
    POINTS,
    Stretch,
    Unit,
    gradient,
    line,
    stretches,
    unit_between,
)
from dpsd.attacks.extraction.weights.linear import from_logits

_AT_RANDOM = 0.2  # of each step's questions are images of the pool, for the least squares
_SMALLEST = 1e-30  # a probability that was answered as 0


def relu(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Find the units of a two-layer ReLU network on lines between images, and solve for the rest.

    After Jagielski et al. 2020, section 6. On a line the logits are linear up to kinks, one for
    each unit that changes sides. The gradients on both sides of a kink differ by the unit's weights
    times what it adds to each class. The clone has the units that were found, and beside them a
    linear layer on the pixels; it makes up for the unknown signs and for units that never change
    sides. `Holdings.model` is not used. It costs a question for each pixel on every stretch.

    Raises:
        UserError: an endpoint that gives labels.
    """
    need_probabilities(endpoint, "relu")
    units, lines = list[Unit](), 0

    def ask(transcript: Transcript, count: int) -> None:
        nonlocal lines
        end = transcript.asked + count
        first = round(_AT_RANDOM * count)
        transcript.ask(endpoint, next_images(holdings, transcript.asked, first, "distillation"))
        while end - transcript.asked > POINTS + 2 * (1 + holdings.pool[0].numel()):
            one, other = next_images(holdings, 2 * lines, 2, "lines")
            lines += 1
            _along(line(one, other), endpoint, transcript, units, end)
        rest = end - transcript.asked
        transcript.ask(endpoint, next_images(holdings, transcript.asked, rest, "distillation"))

    def train(transcript: Transcript) -> Clone:
        holdings.say(f"relu: {len(units)} units on {lines} lines")
        hidden = nn.Linear(transcript.images[0].numel(), max(1, len(units)))
        with torch.no_grad():
            hidden.weight.zero_()  # without any unit one does nothing
            hidden.bias.zero_()
            for row, unit in enumerate(units):
                hidden.weight[row], hidden.bias[row] = unit.weight, unit.bias
        model = TwoLayers(hidden, endpoint.classes)
        with torch.no_grad():
            solution = from_logits(model.inputs(_floats(transcript.images)), transcript.answers)
            model.head.weight.copy_(solution.weight)
            model.head.bias.copy_(solution.bias)
        return Clone(len(transcript), model.eval().requires_grad_(False), None)

    return staged(endpoint, holdings, ask, train)


class TwoLayers(nn.Module):
    """ReLU units and the pixels themselves, then one linear layer: [B, C, H, W] -> logits."""

    def __init__(self, hidden: nn.Linear, classes: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.head = nn.Linear(hidden.out_features + hidden.in_features, classes)

    def inputs(self, x: Tensor) -> Tensor:
        """What the last layer reads: float [B, units + pixels]."""
        flat = x.flatten(1)
        return torch.cat([self.hidden(flat).relu(), flat], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K] of float images from 0 to 1."""
        out: Tensor = self.head(self.inputs(x))
        return out


def _along(
    points: Tensor, endpoint: Endpoint, transcript: Transcript, units: list[Unit], end: int
) -> None:
    """Ask along a line, then for gradients on its stretches, and keep the units that are new."""

    def ask(images: Tensor) -> Tensor:
        logs = transcript.ask(endpoint, images).double().clamp_min(_SMALLEST).log()
        return logs - logs.mean(1, keepdim=True)

    logits = ask(points)
    slopes = dict[Stretch, Tensor]()
    for one, other in pairwise(stretches(logits)):
        if any(unit.turns(points, one, other) for unit in units):
            continue  # a gradient is dear, and this kink is known
        for stretch in {one, other} - set(slopes):
            if end - transcript.asked < points[0].numel():
                return
            slopes[stretch] = gradient(points[stretch.middle], logits[stretch.middle], ask)
        found = unit_between(slopes[one], slopes[other], logits, points, one, other)
        if found is not None and not any(found.is_like(unit) for unit in units):
            units.append(found)


def _floats(images: Tensor) -> Tensor:
    return images.float() / 255
