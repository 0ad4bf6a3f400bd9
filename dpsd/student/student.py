"""The student: the model that is released, and how it learns from the bank."""

import contextlib
import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from dpsd.config import Config, PublicFacts
from dpsd.config.sections import StudentConfig
from dpsd.console import working
from dpsd.device import (
    mean_buffers,
    own_share,
    rows_at_once,
    sum_gradients,
    sum_over_ranks,
    world_size,
)
from dpsd.models.augment import DRAWS, augment
from dpsd.models.fit import in_batches
from dpsd.models.networks import as_input, build_model
from dpsd.models.together import see_whole_batches, without_rows
from dpsd.student.bank import Bank
from dpsd.student.losses import (
    LEAST,
    answer_gain,
    dkd_loss,
    kd_loss,
    likelihood_loss,
    names_a_class,
    posterior,
    soften,
)
from dpsd.student.optimizer import make_optimizer

_WARMUP = 0.05  # of all steps
_REFIT = "refit: images"


def draws_per_round(config: StudentConfig, queries: int) -> int:
    """Images that the student learns from in a round of so many queries.

    Two at least, as batch normalisation cannot read a single row.
    """
    return max(2, round(config.epochs_per_round * queries))


class Student:
    """A model under training and the moving average of its weights, which is released.

    Args:
        config: `student`, `seed`, `device` and `precision` are read.
        facts: public shape and number of classes.
        rounds: of the loop, for the learning-rate schedule.
        queries_per_round: of the loop.
        soft_targets: the bank's scores are the log of a distribution to match, and no prior enters
            (mechanism none, graded answers).
    """

    def __init__(
        self,
        config: Config,
        facts: PublicFacts,
        *,
        rounds: int,
        queries_per_round: int,
        soft_targets: bool,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.config, self.facts, self.device, self._dtype = config.student, facts, device, dtype
        self.soft_targets, self.seed = soft_targets, config.seed
        self.draws = draws_per_round(self.config, queries_per_round)
        self._start(self.seed, rounds * math.ceil(self.draws / self.config.batch_size))

    def _start(self, seed: int, steps: int) -> None:
        """Fresh weights, moving average, optimiser and schedule."""
        self._rng = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(self.config.model, self.facts.shape, self.facts.classes)
        if world_size() > 1:
            model = see_whole_batches(model)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = make_optimizer(self.model, self.config.optimizer, self.config.lr)
        self.steps, self.steps_total = 0, steps

    def fit(self, bank: Bank, new: int) -> dict[str, float]:
        """Train a round on the bank: the `new` newest images once, the rest from the whole window.

        Returns:
            Public figures: `loss`, the mean; `gain_nats_per_answer`, how much better than a uniform
            guess the student predicted the answers; `agreement_with_answers`, the share of answers
            whose most likely class is the student's, left out where no answer names one class.
        """
        return self._train(bank, bank.schedule(new, self.draws, self._rng))

    def refit(self, bank: Bank) -> dict[str, float]:
        """Train a fresh student on the whole bank: `refit_epochs` passes under one schedule.

        The student of the loop learned from answers as they came. The early answers were to
        poor questions and met a high learning rate. A fresh student that sees all answers in random
        order learns far more from them.

        Returns:
            As `fit`, of the last pass; empty without passes, or with one answered image at most.
        """
        figures = dict[str, float]()
        if not self.config.refit_epochs or len(bank) < 2:
            return figures
        balance, classes = self.config.balance, self._classes(bank)
        steps = self.config.refit_epochs * math.ceil(len(bank) / self.config.batch_size)
        self._start(self.seed + 1, steps)
        passes = self.config.refit_epochs
        for n in range(passes):
            places = bank.balanced_pass(balance, self._rng, classes)
            figures = self._train(bank, places, _REFIT, (n * len(places), passes * len(places)))
        return figures

    def _classes(self, bank: Bank) -> Tensor | None:
        """The class of each answered image that balance goes by, int64 [images]; None: no balance.

        It is what the answer makes likeliest with this student's prediction as prior: the likeliest
        class of a noisy answer alone may be due to its noise. The teacher's own soft answers are
        read without a prior, unless they name no class.
        """
        if self.config.balance == 0:
            return None
        parts = []
        for places in torch.arange(len(bank)).split(rows_at_once(self.facts.shape)):
            scores = bank.scores[places]
            open_ = ~names_a_class(scores) if self.soft_targets else torch.ones(len(places)).bool()
            if open_.any():
                images, _ = bank.rows(places[open_])
                scores[open_] += self.predict(images).clamp_min(LEAST).log()
            parts.append(scores.argmax(1))
        return torch.cat(parts)

    def _train(
        self, bank: Bank, places: Tensor, name: str = "", part: tuple[int, int] = (0, 0)
    ) -> dict[str, float]:
        """Learn from the images at these places, in this order.

        Args:
            bank: of answered images.
            places: of its images, int64 [N].
            name: of the work, for the progress; empty: it is not shown.
            part: images of this work before the call, and in all.
        """
        self.model.train()
        done = part[0]
        losses, rows = [], 0
        # Summed where the student computes: a figure read in each batch would wait for the GPU.
        gain, hits, named = torch.zeros(3, dtype=torch.float64, device=self.device)
        for batch in in_batches(places, self.config.batch_size):
            mine = own_share(batch)
            pixels, scores = bank.rows(mine)
            images = self._augmented(pixels.to(self.device), len(batch))
            scores = scores.to(self.device)
            loss, logits = self._step(images, scores, len(batch))
            done += len(batch)
            if name:
                working(name, done, part[1])
            losses.append(loss)
            gain += answer_gain(logits, scores).sum()
            rows += len(mine)
            naming = names_a_class(scores)
            hits += ((logits.argmax(1) == scores.argmax(1)) & naming).sum()
            named += naming.sum()
        self._settle_buffers()
        sums = torch.stack([gain, torch.full_like(gain, rows), hits, named]).cpu()
        gains, seen, right, naming_one = sum_over_ranks(sums).tolist()
        figures = {
            "loss": float(sum_over_ranks(torch.stack(losses)).mean()),
            "gain_nats_per_answer": gains / max(1, seen),
        }
        return figures | ({"agreement_with_answers": right / naming_one} if naming_one else {})

    def _augmented(self, images: Tensor, batch: int) -> Tensor:
        """This rank's part of a batch, augmented; the answers are assumed to hold for it."""
        if self.config.augment == "none":
            return images
        draws = torch.rand(batch, DRAWS, generator=self._rng)
        return augment(images, self.config.augment, own_share(draws))

    def loss(self, logits: Tensor, scores: Tensor) -> Tensor:
        """The configured loss of logits [B, K] against the bank's scores [B, K]."""
        c = self.config
        if c.loss == "likelihood" and not self.soft_targets:
            return likelihood_loss(logits, scores)
        if self.soft_targets:
            target = soften(scores, c.temperature)
        else:
            prior = logits.detach().log_softmax(1)
            target = posterior(scores, prior, c.prior_temperature)
            if c.temperature != 1:
                target = soften(target.clamp_min(LEAST).log(), c.temperature)
        if c.loss == "kd":
            return kd_loss(logits, target, alpha=c.alpha, temperature=c.temperature)
        return dkd_loss(logits, target, alpha=c.alpha, beta=c.beta, temperature=c.temperature)

    def _step(self, images: Tensor, scores: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """One step on this rank's rows of a batch of so many rows.

        Returns:
            This rank's part of the batch's mean loss; logits [B, K] of this rank's rows.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * self._schedule()
        self.optimizer.zero_grad()
        # Parts of nearly one size: batch normalisation cannot read a part of one row.
        n = math.ceil(len(images) / (self.config.micro_batch or batch))
        n = max(1, min(n, len(images) // 2))
        parts = zip(images.tensor_split(n), scores.tensor_split(n), strict=True)
        losses, logits = zip(*(self._backward(*part, batch) for part in parts), strict=True)
        sum_gradients(self.model)
        self.optimizer.step()
        self.steps += 1
        self._update_average()
        return torch.stack(losses).sum(), torch.cat(logits)

    def _backward(self, images: Tensor, scores: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Add to the gradient what these rows have of the mean loss of a batch of so many rows.

        Returns:
            Their part of this loss; their logits [B, K].
        """
        if len(images):
            logits = self._logits(images)
            loss = self.loss(logits, scores)
            if smoothing := self._smoothing():
                loss = loss - smoothing * logits.log_softmax(1).mean()
            loss = loss * (len(images) / batch)
        else:  # more ranks than rows
            with without_rows():
                loss = 0 * self._logits(images.new_zeros(1, *images.shape[1:])).sum()
            logits = loss.new_empty(0, scores.shape[1])
        loss.backward()
        return loss.detach(), logits.detach()

    def _logits(self, images: Tensor) -> Tensor:
        pixels = as_input(images)
        with self._autocast():
            logits: Tensor = self.model(pixels)
        return logits.float()

    def predict(self, images: Tensor) -> Tensor:
        """The released model's probabilities; uint8 [B, C, H, W] -> float32 [B, K] on the CPU."""
        parts = []
        with torch.inference_mode(), self._autocast():
            for part in images.split(rows_at_once(self.facts.shape)):
                logits = self.average(as_input(part.to(self.device)))
                parts.append(logits.float().softmax(1).cpu())
        return torch.cat(parts)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to continue bit for bit."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self._rng.get_state(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._rng.set_state(state["rng"].cpu())
        self.steps = state["steps"]

    def _smoothing(self) -> float:
        """Weight of the cross-entropy to the uniform distribution; 0 from half the steps on."""
        return self.config.smoothing * max(0.0, 1 - 2 * self.steps / max(1, self.steps_total))

    def _schedule(self) -> float:
        """Linear warm-up, then a cosine to zero."""
        done = self.steps / max(1, self.steps_total)
        if done < _WARMUP:
            return (done + 1 / max(1, self.steps_total)) / _WARMUP
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - _WARMUP) / (1 - _WARMUP))))

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.average, (1 + self.steps) / (10 + self.steps))
        mine, others = _floats(self.average), _floats(self.model)
        torch._foreach_lerp_(mine, others, 1 - decay)

    def _settle_buffers(self) -> None:
        mean_buffers([b for b in self.model.buffers() if b.is_floating_point()])
        mean_buffers([b for b in self.average.buffers() if b.is_floating_point()])

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        enabled = self._dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self._dtype, enabled=enabled)


def _floats(model: nn.Module) -> list[Tensor]:
    tensors = [*model.parameters(), *model.buffers()]
    return [t.detach() for t in tensors if t.is_floating_point()]
