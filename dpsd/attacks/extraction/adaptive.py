"""Attackers who know that a defence is on: top-1 alone, neighbours, several accounts."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dpsd.attacks.extraction.clone import (
    Clone,
    Holdings,
    Transcript,
    learnt,
    next_images,
    one_hot,
    predict,
    staged,
    train_clone,
)
from dpsd.attacks.extraction.endpoint import Endpoint
from dpsd.errors import UserError
from dpsd.models.augment import DRAWS, augment

COPIES = 4
"""Questions for each image of `neighbours`: the image and three shifted ones."""
_AGAIN = 0.3  # of each step's questions of `accounts` are asked again under other names
_VOTES = 2  # more accounts that are asked about an answer that the clone doubts
_PASSES = 3  # of the clone that doubts


def top1(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Learn the named class alone, and none of the probabilities that were answered.

    It is made for defences that keep the likeliest class and change all else.
    """

    def ask(transcript: Transcript, count: int) -> None:
        images = next_images(holdings, transcript.asked, count, "distillation")
        transcript.ask(endpoint, images)

    def train(transcript: Transcript) -> Clone:
        return train_clone(transcript, holdings, shape=endpoint.shape)

    return staged(endpoint, holdings, ask, train)


def neighbours(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask about each image and three slightly shifted copies, and learn the mean of the answers.

    It is made for changes that a key draws for each image by itself: those of neighbours cancel.
    Where answers are labels, the copies vote. Every copy is paid. Questions that do not suffice for
    all copies of an image are not asked.
    """
    rng = holdings.rng("neighbours")

    def ask(transcript: Transcript, count: int) -> None:
        many = count // COPIES
        images = next_images(holdings, len(transcript), many, "distillation")
        answers = transcript.probe(endpoint, images)
        for _ in range(COPIES - 1):
            moved = augment(images, "shift", torch.rand(many, DRAWS, generator=rng))
            answers = answers + transcript.probe(endpoint, moved)
        transcript.add(images, answers / COPIES)

    return staged(endpoint, holdings, ask, lambda t: learnt(t, holdings, endpoint))


def accounts(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Split the questions over accounts, and ask doubtful answers again under other ones.

    The first seven tenths of each step go to the accounts by turns. A clone of them then doubts
    answers. The most doubtful images are asked under two more accounts, and their answers are
    replaced by the mean of three, or by the class that most of them name. It is made for defences
    that treat accounts differently, and for limits on an account.

    Raises:
        UserError: an endpoint with fewer than three accounts.
    """
    if endpoint.accounts <= _VOTES:
        raise UserError(
            f"accounts: {endpoint.accounts}; the attack accounts needs from {_VOTES + 1}"
        )
    under = torch.zeros(0, dtype=torch.int64)  # the account of each row of the transcript
    settled = torch.zeros(0, dtype=torch.bool)
    brief = holdings.brief(_PASSES)

    def ask(transcript: Transcript, count: int) -> None:
        nonlocal under, settled
        again = round(_AGAIN * count) // _VOTES
        new = count - again * _VOTES
        turn = (len(under) + torch.arange(new)) % endpoint.accounts
        images = next_images(holdings, len(transcript), new, "distillation")
        transcript.add(images, _split(endpoint, transcript, images, turn))
        under, settled = torch.cat([under, turn]), torch.cat([settled, torch.zeros(new).bool()])
        doubt = _doubt(learnt(transcript, brief, endpoint), transcript)
        rows = doubt.masked_fill(settled, -torch.inf).topk(again).indices
        votes = [transcript.answers[rows]]
        for step in range(1, _VOTES + 1):
            other = (under[rows] + step) % endpoint.accounts
            votes.append(_split(endpoint, transcript, transcript.images[rows], other))
        transcript.answers[rows] = voted(torch.stack(votes))
        settled[rows] = True

    return staged(endpoint, holdings, ask, lambda t: learnt(t, holdings, endpoint))


def voted(answers: Tensor) -> Tensor:
    """One answer from several: the mean of those that name the class that most of them name.

    Args:
        answers: float [V, B, K].

    Returns:
        float [B, K]. Where two classes have as many votes, the likelier one on average wins.
    """
    classes = answers.shape[2]
    named = one_hot(answers.argmax(2), classes)
    count = named.sum(0) + 0.5 * answers.mean(0)
    agree = (answers.argmax(2) == count.argmax(1))[..., None].float()
    return (answers * agree).sum(0) / agree.sum(0)


def _split(endpoint: Endpoint, transcript: Transcript, images: Tensor, under: Tensor) -> Tensor:
    """Answers to images, each asked under its account; counted, not yet kept."""
    answers = torch.zeros(len(images), endpoint.classes)
    for account in under.unique().tolist():
        own = under == account
        answers[own] = transcript.probe(endpoint, images[own], account)
    return answers


def _doubt(clone: Clone, transcript: Transcript) -> Tensor:
    """How unlikely the clone finds the class that each answer names, float [N]."""
    named = transcript.answers.argmax(1, keepdim=True)
    return -predict(clone.model, transcript.images).gather(1, named)[:, 0]
