"""Search the boundary between classes: halve segments whose ends are named differently."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dpsd.attacks.extraction.clone import (
    Clone,
    Holdings,
    Transcript,
    next_images,
    staged,
    train_clone,
)
from dpsd.attacks.extraction.endpoint import Endpoint

_AT_RANDOM = 0.5  # of each step's questions are images of the pool
_HALVINGS = 4


def boundary(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask about images, then halve segments between differently named ones; every probe is paid.

    Binary search for points on the boundary, as Lowd and Meek 2005 and Tramèr et al. 2016 (section
    4.2) do for linear models. The clone learns all points that were asked. The last two of a
    segment lie a sixteenth of it apart, on the two sides of the boundary.
    """
    rng = holdings.rng("pairs")
    pool_rows = torch.zeros(0, dtype=torch.int64)  # of the transcript: images of the pool

    def ask(transcript: Transcript, count: int) -> None:
        nonlocal pool_rows
        end = transcript.asked + count
        many = round(_AT_RANDOM * count)
        pool_rows = torch.cat([pool_rows, transcript.asked + torch.arange(many)])
        transcript.ask(endpoint, next_images(holdings, len(pool_rows) - many, many, "boundary"))
        one, other = _pairs(transcript, pool_rows, (count - many) // _HALVINGS, rng)
        _halve(endpoint, transcript, one, other)
        rest = end - transcript.asked
        pool_rows = torch.cat([pool_rows, transcript.asked + torch.arange(rest)])
        transcript.ask(endpoint, next_images(holdings, len(pool_rows) - rest, rest, "boundary"))

    def train(transcript: Transcript) -> Clone:
        return train_clone(transcript, holdings, shape=endpoint.shape)

    return staged(endpoint, holdings, ask, train)


def _pairs(
    transcript: Transcript, rows: Tensor, count: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rows of the transcript whose answers name different classes, int64 [P] each, P <= count."""
    if not len(rows):
        return rows, rows
    one, other = rows[torch.randint(len(rows), (2, 4 * count), generator=rng)]
    named = transcript.answers.argmax(1)
    differ = named[one] != named[other]
    return one[differ][:count], other[differ][:count]


def _halve(endpoint: Endpoint, transcript: Transcript, one: Tensor, other: Tensor) -> None:
    """Ask the middle of each segment and go on with the half whose ends are named differently."""
    left, right = transcript.images[one].float(), transcript.images[other].float()
    here = transcript.answers[one].argmax(1)
    for _ in range(_HALVINGS):
        middle = ((left + right) / 2).round()
        named = transcript.ask(endpoint, middle.to(torch.uint8)).argmax(1)
        same = (named == here)[:, None, None, None]
        left, right = torch.where(same, middle, left), torch.where(same, right, middle)
