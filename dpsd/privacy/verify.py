"""Check a release: its files, its plan, its figures, its sentences, its signature, its ledger.

Everything that follows from the released configuration is rebuilt by this code and compared. What
follows from nothing in the release (which runs came before, how many answers were made) is compared
with the ledger where one is given.
"""

import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpsd.config import load_config
from dpsd.config.sections import ONE_LINE
from dpsd.errors import UserError
from dpsd.privacy.chain import Chain, Head
from dpsd.privacy.inherited import DpTraining
from dpsd.privacy.ledger import HASH_BYTES, allowances_of, runs_of
from dpsd.privacy.noisy_accuracy import accuracy_interval
from dpsd.privacy.plan import inherit, make_plan
from dpsd.privacy.record import labels_run, record_from_facts
from dpsd.privacy.signature import check_signature
from dpsd.privacy.statement import (
    MADE_KEYS,
    SCHEMA_VERSION,
    by_day,
    file_hashes,
    guarantee,
    plan_facts,
)
from dpsd.privacy.statement_text import statement_text
from dpsd.privacy.units import TEST_RECORD

_TOLERANCE = 1e-6  # relative: what two versions of a library may differ by
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
               RecursionError, MemoryError)  # fmt: skip
_MOST_ROWS = 10**8
_DAY = re.compile(r"\d{4}-\d\d-\d\d|")
_ENDS = (*MADE_KEYS, "guarantee", "files")
_ACCURACY = {"split", "rows", "epsilon", "noisy_hits", "low", "high", "confidence", "unit",
             "total_epsilon", "run", "ledger"}  # fmt: skip


def verify_release(
    release: Path, *, key: Path | None = None, ledger: Path | None = None
) -> dict[str, Any]:
    """Check a release folder.

    Args:
        release: the folder.
        key: a file with the public key that must have signed; None: any key.
        ledger: the ledger that the run was charged to, or its folder; None: not compared.

    Returns:
        The statement's facts.

    Raises:
        UserError: the statement is unreadable or does not follow from the configuration, a figure
            does not follow from the facts, a text does not say them, a file was changed, removed
            or added, the signature does not fit, or the ledger holds something else.
    """
    path = release / "statement.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text(), object_pairs_hook=_once_each)
        version, files = facts.get("schema_version"), dict(facts["files"])
    except _UNREADABLE as e:
        raise UserError(f"{path}: no readable statement: {e}") from e
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version {version}; accepted by this version of dpsd: {SCHEMA_VERSION}"
        )
    _check_files(release, files)
    check_signature(release, key)
    try:
        _check_plan(release, facts)
        _check_made(facts)
        _check_figures(facts)
        _check_texts(release, facts)
        if ledger is not None:
            _check_ledger(facts, ledger)
    except _Problem as e:
        raise UserError(f"{path}: {e}") from e
    except _UNREADABLE as e:
        raise UserError(f"{path}: no readable statement: {e}") from e
    return facts


def what_was_checked(
    facts: dict[str, Any], fingerprint: str, *, key: Path | None, ledger: Path | None
) -> list[str]:
    """In words: what `verify_release` has checked, and what nothing in a release can show."""
    lines = [
        f"checked: {len(facts['files'])} files have the stated hashes",
        "checked: mechanism, sensitivity, noise, unit, relation, cap, deltas and every fixed "
        "sentence follow from config.yaml by this version's own code",
        "checked: every epsilon, with its unit, was computed anew from these",
        f"checked: statement.json is signed by key {fingerprint}"
        + (f", which is the key in {key}" if key is not None else ""),
    ]
    if ledger is not None:
        lines.append(
            f"checked: the ledger {ledger} holds line {facts['ledger']['entries']} as the "
            "statement names it, and the run, its answers and the runs before it as stated"
        )
    lines += [
        "not checked: that the code was run as stated, on the teacher and the data that are named",
        "not checked: dates, owner, retention, the share of near-duplicates, the number of other "
        "runs on the data set",
    ]
    if any(a["ledger"] != facts["ledger"]["owner"] or ledger is None
           for a in facts.get("accuracy", [])):  # fmt: skip
        lines.append(
            "not checked: that the accuracy on test rows is in the data set's ledger; see "
            "`dpsd ledger`"
        )
    if key is None:
        lines.append("not checked: whose key it is; name the owner's public key with --key")
    if ledger is None:
        lines.append(
            "not checked: how many answers were made and which runs came before; compare with "
            "--ledger"
            + (", as the training by DP-SGD, too" if facts["route"] == "inherited" else "")
        )
    else:
        lines.append(
            "not checked: a ledger that was restored whole from a backup; only a release or a run "
            "that was made after the backup shows it"
        )
    return lines


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that stands twice would say one thing here and another elsewhere."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError(f"a key stands twice in {{{', '.join(k for k, _ in pairs)[:60]}}}")
    return dict(pairs)


class _Problem(Exception):
    """Why a statement is refused."""


def _check_files(release: Path, files: dict[str, str]) -> None:
    found = file_hashes(release)
    for name in sorted(files.keys() | found.keys()):
        if files.get(name) != found.get(name):
            state = "changed" if name in files and name in found else (
                "missing" if name in files else "not in the statement"
            )  # fmt: skip
            raise UserError(f"{release / name}: {state}")


def _check_plan(release: Path, facts: dict[str, Any]) -> None:
    """Every field that follows from the configuration says what it gives."""
    config = load_config(release / "config.yaml")
    plan = make_plan(config)
    if plan.route == "inherited":
        if facts["training"] is None:
            raise _Problem("training: null with route inherited")
        plan = inherit(plan, DpTraining(**facts["training"]))
        if facts["training"]["teacher_uuid"] != facts["teacher"]:
            raise _Problem(f"training is of teacher {facts['training']['teacher_uuid']}")
    versions = facts["versions"]
    if versions.keys() != {"dpsd", "dp-accounting"} or not all(
        isinstance(v, str) and v.replace(".", "").replace("+", "").isalnum()
        for v in versions.values()
    ):
        raise _Problem(f"versions: {versions}; accepted: of dpsd and dp-accounting")
    expected = plan_facts(config, plan, versions)
    if "federation" in expected:
        told = facts["federation"]
        expected["federation"] |= {k: told[k] for k in ("fewest", "answered")}
    for name, value in expected.items():
        if not _same(facts.get(name), value):
            raise _Problem(f"{name} says {_brief(facts.get(name))}, config.yaml {_brief(value)}")
    unknown = facts.keys() - expected.keys() - {*_ENDS, "accuracy"}
    if unknown:
        raise _Problem(f"{min(unknown)}: no fact of a statement")


def _check_made(facts: dict[str, Any]) -> None:
    """What was done is possible by the plan."""
    _check_plain(facts)
    for key in ("started", "finished"):
        if not _DAY.fullmatch(facts[key]):
            raise _Problem(f"{key} says {_brief(facts[key])}; accepted: a day, YYYY-MM-DD")
    if facts["unit"] in ("answer", "none", "client") and (
        facts["teacher"] != facts["ledger"]["owner"]
    ):
        raise _Problem(f"teacher {facts['teacher']} is not the ledger's {facts['ledger']['owner']}")
    if type(facts["other_runs"]) is not int or facts["other_runs"] < 0:
        raise _Problem(f"other_runs says {_brief(facts['other_runs'])}; accepted: from 0")
    if not 0 <= facts["answers_made"] <= facts["answers_cap"]:
        raise _Problem(f"{facts['answers_made']} answers exceed the cap {facts['answers_cap']}")
    for r in facts["earlier_runs"]:
        record = record_from_facts(r)
        if record.facts() != r:
            raise _Problem(f"earlier run {record.run}: fields that no ledger holds")
        if (record.teacher is not None) != (record.event.kind == "dp_sgd"):
            raise _Problem(f"earlier run {record.run} names a teacher and no training, or the like")
        if record.run in (facts["run"], labels_run(facts["run"])) or record.unit == TEST_RECORD:
            raise _Problem(f"earlier run {record.run}: none of the runs that compose")
    for a in facts.get("accuracy", []):
        if not 0 < a["rows"] <= _MOST_ROWS:
            raise _Problem(f"accuracy: {a['rows']} rows; accepted: up to {_MOST_ROWS:,}")
        low, high = accuracy_interval(a["noisy_hits"], a["rows"], a["epsilon"], a["confidence"])
        if a.keys() != _ACCURACY or not _same([a["low"], a["high"]], [low, high]):
            raise _Problem(f"accuracy says {a.get('low')} to {a.get('high')}, not {low} to {high}")
        listed = sum(x["epsilon"] for x in facts["accuracy"])
        if a["unit"] != TEST_RECORD or a["total_epsilon"] < listed * (1 - _TOLERANCE):
            raise _Problem(f"accuracy: epsilon {a['total_epsilon']} for one {a['unit']} in all")
    answered = facts.get("federation", {}).get("answered", {})
    for name, gave in answered.items():
        if not 0 <= gave["answers"] <= gave["clients"] * facts["answers_cap"]:
            raise _Problem(f"{name} gave {gave['answers']} answers; the cap is for each client")


def _check_plain(value: Any) -> None:
    """No text holds a line break or another control character: it would write lines of its own."""
    if isinstance(value, dict):
        for k, v in value.items():
            _check_plain(k)
            _check_plain(v)
    elif isinstance(value, list):
        for v in value:
            _check_plain(v)
    elif isinstance(value, str) and not re.fullmatch(ONE_LINE, value):
        raise _Problem(f"{_brief(value)}: accepted are texts of one line")


def _check_figures(facts: dict[str, Any]) -> None:
    claimed, recomputed = dict(facts["guarantee"]), guarantee(facts)
    for name in recomputed | claimed:
        said, value = claimed.get(name), recomputed.get(name)
        if name not in recomputed or not _same(said, value):
            raise _Problem(f"{name} says {_brief(said)}, the facts give {_brief(value)}")
    void = facts["seeded_noise"] or facts["guarantee"]["epsilon"] is None
    if facts["private"] == void:
        raise _Problem(f"private says {facts['private']}, but the facts say otherwise")


def _check_texts(release: Path, facts: dict[str, Any]) -> None:
    expected = statement_text(facts)
    if (release / "statement.txt").read_text() != expected:
        raise _Problem("statement.txt does not say what statement.json says")
    if expected not in (release / "README.md").read_text():
        raise _Problem("README.md does not hold the text of statement.txt")


def _check_ledger(facts: dict[str, Any], path: Path) -> None:
    """The ledger holds what the statement says, up to the head that it names."""
    chain = Chain(path / "ledger.jsonl" if path.is_dir() else path)
    chain.read()
    if chain.head_path.exists():
        chain.check_head()
    stated = facts["ledger"]
    owner = chain.entries[0].get("teacher") if chain.entries else None
    if owner != stated["owner"]:
        whose = "teacher's" if stated["owner"] == facts["teacher"] else "data set's"
        raise _Problem(
            f"ledger.owner says {stated['owner']}, {chain.path} belongs to {owner}; accepted: the "
            f"{whose} ledger, which `dpsd ledger RUN` and `dpsd key RUN` name"
        )
    head = Head(stated["entries"], stated["checksum"])
    if head.entries < 1 or not chain.holds(head):
        raise _Problem(
            f"ledger.checksum names line {head.entries} as no line of {chain.path} is: the ledger "
            "was cut, restored from before, or is another"
        )
    entries = chain.entries[: head.entries]
    runs, run = runs_of(entries), facts["run"]
    mine = next((r for r in runs if r.run == run), None)
    if mine is None:
        raise _Problem(f"run {run} is not in {chain.path}")
    training = facts["training"]
    said = {
        "event": facts["release"], "cap": facts["answers_cap"], "unit": facts["unit"],
        "asks_per_image": facts["asks_per_image"], "answers": facts["answers_made"],
        "seeded_noise": facts["seeded_noise"], "route": facts["route"],
        "mechanism": facts["mechanism"]["mechanism"], "started": facts["started"],
        "teacher": None if training is None else training["teacher_uuid"],
        "grouping": facts["grouping"], "asked": facts["teacher"],
    }  # fmt: skip
    for name, value in said.items():
        held = by_day(mine)[name]
        if name == "asked" and not held:
            continue  # of an older version
        if not _same(held, value):
            raise _Problem(f"{name} says {_brief(value)}, {chain.path} {_brief(held)}")
    beside = (run, labels_run(run))
    earlier = [by_day(r) for r in runs if r.run not in beside and r.unit != TEST_RECORD]
    if facts["earlier_runs"] != earlier:
        raise _Problem(
            f"earlier_runs has {len(facts['earlier_runs'])} runs, and {chain.path} "
            f"{len(earlier)}, or other ones"
        )
    if facts["budgets"] != [asdict(a) for a in allowances_of(entries)]:
        raise _Problem(f"budgets says something else than {chain.path}")
    _check_accuracies(facts, chain)
    hashes = chain.path.with_suffix(".hashes")
    spoken = max((e["hashes_offset"] + e["n"] * HASH_BYTES for e in chain.entries
                  if e["kind"] == "answers"), default=0)  # fmt: skip
    if hashes.exists() and hashes.stat().st_size < spoken:
        raise _Problem(f"{hashes} is shorter than the ledger says")


def _check_accuracies(facts: dict[str, Any], chain: Chain) -> None:
    """Accuracies that were charged to this ledger are in it, before or after the statement."""
    held = {r.run: r for r in runs_of(chain.entries)}
    for a in facts.get("accuracy", []):
        if a["ledger"] != chain.entries[0].get("teacher"):
            continue  # the data set's; this is the teacher's
        record = held.get(a["run"])
        if record is None or record.unit != TEST_RECORD or not record.answers:
            raise _Problem(f"accuracy {a['run']} is not in {chain.path}")
        if record.facts()["event"] != {"kind": "pure", "epsilon": a["epsilon"]}:
            raise _Problem(f"accuracy {a['run']} has another epsilon in {chain.path}")


def _same(a: Any, b: Any) -> bool:
    """Whether two plain values agree; numbers, up to what two versions may differ by."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    if numbers and not (isinstance(a, bool) or isinstance(b, bool)):
        return math.isclose(a, b, rel_tol=_TOLERANCE)
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
