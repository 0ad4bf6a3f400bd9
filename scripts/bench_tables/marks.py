"""Do marks survive in copies? Distillation, then fine-tuning, pruning and distillation again.

A cell measures blocks of clones, each clone under a key of its own, and each change on top of the
one before; beside that, a copy of the untouched first copy. One endpoint has the wave and the
account marks at once, so that a clone tells of both. A block of independent models, which never
asked, has the false claims.
"""

import copy
import hashlib
import json
import math
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench_tables.extraction import Problem, make_problem
from bench_tables.extraction import cells as problems
from bench_tables.jobs import RESULTS, Job, chosen, digest
from dpsd.attacks.extraction.clone import Holdings
from dpsd.attacks.extraction.endpoint import Service
from dpsd.attacks.extraction.probabilities.soft import distillation
from dpsd.attacks.statistics import clopper_pearson
from dpsd.defences import AccountMarks, Cosine, parse_defence
from dpsd.defences.account_marks import is_marked, mark_label
from dpsd.hardening.statistics import mark_p_value
from dpsd.hardening.waves import wave_test
from dpsd.models.augment import augment
from dpsd.models.fit import FitRecipe, fit
from dpsd.models.networks import build_model
from dpsd.runs.release import Labeller

MARKS = RESULTS / "marks"
ALPHA = 1e-6
STEPS = ("distilled", "fine-tuned", "pruned", "distilled again")
TWICE = "distilled twice, no other change"
_SHARED = {
    "problem": "digits-half-none", "clone": "cnn-tiny", "asked": 3_000, "passes": 12,
    "wave": "cosine:amplitude=0.2,frequency=0.8", "account": "account_marks:share=0.02",
    "own": 0.1, "tune_steps": 100, "prune": 0.5, "probes": 3_000, "block": 5,
}  # fmt: skip
CELLS = {
    "digits-copies": _SHARED | {"kind": "copies", "seeds": [*range(2, 7), *range(9, 24)]},
    "digits-independent": _SHARED | {"kind": "independent", "seeds": list(range(4))},
}
"""`own`: share of the attacker's rows that are labelled and fine-tuned on; a seed is a block. The
settings were chosen with the keys of blocks 0 and 1, the test's filter with those of 7 and 8."""
_ACCOUNT = "account-0"  # as the endpoint names the first


def current_hash(cell: dict) -> str:
    """The hash of all that the cell's figures depend on."""
    known = {k: v for k, v in cell.items() if k != "seeds"}
    return digest(json.dumps([known, problems()[cell["problem"]]["victim"]], sort_keys=True))


def jobs(args: Namespace) -> Iterator[Job]:
    """One job for each block of clones or independent models."""
    for name, cell, block in chosen(CELLS, args):
        small = cell | {k: max(64, cell[k] // args.shrink) for k in ("asked", "probes")}
        if args.shrink > 1:
            small |= {"block": 1}
        facts = {"cell": name, "config_hash": current_hash(cell), "seed": block}
        yield Job(MARKS / f"{name}-{block:02}.json", facts,
                  partial(measure, small, block, args.teachers))  # fmt: skip


def measure(cell: dict, block: int, teachers: Path) -> dict[str, Any]:
    """P-values of a block of clones or independent models, and how good they are."""
    problem = make_problem(problems()[cell["problem"]], 0, teachers)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        probes = varied(problem.test.images[:], cell["probes"])
    models = []
    for number in range(cell["block"] * block, cell["block"] * (block + 1)):
        key = hashlib.sha256(f"mark {number}".encode()).digest()[:16]
        make = _copies if cell["kind"] == "copies" else _independent
        for step, asked, model in make(cell, problem, key, number):
            found = {"number": number, "step": step} | _measured(
                cell, problem, model, key, asked, probes
            )
            print(json.dumps(found), flush=True)
            models.append(found)
    steps = {m["step"]: None for m in models}
    return {"models": models, "claims": {s: claims(models, s) for s in steps}}


def claims(models: Sequence[dict], step: str) -> dict[str, Any]:
    """How many models of a step are claimed at `ALPHA`, with a lower 95 % bound of the rate."""
    rows = [m for m in models if m["step"] == step]
    found: dict[str, Any] = {"models": len(rows)}
    for mark in ("wave", "account"):
        hits = sum(m[mark] < ALPHA for m in rows)
        low, _ = clopper_pearson(hits, len(rows), 0.05)
        found[mark] = {"claimed": hits, "at_least": float(low)}
    return found


Made = Iterator[tuple[str, Tensor, nn.Module]]


def _copies(cell: dict, problem: Problem, key: bytes, number: int) -> Made:
    with torch.random.fork_rng():
        torch.manual_seed(number)
        asked = varied(problem.pool, cell["asked"])
    defences = [parse_defence(cell["wave"]), parse_defence(cell["account"])]
    model = _distilled(cell, problem, problem.victim.ask, asked, number, key, defences)
    yield STEPS[0], asked, model
    ask = Labeller(model, torch.device("cpu")).predict
    yield TWICE, asked, _distilled(cell, problem, ask, asked, number + 1_000, key, [])
    assert problem.labels is not None
    own = torch.randperm(len(problem.pool), generator=torch.Generator().manual_seed(number))
    own = own[: math.ceil(cell["own"] * len(own))]
    model = copy.deepcopy(model).requires_grad_(True)
    size = min(32, len(own))
    with torch.random.fork_rng():
        torch.manual_seed(number)
        fit(model, problem.pool[own], problem.labels[own],
            FitRecipe(cell["tune_steps"], size, 1e-3))  # fmt: skip
    yield STEPS[1], asked, model.requires_grad_(False)
    model = pruned(model, cell["prune"])
    yield STEPS[2], asked, model
    ask = Labeller(model, torch.device("cpu")).predict
    yield STEPS[3], asked, _distilled(cell, problem, ask, asked, number + 1_000, key, [])


def _independent(cell: dict, problem: Problem, key: bytes, number: int) -> Made:
    """A model of the attacker's rows with their own labels; it never asked."""
    assert problem.labels is not None
    with torch.random.fork_rng():
        torch.manual_seed(number)
        asked = varied(problem.pool, cell["asked"])
        model = build_model(cell["clone"], problem.victim.facts.shape, problem.victim.facts.classes)
        steps = cell["passes"] * math.ceil(cell["asked"] / 64)
        fit(model, problem.pool, problem.labels, FitRecipe(steps, 64, 5e-3))
    yield "independent", asked, model.requires_grad_(False)


def _distilled(
    cell: dict, problem: Problem, ask: Callable[[Tensor], Tensor], asked: Tensor, seed: int,
    key: bytes, defences: Sequence[Any],
) -> nn.Module:  # fmt: skip
    holdings = Holdings(asked, (len(asked),), cell["clone"], seed=seed, passes=cell["passes"])
    service = Service(ask, problem.victim.facts, budget=len(asked), defences=defences, key=key)
    with service as api:
        return [*distillation(api, holdings)][-1].model


def pruned(model: nn.Module, share: float) -> nn.Module:
    """A copy whose smallest weights, over all layers together, are 0; biases and norms stay."""
    thin = copy.deepcopy(model)
    layers = [m.weight for m in thin.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    sizes = torch.cat([w.detach().abs().flatten() for w in layers])
    limit = sizes.kthvalue(max(1, round(share * len(sizes)))).values
    with torch.no_grad():
        for weight in layers:
            weight[weight.abs() <= limit] = 0
    return thin


def _measured(
    cell: dict, problem: Problem, model: nn.Module, key: bytes, asked: Tensor, probes: Tensor
) -> dict[str, Any]:
    """The p-values, and accuracy and agreement on test rows."""
    ask, owner = Labeller(model, torch.device("cpu")).predict, problem.victim.ask
    wave, account = parse_defence(cell["wave"]), parse_defence(cell["account"])
    assert isinstance(wave, Cosine) and isinstance(account, AccountMarks)
    waved = wave_test(ask(probes), owner(probes), probes, key, wave.frequency, keys=200)
    marked = asked[is_marked(asked, key, _ACCOUNT, account.share)]
    named, said = owner(marked).argmax(1), ask(marked).argmax(1)
    classes = problem.victim.facts.classes
    repeated = int((said == mark_label(marked, key, _ACCOUNT, named, classes)).sum())
    differs = int((said != named).sum())
    right, truth = ask(problem.test.images[:]).argmax(1), problem.test.labels
    return {
        "wave": waved.p_value, "correlation": waved.correlation,
        "account": mark_p_value(repeated, differs, classes),
        "marked": len(marked), "differs": differs, "repeated": repeated,
        "accuracy": float((right == truth).double().mean()),
        "agreement": float((right == owner(problem.test.images[:]).argmax(1)).double().mean()),
    }  # fmt: skip


def varied(images: Tensor, n: int) -> Tensor:
    """So many images, each one of these moved a little."""
    return augment(images[torch.randint(len(images), (n,))], "affine")
