"""The oracle of a federated run: `answer` goes over Flower's grid to every client. Server side."""

import time
from dataclasses import replace
from typing import Any

import torch
from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dpsd.config import Config, quorum
from dpsd.errors import UserError
from dpsd.federated import messages
from dpsd.federated.messages import Request
from dpsd.federated.roster import Roster
from dpsd.federated.rounds import Collected, collect
from dpsd.federated.table import Table, federation_facts
from dpsd.federated.validate import read_answers, read_labels, read_votes
from dpsd.files import whole_file
from dpsd.generator.synthesizer import Synthesizer
from dpsd.imports import brief
from dpsd.privacy.events import VotesRelease
from dpsd.privacy.ledger import charge_labels, image_hashes
from dpsd.privacy.mechanisms.base import Answers, Mechanism
from dpsd.privacy.mechanisms.federated import server_mechanism
from dpsd.privacy.noise import NoiseSource
from dpsd.privacy.oracle import Oracle, Prior
from dpsd.privacy.plan import Plan
from dpsd.privacy.releases import keep_release
from dpsd.runs.folder import Run
from dpsd.transcription.entries import ledger_of


class FederatedOracle(Oracle):
    """An oracle without a teacher: clients answer, the server combines.

    With unit answer or record each client's own oracle charges its own ledger. The server's ledger
    repeats the charge for the statement. With unit client the server's ledger is the one that
    counts.

    The server writes a request down before it sends it, and drops it when its release is kept. A
    server that was stopped in between sends the same request again. The clients then give their
    stored answers.

    Args:
        grid: Flower's.
        config: of the run.
        plan: of the run.
        run: its folder.
        synthesizer: of the run; None sends every image as it is.
    """

    def __init__(
        self, grid: Grid, config: Config, plan: Plan, run: Run, synthesizer: Synthesizer | None
    ) -> None:
        super().__init__(_nobody, plan, ledger_of(run), run.id, run.started, run.bank, config.seed)
        self._grid, self._config, self._folder = grid, config, run
        self.synthesizer = synthesizer
        self.seconds = {"clients": 0.0, "prior": 0.0, "teacher": 0.0, "oracle": 0.0}
        self.table = Table(run)
        self._roster = Roster(grid, config)
        self._labels: dict[int, Tensor] = {}
        self._unlabelled: dict[int, str] = {}  # nodes without a label histogram, and why
        self._mechanism = server_mechanism(plan.mechanism)
        self._pending = self._read_pending()

    @property
    def position(self) -> int:
        """Answers charged so far, with those of an uncharged pending request: it is asked again."""
        charged = self._budget.position
        again = self._pending is not None and self._pending.position == charged
        return charged + (len(self._pending) if again and self._pending is not None else 0)

    def answer(self, images: Tensor, prior: Prior | None = None) -> Answers:
        """Ask every client, charge, combine the answers, keep and return them.

        Raises:
            BudgetError: the cap on answers or on asks of one image would be exceeded.
            UserError: wrong shape or type, or fewer clients than the quorum answered. Nothing was
                released then, and a resumed run asks the same again.
        """
        self._budget.admit(images)
        believed = self._believe(images, prior)
        request = self._request(
            images, None if believed is None else messages.as_travelled(believed)
        )
        self._write_pending(request)
        return self._finish(request)

    def recall(self, position: int) -> tuple[Tensor, Answers] | None:
        """Kept answers. Answers that a stop interrupted are asked for again."""
        kept = super().recall(position)
        if kept is None and self._pending is not None and self._pending.position == position:
            return self._pending.images, self._finish(self._pending)
        return kept

    def federation(self) -> dict[str, Any]:
        """What the statement says of the clients."""
        return federation_facts(self._folder, self._plan)

    def _request(self, images: Tensor, prior: Tensor | None) -> Request:
        g, made = self._config.generator, self.synthesizer
        from_seed = g.kind != "images" and g.select == 1 and made is not None
        weights: dict[str, Tensor] = {}
        if made is not None and made.adversarial is not None:
            weights = {k: w.clone() for k, w in made.adversarial.model.state_dict().items()}
        return Request(
            run=self._run, position=self.position, images=images, prior=prior, weights=weights,
            round=self.position // self._plan.queries_per_round,
            seed=self._config.seed if from_seed else None,
        )  # fmt: skip

    def _finish(self, request: Request) -> Answers:
        start = time.perf_counter()
        self._roster.meet()
        labels = self._all_labels()
        client = self._mechanism.client
        frame, agreed = _frame(client, request), messages.settings(self._config)

        def read(node: int, content: RecordDict) -> Any:
            clients = self._roster.clients[node]
            said = messages.facts_of(content)
            if said.get("position") != request.position:
                raise UserError("answered another question, late")
            if said.get("settings") != agreed:  # it may have come back with others
                self._roster.forget(node)
                raise UserError("answered under other settings than the server's")
            if self._mechanism.sums_votes:
                return read_votes(content, client, len(clients), len(request))
            return read_answers(content, client, len(request), frame)

        collected = self._ask_everybody(request, read)
        self.table.add(request, self._roster, collected, self._down, self._unlabelled)
        self._check_quorum(request, collected)
        self.seconds["clients"] += time.perf_counter() - start
        if self._budget.position == request.position:
            self._budget.charge(image_hashes(request.images))
        answers = self._combine(request, collected, labels)
        assert self._keep is not None
        keep_release(self._keep, request.position, request.images, answers)
        self._pending_path.unlink(missing_ok=True)
        self._pending = None
        self.seconds["oracle"] += time.perf_counter() - start
        return answers

    def _ask_everybody(self, request: Request, read: Any) -> Collected[Any]:
        """Ask every node. A node whose images from the seed differ gets the images themselves."""
        f = self._config.federated
        prior = request.prior if self._mechanism.client.uses_prior else None
        request = replace(request, prior=prior)
        content = messages.encode_request(request)
        self._down = {node: messages.size_of(content) for node in self._roster.clients}
        collected = collect(
            self._grid, dict.fromkeys(self._roster.clients, content), messages.ANSWER,
            deadline=f.deadline_s, read=read,
        )  # fmt: skip
        others = [n for n, why in collected.failures.items() if why == "refused: images"]
        if others and request.seed is not None:
            content = messages.encode_request(request, raw=True)
            again = collect(
                self._grid, dict.fromkeys(others, content), messages.ANSWER,
                deadline=f.deadline_s, read=read,
            )  # fmt: skip
            for node in others:
                self._down[node] += messages.size_of(content)
                del collected.failures[node]
                collected.up[node] = collected.up.get(node, 0) + again.up.get(node, 0)
                collected.seconds[node] += again.seconds.get(node, f.deadline_s)
            collected.found.update(again.found)
            collected.failures.update(again.failures)
            collected.twice.extend(again.twice)
        return collected

    def _check_quorum(self, request: Request, collected: Collected[Any]) -> None:
        f, answered = self._config.federated, self._roster.count(collected.found)
        if answered >= quorum(self._config):
            return
        why = [f"{self._roster.name(n)}: {w}" for n, w in sorted(collected.failures.items())]
        missing = self._roster.missing()
        if missing:
            met = ", ".join(sorted(set(self._roster.problems.values()))) or "no node"
            why.append(f"client {', '.join(map(str, missing[:10]))}: never met ({met})")
        raise UserError(
            f"federated.quorum: {answered} of {f.clients} clients answered in round "
            f"{request.round} ({'; '.join(why[:10])}); accepted: from {quorum(self._config)}; "
            "fix them and go on with --resume; where one is lost for good, lower the quorum"
        )

    def _combine(
        self, request: Request, collected: Collected[Answers], labels: dict[int, Tensor]
    ) -> Answers:
        nodes = sorted(collected.found, key=lambda n: self._roster.clients[n])
        replies = [collected.found[n] for n in nodes]
        known = torch.stack([labels[n] for n in nodes]) if labels else None
        noise = NoiseSource(self._noise_seed(request.position))
        return self._mechanism.combine(replies, known, request.prior, noise)

    def _all_labels(self) -> dict[int, Tensor]:
        """Each node's released label histogram, asked once a run; aggregate `labels` alone."""
        if self._mechanism.aggregate != "labels":
            return {}
        new = [n for n in self._roster.clients if n not in self._labels]
        if new:
            content = RecordDict({messages.FACTS: ConfigRecord({"run": self._run})})
            sigma, classes = self._mechanism.labels_sigma, self._mechanism.classes
            if sigma is not None:
                charge_labels(self._ledger, self._run, VotesRelease(sigma),
                              seeded=self._plan.seeded_noise, unit=self._plan.unit)  # fmt: skip
            came = collect(
                self._grid, dict.fromkeys(new, content), messages.LABELS,
                deadline=self._config.federated.deadline_s,
                read=lambda node, c: torch.from_numpy(read_labels(c, classes, sigma)),
            )  # fmt: skip
            self._labels |= came.found
            for node, why in came.failures.items():
                self._unlabelled[node] = f"no label histogram: {why}"
                self._labels[node] = torch.zeros(self._mechanism.classes, dtype=torch.int64)
        return self._labels

    @property
    def _pending_path(self) -> Any:
        return self._folder.private / "pending.safetensors"

    def _write_pending(self, request: Request) -> None:
        self._pending = request
        tensors = {"images": request.images} | {f"w.{k}": w for k, w in request.weights.items()}
        if request.prior is not None:
            tensors["prior"] = request.prior
        seed = "" if request.seed is None else str(request.seed)
        facts = {"position": str(request.position), "round": str(request.round), "seed": seed}
        with whole_file(self._pending_path) as partial:
            save_file({k: v.contiguous() for k, v in tensors.items()}, partial, facts)

    def _read_pending(self) -> Request | None:
        if not self._pending_path.exists():
            return None
        try:
            with safe_open(self._pending_path, "pt") as f:
                facts = f.metadata()
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
        except Exception as e:
            raise UserError(f"{self._pending_path}: damaged ({brief(e)}); restore it") from e
        weights = {k[2:]: w for k, w in tensors.items() if k.startswith("w.")}
        seed = int(facts["seed"]) if facts["seed"] else None
        return Request(
            self._run, int(facts["position"]), int(facts["round"]), tensors["images"],
            tensors.get("prior"), weights, seed,
        )  # fmt: skip


def _nobody(images: Tensor) -> Tensor:
    raise UserError("oracle: the server of a federation holds no teacher")


def _frame(mechanism: Mechanism, request: Request) -> Answers | None:
    """The public part of every client's answers to a request: support, size and prior."""
    if request.prior is None or not mechanism.uses_prior:
        return None
    nothing = mechanism.read(torch.zeros((len(request), mechanism.classes)))
    return mechanism.release(nothing, request.prior, NoiseSource(b"the frame is public"))
