"""Undo a defence that is known except for its key: a network that restores answers.

After D-DAE (Chen et al. 2023, *D-DAE: Defense-Penetrating Model Extraction Attacks*): the attacker
simulates the defence on own models and learns to restore what those said.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpsd.attacks.extraction.clone import (
    Clone,
    Holdings,
    Transcript,
    hash_seed,
    learnt,
    need_probabilities,
    next_images,
    predict,
    staged,
)
from dpsd.attacks.extraction.endpoint import Endpoint
from dpsd.defences.defence import answered
from dpsd.errors import UserError

_SIMULATED = 4_000  # images of the pool on which the defence is simulated
_KEYS = 4
_WIDTH, _STEPS, _BATCH, _RATE = 64, 600, 256, 3e-3
_SMALLEST = 1e-5  # a probability that was answered as 0
_PASSES = 4  # of the attacker's own model


def recovery(endpoint: Endpoint, holdings: Holdings) -> Iterator[Clone]:
    """Learn restored answers.

    A first clone of the defended answers is the attacker's own model. The defences of
    `Holdings.known` are simulated on it under keys of the attacker's own. A network learns to
    restore its true answers from the defended ones. It sees an answer in falling order and keeps
    no class apart, so that what it learns holds for each. The final clone learns restored answers.

    Raises:
        UserError: an endpoint that gives labels, or no known defence.
    """
    need_probabilities(endpoint, "recovery")
    if not holdings.known:
        raise UserError("known: no defence; recovery undoes one that the attacker knows")

    def ask(transcript: Transcript, count: int) -> None:
        images = next_images(holdings, transcript.asked, count, "distillation")
        transcript.ask(endpoint, images)

    def train(transcript: Transcript) -> Clone:
        own = learnt(transcript, holdings.brief(_PASSES), endpoint).model
        restore = _restorer(own, holdings, len(transcript))
        restored = Transcript(transcript.images, restore(transcript.answers), transcript.asked)
        return learnt(restored, holdings, endpoint)

    return staged(endpoint, holdings, ask, train)


class Restorer(nn.Module):
    """Answers float [B, K] -> log-probabilities [B, K], the same for each order of the classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(2 * classes, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH), nn.ReLU(),
            nn.Linear(_WIDTH, classes),
        )  # fmt: skip

    def forward(self, answers: Tensor) -> Tensor:
        """Sort, change, and put each class back to its place."""
        ordered = answers.sort(dim=1, descending=True, stable=True)
        logs = ordered.values.clamp_min(_SMALLEST).log()
        changed = logs + self.body(torch.cat([ordered.values, logs / 10], 1))
        return torch.zeros_like(changed).scatter(1, ordered.indices, changed).log_softmax(1)


def _restorer(own: nn.Module, holdings: Holdings, name: int) -> "_Restore":
    """A trained `Restorer`, from defended to true answers of the attacker's own model."""
    rows = torch.randperm(len(holdings.pool), generator=holdings.rng("simulated"))[:_SIMULATED]
    images = holdings.pool[rows]
    true = predict(own, images)
    keys = [hash_seed(holdings.seed, f"own key {i}").to_bytes(16, "little") for i in range(_KEYS)]
    said = torch.cat([answered(true, images, holdings.known, key, f"account-{i}").float()
                      for i, key in enumerate(keys)])  # fmt: skip
    return train_restorer(said, true.repeat(_KEYS, 1), hash_seed(holdings.seed, f"undo {name}"))


def train_restorer(said: Tensor, true: Tensor, seed: int) -> "_Restore":
    """Learn to restore answers.

    Args:
        said: defended answers, float [N, K].
        true: what the model said, float [N, K].
        seed: of weights and order.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Restorer(said.shape[1])
        optimizer = torch.optim.Adam(net.parameters(), lr=_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS)
        for _ in range(_STEPS):
            batch = torch.randint(len(said), (_BATCH,))
            loss = F.kl_div(net(said[batch]), true[batch], reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return _Restore(net)


class _Restore:
    def __init__(self, net: nn.Module) -> None:
        self.net = net

    @torch.no_grad()
    def __call__(self, answers: Tensor) -> Tensor:
        out: Tensor = self.net(answers).exp()
        return out
