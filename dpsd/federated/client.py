"""How a node answers the server's three kinds of messages. Client side."""

import logging
import threading
from typing import Any

import numpy as np
import torch
from flwr.app import RecordDict
from numpy.typing import NDArray
from torch import Tensor

from dpsd.config import Config
from dpsd.console import Say
from dpsd.device import use_threads
from dpsd.errors import BudgetError, UserError
from dpsd.federated import messages
from dpsd.federated.answers import answer, noisy_labels, stored
from dpsd.federated.home import Home, open_home
from dpsd.federated.messages import Request, settings
from dpsd.generator.synthesizer import Synthesizer
from dpsd.privacy.budget import Asked
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.mechanisms.base import Answers
from dpsd.privacy.mechanisms.group_response import GroupResponse
from dpsd.privacy.mechanisms.votes import NoisyVotes
from dpsd.privacy.oracle import Oracle
from dpsd.privacy.plan import make_plan

_LOG = logging.getLogger("dpsd.federated")
_MADE: dict[bytes, Tensor] = {}
_MAKING = threading.Lock()


class Node:
    """One node's clients behind the messages that it understands.

    Args:
        config: the node's own.
        number: of the node.
        say: receives progress.
        home: its private side, if it is open already.
    """

    def __init__(
        self, config: Config, number: int, say: Say = _LOG.info, home: Home | None = None
    ) -> None:
        use_threads(config.threads)
        self.config = config
        self.home = home or open_home(config, number, say)

    def hello(self, content: RecordDict) -> RecordDict:
        """Who answers here, and under which public settings."""
        messages.check_fields(content, messages.HELLO, "down")
        facts = self.config.facts
        return messages.reply(
            self.home.clients, {}, classes=facts.classes, shape=list(facts.shape),
            settings=settings(self.config),
        )  # fmt: skip

    def answer(self, content: RecordDict) -> RecordDict:
        """Privatised answers to a round's images, or a public word for why there are none."""
        facts = messages.facts_of(content)
        position = int(facts.get("position", 0))
        try:
            messages.check_fields(content, messages.ANSWER, "down")
            answers = stored(self.home, str(facts["run"]), position, facts["digest"])
            if answers is None:
                request = self._request(content)
                if request is None:
                    return messages.refusal(self.home.clients, "images", position=position)
                answers = answer(self.config, self.home, request)
        except BudgetError as e:
            _LOG.warning("client %s: %s", self.home.clients[0], e)
            return messages.refusal(self.home.clients, "budget", position=position)
        except UserError as e:
            _LOG.warning("client %s: %s", self.home.clients[0], e)
            return messages.refusal(self.home.clients, "request", position=position)
        return messages.reply(self.home.clients, self._arrays(answers), position=position)

    def labels(self, content: RecordDict) -> RecordDict:
        """The label histogram with noise, where the plan has one."""
        messages.check_fields(content, messages.LABELS, "down")
        try:
            run = str(messages.facts_of(content)["run"])
            noisy = noisy_labels(self.config, self.home, run)
        except BudgetError as e:
            _LOG.warning("client %s: %s", self.home.clients[0], e)
            return messages.refusal(self.home.clients, "budget")
        return messages.reply(self.home.clients, {"labels": noisy.numpy()})

    def _request(self, content: RecordDict) -> Request | None:
        """The request with its images, or None where they cannot be made here as they were there.

        Raises:
            UserError: images of another shape or number than was said.
        """
        facts, arrays = messages.facts_of(content), messages.arrays_of(content)
        sent = arrays.get("images")
        images = self._made(content) if sent is None else torch.from_numpy(sent)
        if messages.digest(images) != facts["digest"]:
            return None
        prior, wanted = messages.decode_prior(content), self.config.facts.classes
        if prior is not None and (
            prior.shape != (len(images), wanted) or not bool(((prior >= 0) & (prior <= 1)).all())
        ):
            raise UserError(
                f"request: a prior {list(prior.shape)}; accepted: probabilities "
                f"[{len(images)}, {wanted}]"
            )
        return Request(
            run=str(facts["run"]), position=int(facts["position"]), round=int(facts["round"]),
            images=images, prior=prior,
        )  # fmt: skip

    def _made(self, content: RecordDict) -> Tensor:
        """Images from a seed; clients of one process make them once."""
        facts = messages.facts_of(content)
        with _MAKING:
            found = _MADE.get(facts["digest"])
            if found is None:
                config = self.config.model_copy(update={"seed": int(facts["seed"])})
                synthesizer = Synthesizer(config, config.facts, torch.device("cpu"))
                weights = messages.arrays_of(content, messages.WEIGHTS)
                if synthesizer.adversarial is not None:
                    state = {k: torch.from_numpy(w) for k, w in weights.items()}
                    synthesizer.adversarial.model.load_state_dict(state)
                found = synthesizer.sample(
                    int(facts["count"]), _Nobody(),
                    _Unasked(self.config, self.home, str(facts["run"])),
                    round=int(facts["round"]),
                )  # fmt: skip
                _MADE.clear()
                _MADE[facts["digest"]] = found
            return found

    def _arrays(self, answers: Answers) -> dict[str, NDArray[Any]]:
        """What travels of the answers: values, and the group where it was drawn at random.

        All else follows from the student's prediction, which the server knows.
        """
        mechanism, values = make_plan(self.config).mechanism, answers.values
        if isinstance(mechanism, NoisyVotes):
            # Votes that the server will add noise to: not even their type may depend on them.
            kind = np.min_scalar_type(mechanism.classes - 1)
            return {"values": np.ascontiguousarray(values.mT.numpy().astype(kind))}
        arrays = {"values": messages.smallest(values.numpy())}
        if isinstance(getattr(mechanism, "inner", mechanism), GroupResponse):
            assert answers.support is not None and answers.size is not None
            arrays["group"] = messages.pack_group(answers.support, answers.size, mechanism.classes)
        return arrays


class _Unasked:
    """Which images a client has not answered in a run: what the server drops is dropped here."""

    def __init__(self, config: Config, home: Home, run: str) -> None:
        self._plan, self._asked = make_plan(config), Asked()
        self._asked.add(Ledger(home.ledger_folder, home.ledger_uuid).hashes(run))

    fresh = Oracle.fresh


class _Nobody:
    """Stands for the student where no image is chosen by it."""

    def predict(self, images: Tensor) -> Tensor:
        """Never called: images that a student chooses travel as they are."""
        raise UserError("request: images that a student chose cannot be made from a seed")
