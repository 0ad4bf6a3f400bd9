"""Recompute the guarantee of a release from its own facts, and check its files."""

import json
import math
from pathlib import Path
from typing import Any

from dpsd.errors import UserError
from dpsd.privacy.statement import file_hashes, guarantee
from dpsd.privacy.statement_text import statement_text
from dpsd.privacy.units import UNITS

_TOLERANCE = 1e-6


def verify_release(release: Path) -> dict[str, Any]:
    """Recompute the guarantee of a release folder from its facts and check the file hashes.

    Returns:
        The statement's facts.

    Raises:
        UserError: the statement is unreadable, a figure does not follow from the facts, the text
            does not say them, or a file was changed, removed or added.
    """
    path = release / "statement.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
        files, claimed = dict(facts["files"]), dict(facts["guarantee"])
        text = (release / "statement.txt").read_text()
        recomputed = guarantee(facts)
        expected, problems = statement_text(facts), _contradictions(facts)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as e:
        raise UserError(f"{path}: no readable statement: {e}") from e
    for name in recomputed | claimed:
        said, value = claimed.get(name), recomputed.get(name)
        if name not in recomputed or not _same(said, value):
            raise UserError(f"{path}: {name} says {said}, the facts give {value}")
    for problem in problems:
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
    """Where one part of the facts contradicts another."""
    release, mechanism, training = facts["release"], facts["mechanism"], facts["training"] or {}
    expected: dict[str, Any] = {
        "gaussian": {"sensitivity": release.get("sensitivity"), "sigma": release.get("sigma")},
        "randomized_response": {"epsilon_per_ask": release.get("epsilon")},
        "noisy_votes": {
            "sigma": release.get("sigma"),
            "labels_sigma": (facts.get("labels") or {}).get("sigma"),
        },
    }.get(mechanism["mechanism"], {})
    found = [
        f"mechanism.{key} says {mechanism.get(key)}, the release {value}"
        for key, value in expected.items()
        if not _same(mechanism.get(key), value)
    ]
    found += [
        f"training.{key} says {training.get(key)}, the release {release.get(key)}"
        for key in ("noise_multiplier", "sample_rate", "steps")
        if facts["route"] == "inherited" and not _same(training.get(key), release.get(key))
    ]
    if facts["route"] == "inherited" and training.get("teacher_uuid") != facts["teacher"]:
        found.append(f"training is of teacher {training.get('teacher_uuid')}")
    found += [
        f"earlier run {r['run']} names {'no' * (r.get('teacher') is None) or 'a'} trained teacher, "
        f"its release is {r['release']['kind']}"
        for r in facts["earlier_runs"]
        if (r.get("teacher") is not None) != (r["release"]["kind"] == "dp_sgd")
    ]
    kind, route = release["kind"], facts["route"]
    units = UNITS.get((route if kind in ("votes", "dp_sgd") else "single", kind), ())
    if facts["unit"] not in units or (facts["scope"] == "total") != (kind in ("votes", "dp_sgd")):
        found.append(f"unit {facts['unit']} is not what {kind} releases of route {route} can give")
    if kind == "votes" and release["cells"] != 2:
        found.append(f"a histogram differs in two counts, not in {release['cells']}")
    labels = facts.get("labels")
    if labels is not None and (labels.get("cells") != 2 or facts["unit"] != "record"):
        found.append("a label histogram is about records, and differs in two counts")
    open_or_seeded = facts["seeded_noise"] or facts["guarantee"]["epsilon"] is None
    if facts["private"] == open_or_seeded:
        found.append(f"private says {facts['private']}, but the facts say otherwise")
    if facts["answers_made"] > facts["answers_cap"]:
        found.append(f"{facts['answers_made']} answers exceed the cap {facts['answers_cap']}")
    return found


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(a == b)
