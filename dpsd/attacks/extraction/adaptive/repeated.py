"""Ask again where an answer is in doubt, in another way each time, and learn the mean."""

from collections.abc import Callable, Iterator

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

_AGAIN = 0.3  # of each step's questions, while the pool has images that were never asked
_MORE = 2  # answers that a doubtful image gets at once, so that three can outvote one
_PASSES = 3  # of the clone that doubts
_CHANGED = 1 / 8  # of the pixels

AskRows = Callable[[Transcript, Tensor, Tensor, Tensor], Tensor]
"""(transcript, images uint8 [B, C, H, W], their row numbers int64 [B], how often each was asked
before int64 [B]) -> answers float [B, K]."""


def neighbours(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Ask about copies that differ by single grey levels, and learn the mean of their answers.

    It is made for changes that a key draws for each image by itself: a copy keeps its class and has
    a draw of its own, so that the changes cancel. Where answers are labels, the copies vote. An
    image that was never asked teaches as much as a copy of a known one, so that this gains most
    where the budget is larger than the pool.
    """
    rng = holdings.rng("neighbours")

    def ask_rows(transcript: Transcript, images: Tensor, rows: Tensor, times: Tensor) -> Tensor:
        again = (times > 0)[:, None, None, None]
        moved = again & (torch.rand(images.shape, generator=rng) < _CHANGED)
        step = torch.where(images == 255, -1, 1) * moved
        return transcript.probe(endpoint, (images.int() + step).to(torch.uint8))

    def train(transcript: Transcript, holdings: Holdings) -> Clone:
        return learnt(transcript, holdings, endpoint)

    return _repeated(endpoint, holdings, ask_rows, train)


def accounts(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Split the questions over accounts, and ask doubtful ones again under other accounts.

    It is made for defences that treat accounts differently, for marks of an account, and for limits
    on what an account may ask. The accounts vote on an image, and the clone learns the class with
    most votes: the mean of probabilities that were changed for each account teaches less.

    Raises:
        UserError: an endpoint with one account.
    """
    if endpoint.accounts < 2:
        raise UserError("accounts: 1; the attack accounts needs from 2")

    def ask_rows(transcript: Transcript, images: Tensor, rows: Tensor, times: Tensor) -> Tensor:
        under = (rows + times) % endpoint.accounts
        answers = torch.zeros(len(images), endpoint.classes)
        for account in under.unique().tolist():
            own = under == account
            said = transcript.probe(endpoint, images[own], account)
            answers[own] = one_hot(said.argmax(1), endpoint.classes)
        return answers

    def train(transcript: Transcript, holdings: Holdings) -> Clone:
        return train_clone(transcript, holdings, shape=endpoint.shape)

    return _repeated(endpoint, holdings, ask_rows, train)


def _repeated(
    endpoint: Endpoint,
    holdings: Holdings,
    ask_rows: AskRows,
    train: Callable[[Transcript, Holdings], Clone],
) -> Iterator[Clone]:
    """Seven tenths of a step's questions are new images, while there are any; then doubts.

    A clone of the answers so far doubts those whose class it finds unlikely. Each image has one row
    of the transcript, the mean of its answers.
    """
    times = torch.zeros(0, dtype=torch.int64)  # that each row was asked
    brief = holdings.brief(_PASSES)

    def again(transcript: Transcript, rows: Tensor) -> None:
        said = ask_rows(transcript, transcript.images[rows], rows, times[rows])
        weight = 1 / (times[rows] + 1).float()[:, None]
        transcript.answers[rows] = torch.lerp(transcript.answers[rows], said, weight)
        times[rows] += 1

    def ask(transcript: Transcript, count: int) -> None:
        nonlocal times
        end, known = transcript.asked + count, len(transcript)
        new = min(count - round(_AGAIN * count), len(holdings.pool) - known)
        images = next_images(holdings, known, new, "distillation")
        rows = known + torch.arange(new)
        times = torch.cat([times, torch.zeros(new, dtype=torch.int64)])
        transcript.add(images, ask_rows(transcript, images, rows, times[rows]))
        times[rows] += 1
        if transcript.asked < end:
            doubtful = _doubt(train(transcript, brief), transcript).argsort()
        while (left := end - transcript.asked) > 0:
            for _ in range(_MORE):
                again(transcript, doubtful[: left // _MORE])
            if left < _MORE:
                again(transcript, doubtful[:left])

    return staged(endpoint, holdings, ask, lambda t: train(t, holdings))


def _doubt(clone: Clone, transcript: Transcript) -> Tensor:
    """The clone's probability of the class that each answer names, float [N]; low: doubtful."""
    named = transcript.answers.argmax(1, keepdim=True)
    return predict(clone.model, transcript.images).gather(1, named)[:, 0]
