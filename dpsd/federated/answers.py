"""A client's answers: charged, stored, then given. A repeated request gets the stored answer.

Nothing in here believes the server. The plan comes from the node's own configuration. Each answer
is charged to the client's ledger before it is given. No image is answered twice.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dpsd.config import Config
from dpsd.errors import BudgetError, UserError
from dpsd.federated.home import Home
from dpsd.federated.messages import Request, digest
from dpsd.files import locked, sync, whole_file
from dpsd.privacy.events import VotesRelease
from dpsd.privacy.ledger import Ledger, charge_labels
from dpsd.privacy.mechanisms.base import Answers
from dpsd.privacy.mechanisms.federated import server_mechanism
from dpsd.privacy.noise import NoiseSource
from dpsd.privacy.oracle import Oracle, Prior
from dpsd.privacy.plan import Plan, home_plan, make_plan
from dpsd.privacy.releases import keep_release, load_release
from dpsd.transcription.entries import about_records


def answer(config: Config, home: Home, request: Request) -> Answers:
    """Answer a request through the client's own oracle, or give the stored answer again.

    Raises:
        BudgetError: the client's budget or its no-image-twice rule does not allow it.
        UserError: another question was answered at this position before.
    """
    plan, name = home_plan(make_plan(config)), digest(request.images)
    with locked(home.ledger_folder):  # clients may share a teacher
        kept = stored(home, request.run, request.position, name)
        if kept is not None:
            return kept
        ledger = Ledger(home.ledger_folder, home.ledger_uuid)
        _check_runs(config, ledger, request.run)
        if home.dataset is not None:
            data = Ledger(*home.dataset)
            data.open_run(*about_records(plan, None, request.run))
        oracle = Oracle(home.teacher, plan, ledger, request.run, seed=_seed(config, home))
        prior = _given(request.prior)
        answers = _cut_off(oracle, home, request, prior)
        if answers is None:
            _begun(home, request.run).write_text(json.dumps(_mark(request, oracle.position)))
            answers = oracle.answer(request.images, prior)
        named = torch.frombuffer(bytearray(name), dtype=torch.uint8)
        keep_release(run_folder(home, request.run), request.position, named, answers)
        _forget(home, request.run, request.position)
        return answers


def _given(prior: Tensor | None) -> Prior | None:
    return None if prior is None else lambda images: prior


def _cut_off(oracle: Oracle, home: Home, request: Request, prior: Prior | None) -> Answers | None:
    """Answers that a stop left charged but not kept, made without a charge; None if there are none.

    A client keeps its answers before it gives them, so nobody has seen other ones. `answer` writes
    the mark beside the ledger before each charge. It drops the mark when the answers are kept,
    before they are given. The mark must name this very request, and its images must be the last
    that were charged. Without the mark nothing is made twice, so losing it is safe.
    """
    charged = oracle.position - len(request)
    if charged < 0 or _read_mark(home, request.run) != _mark(request, charged):
        return None
    return oracle.answer_charged(request.images, charged, prior)


def _begun(home: Home, run: str) -> Path:
    return home.ledger_folder / f"begun-{run_folder(home, run).name}.json"


def _read_mark(home: Home, run: str) -> dict[str, Any] | None:
    try:
        mark: dict[str, Any] = json.loads(_begun(home, run).read_text())
        return mark
    except (OSError, ValueError):  # no mark, or a stop cut off its writing
        return None


def _forget(home: Home, run: str, position: int) -> None:
    """Drop the mark of a request whose answers are kept."""
    if (_read_mark(home, run) or {}).get("position") == position:
        _begun(home, run).unlink(missing_ok=True)
        sync(home.ledger_folder)


def _mark(request: Request, charged: int) -> dict[str, Any]:
    return {"position": request.position, "images": digest(request.images).hex(),
            "charged_before": charged}  # fmt: skip


def stored(home: Home, run: str, position: int, name: bytes) -> Answers | None:
    """The stored answer at a position of a run; None if there is none.

    Args:
        home: the node's.
        run: the run's id.
        position: that of the server's request.
        name: `digest` of the images.

    Raises:
        UserError: the stored answer belongs to other images.
    """
    keep = run_folder(home, run)
    if not (keep / f"{position:012d}.safetensors").exists():
        return None
    asked, answers = load_release(keep, position)
    _forget(home, run, position)
    if bytes(asked.tolist()) != name:
        raise UserError(f"request: other images than before at position {position}")
    return answers


def noisy_labels(config: Config, home: Home, run: str) -> Tensor:
    """The label histogram with noise, int64 [K].

    It is charged once; later calls return the stored one. Unit: one record. L2 sensitivity
    sqrt(2): a replaced record leaves one count and enters another.
    Without a privacy claim (mechanism none) there is no noise.

    Raises:
        BudgetError: the plan has no label histogram, or it was charged and the stored one is gone.
    """
    plan = make_plan(config)
    if config.federated.aggregate != "labels":
        raise BudgetError("federated.aggregate: the plan has no label histogram")
    path = run_folder(home, run) / "labels.safetensors"
    with locked(home.ledger_folder):
        if path.exists():
            return load_file(path)["labels"]
        noisy = home.labels
        if plan.mechanism.event.kind != "open":
            noisy = noisy + _labels_noise(config, home, plan, run)
        with whole_file(path) as partial:
            save_file({"labels": noisy}, partial)
        return noisy


def run_folder(home: Home, run: str) -> Path:
    """The private folder where a client keeps its answers in a run."""
    if not run.replace("-", "").isalnum():
        raise UserError(f"request: run {run!r:.40}; accepted: letters, digits and dashes")
    folder = home.folder / "runs" / run
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _labels_noise(config: Config, home: Home, plan: Plan, run: str) -> Tensor:
    mechanism = server_mechanism(plan.mechanism)
    sigma, seeded = mechanism.labels_sigma, plan.seeded_noise
    assert sigma is not None
    ledger = Ledger(home.ledger_folder, home.ledger_uuid)
    _check_runs(config, ledger, run)
    if not charge_labels(ledger, run, VotesRelease(sigma), seeded=seeded, unit=plan.unit):
        raise BudgetError(
            f"label histogram: run {run} was charged for it, and the stored one is gone; it is not "
            "drawn a second time"
        )
    source = NoiseSource(f"dpsd labels {_seed(config, home)}".encode() if seeded else None)
    return torch.from_numpy(source.discrete_gaussians((mechanism.classes,), sigma))


def _check_runs(config: Config, ledger: Ledger, run: str) -> None:
    """Refuse a run beyond the number that the client takes part in."""
    f = config.federated
    most = f.runs or (1 if f.partition == "own" else None)
    others = {r.run.split()[0] for r in ledger.runs()} - {run}
    if most is not None and len(others) >= most:
        raise BudgetError(f"federated.runs: {len(others)} runs were answered; accepted: {most}")


def _seed(config: Config, home: Home) -> int:
    """The seed of a client's noise where the noise is seeded. Seeded noise is never private."""
    text = f"{config.seed} client {home.clients[0]}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "little")
