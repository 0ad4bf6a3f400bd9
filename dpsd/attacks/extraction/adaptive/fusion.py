"""Several endpoints as one: a clone of all of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dpsd.attacks.extraction.endpoint import BudgetSpent, Endpoint
from dpsd.errors import UserError


class Fused(Endpoint):
    """Models of one problem behind one line; each image is asked of one of them, by turns.

    Any attack takes it in place of an endpoint, and so learns one clone of all models. Its budget
    is the sum of theirs as long as all are asked evenly.

    Example:
        clones = distillation(Fused([one, other]), holdings)
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        """Join endpoints.

        Args:
            endpoints: at least one, of the same shape and classes. Where one gives labels, all do.

        Raises:
            UserError: none, or models of different problems.
        """
        facts = {(e.shape, e.classes) for e in endpoints}
        if len(facts) != 1:
            given = "; ".join(f"{list(shape)}, {k} classes" for shape, k in sorted(facts)) or "none"
            raise UserError(f"endpoints: {given}; accepted: from 1, of one shape and classes")
        self._endpoints, self._turn = tuple(endpoints), 0
        self.shape, self.classes = endpoints[0].shape, endpoints[0].classes
        hidden = any(e.gives == "labels" for e in endpoints)
        self.gives = "labels" if hidden else "probabilities"
        self.accounts = min(e.accounts for e in endpoints)
        self.left = sum(e.left for e in endpoints)

    def ask(self, images: Tensor, account: int = 0) -> Tensor:
        """As `Endpoint.ask`; every budget is checked before the first image is asked."""
        under = (self._turn + torch.arange(len(images))) % len(self._endpoints)
        for number, endpoint in enumerate(self._endpoints):
            share = int((under == number).sum())
            if share > endpoint.left:
                text = f"budget: {share:,} images asked of model {number}, {endpoint.left:,} left"
                raise BudgetSpent(text)
        answers = torch.zeros(len(images), self.classes)
        for number, endpoint in enumerate(self._endpoints):
            said = endpoint.ask(images[under == number], account)
            if self.gives == "labels":
                said = torch.nn.functional.one_hot(said.argmax(1), self.classes).float()
            answers[under == number] = said
        self._turn = (self._turn + len(images)) % len(self._endpoints)
        self.left = sum(e.left for e in self._endpoints)
        return answers
