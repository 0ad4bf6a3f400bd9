"""How a node answers the server's three kinds of messages. Client side."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
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
from dpsd.privacy.budget import Budget
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.mechanisms.base import Answers
from dpsd.privacy.mechanisms.federated import server_mechanism
from dpsd.privacy.plan import make_plan

_LOG = logging.getLogger("dpsd.federated")
_MADE: dict[bytes, Tensor] = {}
_MAKING = threading.Lock()


class Node:
    """One node's clients behind the messages that it understands.

    Args:
        config: the node's own configuration.
        number: the node's number.
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
        """The node's clients, classes and image shape, and a hash of its public settings."""
        messages.check_fields(content, messages.HELLO, "down")
        facts = self.config.facts
        return messages.reply(
            self.home.clients, {}, classes=facts.classes, shape=list(facts.shape),
            settings=settings(self.config),
        )  # fmt: skip

    def answer(self, content: RecordDict) -> RecordDict:
        """Privatised answers to a round's images, or the public reason why there are none."""
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
        return messages.reply(
            self.home.clients, self._arrays(answers), position=position,
            settings=settings(self.config),
        )  # fmt: skip

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
        """The request; None if its images cannot be made here, or have another digest.

        The server then sends the images themselves.

        Raises:
            UserError: the prior has another shape, or a value outside [0, 1].
        """
        facts, arrays = messages.facts_of(content), messages.arrays_of(content)
        sent = arrays.get("images")
        try:
            images = self._made(content) if sent is None else torch.from_numpy(sent)
        except UserError as e:  # a file of public photographs may not be here
            _LOG.warning("client %s: %s; the images are asked for", self.home.clients[0], e)
            return None
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
        """A request's images, made from its seed. Clients of one process make them once."""
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
                # The server drops images that were asked before; the client must drop the same.
                ledger = Ledger(self.home.ledger_folder, self.home.ledger_uuid)
                found = synthesizer.sample(
                    int(facts["count"]), _Nobody(),
                    Budget(make_plan(self.config), str(facts["run"]), ledger),
                    round=int(facts["round"]),
                )  # fmt: skip
                _MADE.clear()
                _MADE[facts["digest"]] = found
            return found

    def _arrays(self, answers: Answers) -> dict[str, NDArray[Any]]:
        """The arrays that travel: values, and the group where it was drawn at random.

        The server knows the student's prediction, and all else follows from it.
        """
        mechanism, values = server_mechanism(make_plan(self.config).mechanism), answers.values
        if mechanism.sums_votes:
            # The server will add noise to these votes: not even their type may depend on them.
            kind = np.min_scalar_type(mechanism.classes - 1)
            return {"values": np.ascontiguousarray(values.mT.numpy().astype(kind))}
        arrays = {"values": messages.smallest(values.numpy())}
        if mechanism.client.draws_support:
            assert answers.support is not None and answers.size is not None
            arrays["group"] = messages.pack_group(answers.support, answers.size, mechanism.classes)
        return arrays


class _Nobody:
    """Takes the student's place where the student chooses no images."""

    def predict(self, images: Tensor) -> Tensor:
        """Never called: images that a student chooses travel as they are."""
        raise UserError("request: images that a student chose cannot be made from a seed")


def node_number(context: Context) -> int:
    """The number of a node, from 0.

    Raises:
        UserError: the node config does not name it.
    """
    found = context.node_config.get("client", context.node_config.get("partition-id"))
    if found is None:
        raise UserError("node config client: missing; accepted: the client's number, from 0")
    return int(found)


def make_client_app(open_node: Callable[[Context], Node]) -> ClientApp:
    """A ClientApp that opens each of its nodes once, by `open_node`.

    Whatever fails at the client, the server learns only one of `messages.REFUSALS`.
    """
    app, nodes = ClientApp(), dict[int, Node]()

    def handled(what: Callable[[Node, Message], Any]) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            number = node_number(context)
            try:
                if number not in nodes:
                    nodes[number] = open_node(context)
                content = what(nodes[number], message)
            except Exception:
                _LOG.exception("client on node %d", number)
                content = messages.refusal([number], "failed")
            return Message(content, reply_to=message)

        return handle

    app.query("hello")(handled(lambda node, message: node.hello(message.content)))
    app.query("answer")(handled(lambda node, message: node.answer(message.content)))
    app.query("labels")(handled(lambda node, message: node.labels(message.content)))
    return app
