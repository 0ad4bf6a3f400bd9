"""`dpsd audit RUN`: lower bounds on epsilon at three levels, each beside its ceiling and the claim.

1. The mechanism alone: one image, two teachers as far apart as the sensitivity allows. Unit: answer
   (for votes: record or user, one histogram).
2. The transcript of answers in two worlds, teachers known. Unit: record.
3. One run with canaries, through teacher and student. Unit: record.

Two steps: `score_levels` gives scores, `audit_report` turns saved scores into a report.
"""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dpsd.attacks.audit.canaries import canary_run
from dpsd.attacks.audit.mechanism import audit_mechanism
from dpsd.attacks.audit.pairs import Pair, retrainable, teacher_pairs
from dpsd.attacks.audit.report import audit_report
from dpsd.attacks.audit.transcripts import draw_transcripts, exact_epsilon, merged
from dpsd.attacks.context import Attack, lap
from dpsd.attacks.statistics import Floats
from dpsd.attacks.store import Arrays, load_scores, save_report, save_scores
from dpsd.console import track
from dpsd.data.load import load_data
from dpsd.errors import UserError
from dpsd.privacy.accounting import compose_epsilon
from dpsd.privacy.events import event_facts, total_mu
from dpsd.privacy.inherited import read_dp_ledger
from dpsd.privacy.mechanisms.base import Mechanism
from dpsd.privacy.mechanisms.pair_loss import PairLoss
from dpsd.privacy.plan import Plan, inherit, make_plan
from dpsd.privacy.releases import load_release
from dpsd.runs.folder import Run

BudgetName = Literal["fast", "standard", "full"]
NAME = "audit"


@dataclass(frozen=True)
class AuditBudget:
    """What an audit may spend.

    Attributes:
        draws: of the mechanism, in each world.
        pairs: of teachers.
        questions: of the run's transcript that are put to each pair, the newest.
        trials: transcripts in each world.
        slots: canaries of the one run.
        answers: of the one run at most; None: as many as the run.
    """

    draws: int
    pairs: int
    questions: int
    trials: int
    slots: int
    answers: int | None


BUDGETS = {
    "fast": AuditBudget(20_000, 2, 10_000, 2_000, 100, 8_000),
    "standard": AuditBudget(100_000, 5, 50_000, 10_000, 200, 50_000),
    "full": AuditBudget(400_000, 5, 200_000, 10_000, 400, None),
}


def audit(context: Attack) -> dict[str, Any]:
    """Audit a finished run; writes `private/attacks/audit/{scores.npz,report.json}`.

    Args:
        context: its seed is that of rows, coins and trials; the mechanism's own draws are fresh
            noise.

    Returns:
        The report.

    Raises:
        UserError: an unknown budget, an unfinished run, another teacher, missing data or scores.
    """
    folder = context.folder(NAME)
    if not context.analyse_only:
        save_scores(folder, *score_levels(context, folder))
    report = audit_report(*load_scores(folder))
    save_report(folder, report)
    return report


def score_levels(context: Attack, folder: Path) -> tuple[Arrays, dict[str, Any]]:
    """The scores of all three levels, and the facts that a report needs. Errors as in `audit`."""
    spend = context.spend(BUDGETS)
    context.run.report()  # refuses unfinished runs
    config = context.config
    _, home = context.find_teacher()
    plan = make_plan(config)
    if plan.route == "inherited" and home is not None:
        plan = inherit(plan, read_dp_ledger(home.path, home.uuid))
    facts: dict[str, Any] = {
        "budget": context.budget_name, "spend": asdict(spend), "seed": context.seed,
        "run": context.run.id, "claim": claim(plan), "skipped": {}, "seconds": {},
    }  # fmt: skip
    arrays: Arrays = {}

    start = time.perf_counter()
    if plan.mechanism.event.kind == "open":
        facts["skipped"]["mechanism"] = (
            "the answers are open; the noise is in the teacher's training"
            if plan.route == "inherited"
            else "the answers are open: not private, nothing is claimed"
        )
    else:
        context.say(f"mechanism: {spend.draws:,} draws in each of two worlds")
        arrays["mechanism0"], arrays["mechanism1"] = mechanism_scores(plan, spend.draws)
    start = lap(facts, "mechanism", start)

    reason = "there are no data to train on" if config.data.name == "none" else None
    reason = reason or (
        "the clients' teachers stay at their homes" if home is None else retrainable(home)
    )
    private = load_data(config.data) if config.data.name != "none" else None
    if reason is None and private is not None and home is not None:
        facts["pairs"] = []
        pairs = teacher_pairs(context, home, private, pairs=spend.pairs, folder=folder / "teachers")
        for i, pair in enumerate(track(pairs, "audit: pairs of worlds", spend.pairs)):
            scores, pair_facts = _pair_scores(context, plan, pair, spend, i)
            arrays |= scores
            facts["pairs"].append(pair_facts)
    else:
        facts["skipped"]["transcript"] = reason
    start = lap(facts, "transcript", start)

    if private is None or home is None or home.kind == "own":
        facts["skipped"]["one_run"] = reason
    else:
        canaries, one_run = canary_run(
            context, home, private, slots=spend.slots, answers=spend.answers,
            folder=folder / f"one-run-{spend.answers or 'all'}",
        )  # fmt: skip
        arrays |= {f"canary_{name}": values for name, values in canaries.items()}
        # Pre-registered: half of the slots are guessed, those with the largest |score|.
        facts["one_run"] = one_run | {"guesses": one_run["slots"] // 2}
    lap(facts, "one_run", start)
    return arrays, facts


def claim(plan: Plan) -> dict[str, Any]:
    """What the run claims: for one image's answers, and for one record where it does."""
    per_ask = plan.asks_per_image if plan.scope == "per_answer" else 1
    releases = [(plan.mechanism.event, per_ask)]
    gaussian = plan.mechanism.event.kind == "gaussian"
    record = plan.epsilon if plan.scope == "total" else None
    return {
        "route": plan.route,
        "unit": plan.unit,
        "relation": plan.relation,
        "delta": plan.delta,
        "release": event_facts(plan.mechanism.event),
        "asks": per_ask,
        "mechanism_epsilon": _finite(compose_epsilon(releases, plan.delta)),
        "mechanism_mu": total_mu(releases) if gaussian else None,
        "record_epsilon": None if record is None else _finite(record),
        "record_claimed": record is not None,
        "seeded_noise": plan.seeded_noise,
    }


def mechanism_scores(plan: Plan, draws: int) -> tuple[Floats, Floats]:
    """Floats of one image's answers in two worlds, float64 [draws] each; fresh noise."""
    asks = plan.asks_per_image if plan.scope == "per_answer" else 1
    mechanism = plan.mechanism.privatiser
    world0, world1, prior = farthest_worlds(mechanism)
    scores = audit_mechanism(mechanism, world0, world1, prior, draws=draws * asks)
    scores0, scores1 = (s.reshape(draws, asks).sum(1) for s in (scores.world0, scores.world1))
    return scores0.round(9), scores1.round(9)


def farthest_worlds(mechanism: Mechanism) -> tuple[Tensor, Tensor, Tensor | None]:
    """Two teachers whose answers are as far apart as the sensitivity allows, and a prior."""
    k = mechanism.classes
    # The first two classes lead, so that both are inside of every support.
    prior = torch.full((k,), 1e-6).index_fill_(0, torch.tensor([0, 1]), 0.5 - 1e-6 * (k - 2) / 2)
    return *mechanism.farthest_worlds(), prior if mechanism.uses_prior else None


def _pair_scores(
    context: Attack, plan: Plan, pair: Pair, spend: AuditBudget, i: int
) -> tuple[Arrays, dict[str, Any]]:
    """Scores of transcripts in the pair's two worlds, and the facts of the pair."""
    loss = merged(_transcript_losses(context.run, plan.mechanism, pair, spend))
    exact = exact_epsilon(loss, plan.delta)
    world0, world1 = draw_transcripts(loss, spend.trials, context.seed * 1000 + i)
    return {f"pair{i}_0": world0, f"pair{i}_1": world1}, {
        "row": pair.row, "kind": pair.kind, "answers": loss.answers,
        "differing": loss.differing, "exact_epsilon": _finite(exact),
    }  # fmt: skip


def _transcript_losses(
    run: Run, mechanism: Mechanism, pair: Pair, spend: AuditBudget
) -> list[PairLoss]:
    """The pair's loss on the newest kept questions, one part a kept release."""
    files = sorted((int(p.stem) for p in run.bank.glob("*.safetensors")), reverse=True)
    if not files:
        raise UserError(f"{run.bank}: no kept answers, so there is no transcript to audit")
    parts, seen = [], 0
    for position in files:
        if seen >= spend.questions:
            break
        images, asked = load_release(run.bank, position)
        parts.append(mechanism.pair_loss(asked, pair.world0(images), pair.world1(images)))
        seen += len(asked)
    return parts


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
