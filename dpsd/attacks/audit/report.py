"""From the scores of an audit to its figures: bounds and verdicts."""

from typing import Any

from dpsd.attacks.audit.bounds import ALPHA, Bound, two_world_bounds
from dpsd.attacks.audit.one_run import one_run_bound
from dpsd.attacks.store import Arrays

SCHEMA_VERSION = 1


def audit_report(arrays: Arrays, facts: dict[str, Any]) -> dict[str, Any]:
    """Bounds and verdicts of all levels, from saved scores.

    Args:
        arrays: `mechanism0/1`, `pair{i}_0/1`, `canary_{coins,teacher,student}`; levels that were
            skipped are missing.
        facts: as `dpsd.attacks.audit.attack.score_levels` gives them.
    """
    claim, levels = facts["claim"], dict[str, Any]()
    alpha = ALPHA / max(1, _claims(arrays, facts))
    bounds: dict[str, list[Bound]] = {"mechanism": [], "record": []}
    if "mechanism0" in arrays:
        bounds["mechanism"] = _mechanism(arrays, claim, alpha)
        levels["mechanism"] = [b.facts() for b in bounds["mechanism"]]
    pairs, shared = [], ALPHA if claim["record_epsilon"] is None else alpha
    for i, pair in enumerate(facts.get("pairs", [])):
        one = _pair(arrays, claim, i, len(facts["pairs"]), shared)
        pairs.append(pair | {"bound": one.facts()})
        bounds["record"].append(one)
    if pairs:
        levels["transcript"] = {"pairs": pairs} | _record(pairs, claim, shared)
    if "canary_coins" in arrays:
        one_run = _one_run(arrays, facts, alpha)
        levels["one_run"] = facts["one_run"] | {"bounds": [b.facts() for b in one_run]}
        bounds["record"] += one_run
    verdicts = {name: _verdict(tested) for name, tested in bounds.items() if tested}
    return {
        "schema_version": SCHEMA_VERSION,
        "attack": "audit",
        "run": facts["run"],
        "budget": facts["budget"],
        "spend": facts["spend"],
        "seed": facts["seed"],
        "claim": claim,
        "levels": levels,
        "skipped": facts["skipped"],
        "verdicts": verdicts,
        "verdict": _overall(list(verdicts.values())),
        "seconds": facts["seconds"],
        "lines": [b.text() for tested in bounds.values() for b in tested],
    }


def _claims(arrays: Arrays, facts: dict[str, Any]) -> int:
    """Number of tested claims. They share ALPHA, the probability of any false "violated"."""
    claim = facts["claim"]
    forms = [claim["mechanism_epsilon"], claim["mechanism_mu"]] if "mechanism0" in arrays else []
    record = [claim["record_epsilon"]]
    pairs = record if facts.get("pairs") else []
    tested = 2 if claim["route"] == "inherited" else 1
    models = record * tested if "canary_coins" in arrays else []
    return sum(claimed is not None for claimed in [*forms, *pairs, *models])


def _mechanism(arrays: Arrays, claim: dict[str, Any], alpha: float) -> list[Bound]:
    unit = claim["unit"] if claim["record_claimed"] else "answer"
    asks = f", {claim['asks']} asks of one image" if claim["asks"] > 1 else ""
    if claim["record_claimed"]:
        unit += ", one histogram"
    return two_world_bounds(
        arrays["mechanism0"], arrays["mechanism1"], unit=unit + asks, delta=claim["delta"],
        claimed=claim["mechanism_epsilon"], claimed_mu=claim["mechanism_mu"], alpha=alpha,
    )  # fmt: skip


def _pair(arrays: Arrays, claim: dict[str, Any], i: int, pairs: int, alpha: float) -> Bound:
    """All pairs together err with probability at most alpha, so that the largest may be quoted."""
    return two_world_bounds(
        arrays[f"pair{i}_0"], arrays[f"pair{i}_1"], unit="record", delta=claim["delta"],
        claimed=claim["record_epsilon"], alpha=alpha / pairs, method="transcripts, ",
    )[0]  # fmt: skip


def _record(pairs: list[dict[str, Any]], claim: dict[str, Any], alpha: float) -> dict[str, Any]:
    """The bound of all pairs together on one record's epsilon, at confidence 1 - alpha."""
    value = max(p["bound"]["value"] for p in pairs)
    ceiling = pairs[0]["bound"]["ceiling"]
    verdicts = {p["bound"]["verdict"] for p in pairs}
    order = ("violated", "no power", "consistent", "not claimed")
    verdict = next(v for v in order if v in verdicts)
    least = f", at least {value:.4g}" if verdict == "not claimed" else ""
    confidence = f"{100 * (1 - alpha):.3g} %"
    text = (
        f"eps per record over {len(pairs)} pairs: at least {value:.4g} at {confidence} confidence, "
        f"ceiling {ceiling:.4g}, delta {claim['delta']:g}: {verdict}{least}"
    )
    return {"at_least": value, "ceiling": ceiling, "verdict": verdict, "text": text}


def _one_run(arrays: Arrays, facts: dict[str, Any], alpha: float) -> list[Bound]:
    claim, guesses = facts["claim"], facts["one_run"]["guesses"]
    # A teacher is not released. Only one that was trained with DP has a claim of its own.
    record = claim["record_epsilon"]
    claimed = {"student": record, "teacher": record if claim["route"] == "inherited" else None}
    return [
        one_run_bound(
            arrays[f"canary_{model}"], arrays["canary_coins"], guesses, unit="record",
            delta=claim["delta"], of=model, claimed=claimed[model],
            alpha=ALPHA if claimed[model] is None else alpha,
        )
        for model in ("teacher", "student")
    ]  # fmt: skip


def _verdict(bounds: list[Bound]) -> str:
    """The verdict on one claim: one bound that could have refuted it and did not is enough."""
    verdicts = {b.verdict for b in bounds}
    order = ("violated", "consistent", "no power")
    return next((v for v in order if v in verdicts), "not claimed")


def _overall(verdicts: list[str]) -> str:
    """`consistent` only where each claim was put to a test that could have refuted it."""
    claimed = {v for v in verdicts if v != "not claimed"}
    order = ("violated", "no power", "consistent")
    return next((v for v in order if v in claimed), "nothing claimed")
