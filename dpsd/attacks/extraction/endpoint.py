"""The one way in which an attack reaches a model: a metered line to whoever answers.

The victim lives in a thread of its own behind a pipe. An `Endpoint` holds its end of the pipe and
public facts, so that nothing that an attack holds leads to the victim. Images are counted, never
calls, and they are counted where the attack cannot write.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Thread
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpsd.config import PublicFacts
from dpsd.defences.defence import Defence, answered, in_order
from dpsd.errors import UserError
from dpsd.imports import brief
from dpsd.models.frozen import Shape

Ask = Callable[[Tensor], Tensor]
"""uint8 images [B, C, H, W] -> probabilities float32 [B, K]."""
_MOST_AT_ONCE = 512


class BudgetSpent(UserError):
    """More images than are left of the budget. None of them was answered."""


class VictimFailed(UserError):
    """The victim raised an error, or its answer is not finite numbers [B, K].

    An attack cannot be judged by it, so that the run ends and keeps nothing of the cell.
    """


class Endpoint:
    """What an attack holds of the model that it copies.

    Attributes:
        shape: channels, height, width of the images that it takes.
        classes: K.
        gives: `probabilities`, or `labels` where an answer names one class alone.
        accounts: in whose names questions may be asked; they share one budget.
        left: images that may still be asked.

    Example:
        >>> facts = PublicFacts(shape=(1, 8, 8), classes=2, class_names=("cat", "dog"))
        >>> with Service(lambda x: torch.full((len(x), 2), 0.5), facts, budget=5) as endpoint:
        ...     answers = endpoint.ask(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
        >>> answers.shape, endpoint.left
        (torch.Size([3, 2]), 2)
    """

    def __init__(
        self, line: Connection, shape: Shape, classes: int, gives: str, accounts: int, budget: int
    ) -> None:
        self._line = line
        self.shape, self.classes, self.gives = shape, classes, gives
        self.accounts, self.left = accounts, budget

    def ask(self, images: Tensor, account: int = 0) -> Tensor:
        """The model's answers to images; each counts once for each time that it is asked.

        Args:
            images: uint8 [B, C, H, W].
            account: 0 .. accounts - 1.

        Returns:
            float32 [B, K]; probabilities, or 1 for the named class where `gives` is labels.

        Raises:
            BudgetSpent: more images than are left; nothing was asked.
            VictimFailed: the model raised an error, or its answer is not finite numbers [B, K].
            UserError: other images than the model takes.
        """
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.shape:
            given = f"{images.dtype} {list(images.shape)}"
            raise UserError(
                f"images: {given}; accepted: uint8 [B, {', '.join(map(str, self.shape))}]"
            )
        if not 0 <= account < self.accounts:
            raise UserError(f"account: {account}; accepted: 0 to {self.accounts - 1}")
        self._line.send((account, images.contiguous().numpy()))
        answers, self.left, refusal = self._line.recv()
        if refusal is not None:
            raise refusal
        return torch.from_numpy(answers)


class Service:
    """Answers an attack's questions, and counts them; a context manager that gives the `Endpoint`.

    Attributes:
        asked: images that reached the victim, of all accounts.
        by_account: the same for each account.

    Example:
        with Service(victim.ask, victim.facts, budget=1_000, defences=[Labels()], key=key) as api:
            clone = distil(api, holdings)
    """

    def __init__(
        self,
        victim: Ask,
        facts: PublicFacts,
        *,
        budget: int,
        defences: Sequence[Defence] = (),
        key: bytes = bytes(16),
        accounts: int = 1,
        labels_only: bool = False,
    ) -> None:
        """Nothing is asked yet.

        Args:
            victim: the model.
            facts: its shape and classes.
            budget: images, all accounts together.
            defences: that are on.
            key: of the defences.
            accounts: how many names the attacker has.
            labels_only: the victim itself gives classes alone.

        Raises:
            UserError: a budget or a number of accounts below 1.
        """
        for name, value in (("budget", budget), ("accounts", accounts)):
            if value < 1:
                raise UserError(f"{name}: {value}; accepted: from 1")
        self._victim, self._facts, self._defences, self._key = victim, facts, defences, key
        in_order(defences)
        self._budget, self._accounts = budget, accounts
        self._labels_only = labels_only or any(d.hides_probabilities for d in defences)
        self.by_account: Counter[int] = Counter()

    @property
    def asked(self) -> int:
        """Images that reached the victim."""
        return self.by_account.total()

    def __enter__(self) -> Endpoint:
        mine, theirs = Pipe()
        self._thread = Thread(target=self._answer, args=(mine,), daemon=True)
        self._thread.start()
        self._line = theirs
        shape, classes = self._facts.shape, self._facts.classes
        gives = "labels" if self._labels_only else "probabilities"
        return Endpoint(theirs, shape, classes, gives, self._accounts, self._budget)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._line.close()
        self._thread.join()

    def _answer(self, line: Connection) -> None:
        with line:
            while True:
                try:
                    account, pixels = line.recv()
                except EOFError:
                    return
                left = self._budget - self.asked
                if len(pixels) > left:
                    text = f"budget: {len(pixels):,} images asked, {left:,} left"
                    line.send((None, left, BudgetSpent(text)))
                    continue
                self.by_account[account] += len(pixels)
                answers, refusal = None, None
                try:
                    answers = self._answers(torch.from_numpy(pixels), f"account-{account}")
                except UserError as e:
                    refusal = VictimFailed(str(e))
                except Exception as e:  # an attack must not wait for a thread that has ended
                    refusal = VictimFailed(f"the model raised {brief(e)}")
                line.send((answers, self._budget - self.asked, refusal))

    def _answers(self, images: Tensor, account: str) -> NDArray[np.float32]:
        classes, parts = self._facts.classes, []
        with torch.inference_mode():
            for part in images.split(_MOST_AT_ONCE):
                said = self._victim(part).double()
                if said.shape != (len(part), classes) or not bool(said.isfinite().all()):
                    raise UserError(
                        f"the model answered {list(said.shape)}; accepted: finite [B, {classes}]"
                    )
                parts.append(answered(said, part, self._defences, self._key, account))
        answers = torch.cat(parts) if parts else torch.zeros(0, classes)
        return answers.float().numpy()
