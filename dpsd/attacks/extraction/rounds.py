"""Ask in rounds: a clone of the answers so far decides which images of the pool come next."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dpsd.attacks.extraction.clone import Clone, Holdings, Transcript, learnt, staged
from dpsd.attacks.extraction.endpoint import Endpoint
from dpsd.models.networks import as_input, logits_and_features

_FIRST = 0.25  # of the first step of the ladder is asked at random
_GROWTH = 1.6  # what is asked after a round, by what was asked before it
_PASSES = 3  # of a clone that only chooses
_CANDIDATES = 6_000  # of the pool that a round looks at, at most
_BATCH = 512


@dataclass(frozen=True)
class Candidates:
    """What a round chooses from, and what it knows.

    Attributes:
        images: uint8 [N, C, H, W], not asked before while the pool has such.
        probabilities: the clone's, float [N, K].
        features: the inputs of the clone's last layer, float [N, D].
        known: the same features of the images that were asked, float [M, D].
        loss: cross-entropy of the clone on each of their answers, float [M].
        rng: for ties and k-means.
    """

    images: Tensor
    probabilities: Tensor
    features: Tensor
    known: Tensor
    loss: Tensor
    rng: torch.Generator

    def entropy(self) -> Tensor:
        """Of the clone's probabilities, float [N]."""
        entropy: Tensor = torch.special.entr(self.probabilities).sum(1)
        return entropy

    def margin(self) -> Tensor:
        """Between the clone's two likeliest classes, float [N]."""
        best = self.probabilities.topk(2, 1).values
        return best[:, 0] - best[:, 1]

    def only(self, rows: Tensor) -> "Candidates":
        """These rows alone, int64 [R]."""
        return replace(
            self, images=self.images[rows], probabilities=self.probabilities[rows],
            features=self.features[rows],
        )  # fmt: skip


Choose = Callable[[Candidates, int], Tensor]
"""Which of the candidates to ask: int64 [count], each once."""


def by_rounds(
    endpoint: Endpoint,
    holdings: Holdings,
    choose: Choose,
    name: str,
    train: Callable[[Transcript], Clone] | None = None,
) -> Iterator[Clone]:
    """Ask a quarter of the first step at random, then what `choose` takes.

    A round asks six tenths of what was asked before it. The clone that chooses is trained briefly;
    one that is given away is trained afresh. Where the pool is spent it is asked again.

    Args:
        endpoint: to ask.
        holdings: with the pool.
        choose: takes the next images.
        name: of the attack.
        train: gives the clones of the ladder; default: they learn all that was answered.
    """
    rng, n = holdings.rng(name), len(holdings.pool)
    asked = torch.zeros(n, dtype=torch.int64)  # how often
    brief = holdings.brief(_PASSES)

    def rows(transcript: Transcript, count: int) -> Tensor:
        left = (asked == asked.min()).nonzero().flatten()
        left = left[torch.randperm(len(left), generator=rng)]
        if not len(transcript) or len(left) <= count:
            return left[:count]
        left = left[: max(_CANDIDATES, 2 * count)]
        clone = learnt(transcript, brief, endpoint).model
        return left[choose(candidates(clone, holdings.pool[left], transcript, rng), count)]

    def ask(transcript: Transcript, count: int) -> None:
        end = transcript.asked + count
        while transcript.asked < end:
            done = transcript.asked
            most = round(_FIRST * end) if done == 0 else round((_GROWTH - 1) * done)
            chosen = rows(transcript, min(max(1, most), end - done))
            asked[chosen] += 1
            transcript.ask(endpoint, holdings.pool[chosen])
            holdings.say(f"{name}: {transcript.asked:,} images asked")

    return staged(endpoint, holdings, ask, train or (lambda t: learnt(t, holdings, endpoint)))


def rows_used(budget: int) -> int:
    """Rows of a pool that attacks with this budget can use; they gain nothing from more.

    No attack asks more than `budget` different images. A round looks at some more: `_CANDIDATES`,
    or twice what it asks, which with what was asked before is less than one and a half budgets.
    """
    return budget + max(_CANDIDATES, budget // 2)


def candidates(
    clone: nn.Module, images: Tensor, transcript: Transcript, rng: torch.Generator
) -> Candidates:
    """What a clone says of images and of what was answered."""
    probabilities, features = _outputs(clone, images)
    said, known = _outputs(clone, transcript.images)
    loss = -(transcript.answers * said.clamp_min(1e-6).log()).sum(1)
    return Candidates(images, probabilities, features, known, loss, rng)


@torch.inference_mode()
def _outputs(clone: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    parts = [logits_and_features(clone, as_input(x)) for x in images.split(_BATCH)]
    logits, features = (torch.cat(x) for x in zip(*parts, strict=True))
    return logits.softmax(1), features
