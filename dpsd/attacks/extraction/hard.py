"""Attacks on labels: learn the answered class of images of a pool."""

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


def basic(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask about random images of the pool and learn the named classes.

    Tramèr et al. 2016; Knockoff Nets with random choice, Orekondy et al. 2019.
    """

    def ask(transcript: Transcript, count: int) -> None:
        transcript.ask(endpoint, next_images(holdings, len(transcript), count, "basic"))

    def train(transcript: Transcript) -> Clone:
        return train_clone(transcript, holdings, shape=endpoint.shape)

    return staged(endpoint, holdings, ask, train)
