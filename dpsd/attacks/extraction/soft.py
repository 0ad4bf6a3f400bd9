"""Attacks on probabilities: learn the whole answer."""

from collections.abc import Iterator

from dpsd.attacks.extraction.clone import (
    Clone,
    Holdings,
    Transcript,
    next_images,
    staged,
    train_clone,
)
from dpsd.attacks.extraction.endpoint import Endpoint

TEMPERATURE = 3.0


def distillation(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask about images of the pool, learn the probabilities (Hinton et al. 2015)."""

    def ask(transcript: Transcript, count: int) -> None:
        transcript.ask(endpoint, next_images(holdings, len(transcript), count, "distillation"))

    def train(transcript: Transcript) -> Clone:
        return train_clone(transcript, holdings, shape=endpoint.shape, temperature=TEMPERATURE)

    return staged(endpoint, holdings, ask, train)
