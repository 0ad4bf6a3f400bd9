"""What is guaranteed, for which unit and relation, and what is not: facts, text, verification."""

import hashlib
import json
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dpsd.errors import UserError
from dpsd.privacy import accounting
from dpsd.privacy.ledger import RunRecord, event_facts, event_from_facts
from dpsd.privacy.plan import Plan

SCHEMA_VERSION = 1
_TOLERANCE = 1e-6

COVERED = (
    "the student's weights, the generator's weights, every image sampled and every label given by "
    "them, the public metrics and pictures: all post-processing of the answers and public facts"
)
NOT_COVERED = (
    "hyper-parameters chosen on private data; side channels (time, memory, power); floating-point "
    "attacks on releases that are floats; figures measured on private data; the teacher itself"
)
TRUST = (
    "whoever runs the transcription holds the teacher and is trusted; readers of release/ are not"
)


def statement_facts(
    plan: Plan, run: str, teacher: str, runs: Sequence[RunRecord], public: dict[str, Any]
) -> dict[str, Any]:
    """All that is needed to recompute the guarantee, as plain values.

    Args:
        plan: of this run.
        run: this run's id.
        teacher: the teacher's UUID.
        runs: all runs in the teacher's ledger, this one included.
        public: what was declared public (shape, classes, source of images).

    Raises:
        UserError: the run is not in the ledger; nothing is claimed that the ledger does not hold.
    """
    mine = [r for r in runs if r.run == run]
    if not mine:
        raise UserError(f"ledger: holds no run {run}, so nothing can be claimed for it")
    record, earlier = mine[0], runs[: runs.index(mine[0])]
    facts: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run": run,
        "teacher": teacher,
        "released": "student, generator, synthetic data and public logs",
        "private": plan.private,
        "unit": plan.unit,
        "relation": plan.relation,
        "scope": "per_answer",
        "release": event_facts(record.event),
        "mechanism": plan.mechanism.facts(),
        "asks_per_image": record.asks_per_image,
        "answers_cap": record.cap,
        "answers_made": record.answers,
        "seeded_noise": record.seeded_noise,
        "delta": plan.delta,
        "deltas": plan.deltas(),
        "earlier_runs": [_run_facts(r) for r in earlier],
        "accountant": f"dpsd {version('dpsd')}: exact Gaussian and optimal pure-epsilon formulas",
        "declared_public": public,
        "trust": TRUST,
        "covered": COVERED,
        "not_covered": NOT_COVERED,
    }
    return facts | {"guarantee": guarantee(facts)}


def guarantee(facts: dict[str, Any]) -> dict[str, Any]:
    """The figures that follow from the facts; infinite ones are None.

    Returns:
        `epsilon` per answer at the stated delta; `epsilon_at` and `worst_case_epsilon_at`, one a
        delta; `composed_epsilon` per answer with all earlier runs on the teacher, which holds
        whatever images the runs chose; `mu` of mu-GDP or None.
    """
    release = event_from_facts(facts["release"])
    once = [(release, int(facts["asks_per_image"]))]
    everything = [(release, int(facts["answers_cap"]))]
    others = [(event_from_facts(r["release"]), r) for r in facts["earlier_runs"]]
    composed = once + [(event, int(r["asks_per_image"])) for event, r in others]
    composed_all = everything + [(event, int(r["answers_cap"])) for event, r in others]
    delta = float(facts["delta"])

    def at(releases: list[tuple[accounting.Release, int]]) -> list[float | None]:
        return [_finite(accounting.compose_epsilon(releases, float(d))) for d in facts["deltas"]]

    return {
        "epsilon": _finite(accounting.compose_epsilon(once, delta)),
        "epsilon_at": at(once),
        "mu": accounting.total_mu(once) or None,
        "worst_case_epsilon": _finite(accounting.compose_epsilon(everything, delta)),
        "worst_case_epsilon_at": at(everything),
        "composed_epsilon": _finite(accounting.compose_epsilon(composed, delta)),
        "composed_worst_case_epsilon": _finite(accounting.compose_epsilon(composed_all, delta)),
    }


def statement_text(facts: dict[str, Any]) -> str:
    """The statement in words, in the order that an expert reads it."""
    g, m = facts["guarantee"], facts["mechanism"]
    per = "per answer"
    lines = []
    if not facts["private"]:
        why = (
            "the noise was seeded and can be predicted"
            if facts["seeded_noise"]
            else "nothing was privatised, so epsilon is infinite for every unit"
        )
        lines += [f"NOT PRIVATE: {why}.", ""]
    if facts["seeded_noise"] and g["epsilon"] is not None:
        lines += ["The figures below are what fresh noise would have given.", ""]
    lines += [
        f"Released: {facts['released']}.",
        f"Unit of privacy: one {facts['unit']}; neighbouring worlds: {facts['relation']}."
        if facts["unit"] != "none"
        else "Unit of privacy: none.",
        f"Mechanism: {m['mechanism']}{_detail(m)}; noise: {m['noise']}.",
        f"Sensitivity: {_sensitivity(m)} ({m['derivation']}).",
        f"Answers: at most {facts['answers_cap']:,} by the plan, {facts['answers_made']:,} made; "
        f"an image is asked at most {facts['asks_per_image']} time(s).",
    ]
    for d, e, w in zip(facts["deltas"], g["epsilon_at"], g["worst_case_epsilon_at"], strict=True):
        lines.append(
            f"At delta {d:.3g}: epsilon {_show(e)} {per}; "
            f"epsilon {_show(w)} for one record, user or client in the worst case "
            f"(all {facts['answers_cap']:,} answers change together)."
        )
    if g["mu"] is not None:
        lines.append(f"Gaussian DP: mu {g['mu']:.6g} {per}.")
    elif facts["release"]["kind"] == "pure":
        pure = facts["release"]["epsilon"] * facts["asks_per_image"]
        lines.append(f"Pure epsilon: {_show(pure)} {per}, at delta 0.")
    lines.append(
        "The epsilon per answer does not protect a record: one changed training record may change "
        "every answer of a single teacher. For records read the worst case."
    )
    lines.append(f"Accountant: {facts['accountant']}.")
    if facts["earlier_runs"]:
        lines.append(
            f"Earlier runs on the same teacher: {len(facts['earlier_runs'])}. An image that all of "
            f"them asked has epsilon {_show(g['composed_epsilon'])} per answer at delta "
            f"{facts['delta']:.3g}; all answers of all runs together: epsilon "
            f"{_show(g['composed_worst_case_epsilon'])} for one record in the worst case."
        )
    else:
        lines.append("Earlier runs on the same teacher: none in its ledger.")
    lines += [
        f"Trust: {facts['trust']}.",
        f"Declared public: {json.dumps(facts['declared_public'])}.",
        f"Covered: {facts['covered']}.",
        f"Not covered: {facts['not_covered']}.",
    ]
    return "\n".join(lines) + "\n"


def verify_release(release: Path) -> dict[str, Any]:
    """Recompute the guarantee of a release folder from its facts and check the file hashes.

    Returns:
        The statement's facts.

    Raises:
        UserError: unreadable, a figure that does not follow from the facts, a text that does not
            say them, or a file that was changed, removed or added.
    """
    path = release / "statement.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
        files, claimed = dict(facts["files"]), dict(facts["guarantee"])
        text = (release / "statement.txt").read_text()
        recomputed = guarantee(facts)
        expected = statement_text(facts)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as e:
        raise UserError(f"{path}: no readable statement: {e}") from e
    for name in recomputed | claimed:
        said, value = claimed.get(name), recomputed.get(name)
        if name not in recomputed or not _same(said, value):
            raise UserError(f"{path}: {name} says {said}, the facts give {value}")
    for problem in _contradictions(facts):
        raise UserError(f"{path}: {problem}")
    if text != expected:
        raise UserError(f"{release / 'statement.txt'}: does not say what statement.json says")
    found = file_hashes(release)
    for name in sorted(files.keys() | found.keys()):
        if files.get(name) != found.get(name):
            state = "changed" if name in files and name in found else (
                "missing" if name in files else "not in the statement"
            )  # fmt: skip
            raise UserError(f"{release / name}: {state}")
    return facts


def _contradictions(facts: dict[str, Any]) -> list[str]:
    """What one part of the facts says against another."""
    release, mechanism = facts["release"], facts["mechanism"]
    expected = {
        "gaussian": {"sensitivity": release.get("sensitivity"), "sigma": release.get("sigma")},
        "randomized_response": {"epsilon_per_ask": release.get("epsilon")},
    }.get(mechanism["mechanism"], {})
    found = [
        f"mechanism.{key} says {mechanism.get(key)}, the release {value}"
        for key, value in expected.items()
        if not _same(mechanism.get(key), value)
    ]
    if facts["unit"] != ("none" if release["kind"] == "open" else "answer"):
        found.append(f"unit {facts['unit']} is not what one teacher's answers can give")
    open_or_seeded = facts["seeded_noise"] or facts["guarantee"]["epsilon"] is None
    if facts["private"] == open_or_seeded:
        found.append(f"private says {facts['private']}, but the facts say otherwise")
    if facts["answers_made"] > facts["answers_cap"]:
        found.append(f"{facts['answers_made']} answers exceed the cap {facts['answers_cap']}")
    return found


def file_hashes(release: Path) -> dict[str, str]:
    """SHA-256 of every released file but statement.json itself."""
    return {
        str(p.relative_to(release)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(release.rglob("*"))
        if p.is_file() and p != release / "statement.json"
    }


def _run_facts(r: RunRecord) -> dict[str, Any]:
    return {"run": r.run, "release": event_facts(r.event), "answers_cap": r.cap,
            "answers_made": r.answers, "asks_per_image": r.asks_per_image,
            "seeded_noise": r.seeded_noise, "started": r.started}  # fmt: skip


def _detail(m: dict[str, Any]) -> str:
    if m["mechanism"] == "gaussian":
        return f" on the teacher's {m['vector']}, {m['bound']} to {m['bound_norm']}"
    return f", {m['kind']}" if "kind" in m else ""


def _sensitivity(m: dict[str, Any]) -> str:
    return "by probabilities" if m["sensitivity"] is None else f"L2 {m['sensitivity']:.6g}"


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _show(x: float | None) -> str:
    return "infinite" if x is None else f"{x:,.6g}" if x < 1e6 else f"{x:,.0f}"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(a == b)
