"""The last section: which commands, versions and hashes lead to this run again."""

from typing import Any

import yaml

from dpsd.errors import UserError
from dpsd.files import read_json
from dpsd.privacy.signature import check_signature
from dpsd.report.parts import Command, Facts, Heading, Part, Section, Text
from dpsd.report.source import Source


def reproduce_section(source: Source) -> Section:
    """Commands, versions, settings, hashes; all of it is released."""
    facts, env = source.facts, _environment(source)
    verb = "federate" if facts["route"] == "federated" else "transcribe"
    key = _key(source)
    seeded = facts["seeded_noise"]
    parts: list[Part] = [
        Command(
            "Commands",
            f"dpsd {verb} config.yaml --out RUN   # release/config.yaml, with your own data and "
            "teacher\ndpsd evaluate RUN\ndpsd verify RUN/release\ndpsd report RUN"
        ),
        Text("The noise was seeded: the same command gives the same run." if seeded else
             "The noise is fresh in each run: the same command gives another student of the same "
             "guarantee.", "note"),
        Heading("Versions and machine"),
        Facts([*_versions(env), ("Accountant", str(facts["accountant"]))]),
        Heading("Identity"),
        Facts([
            ("Run", str(facts["run"])), ("Teacher", str(facts["teacher"])),
            ("Data set", str(facts["dataset"] or "not named")),
            ("Begun, ended", f"{facts['started'] or '-'}, {facts['finished'] or '-'}"),
            ("Ledger", f"{facts['ledger']['owner']}, line {facts['ledger']['entries']:,}, checksum "
             f"{facts['ledger']['checksum']}"),
            ("Signed by key", key),
        ]),
        Heading("Settings"),
        Command("Settings of the run", yaml.safe_dump(source.config(), sort_keys=False).rstrip()),
        Heading("Files"),
        Text("SHA-256 of every released file, as the signed statement names them.", "note"),
        Facts(sorted(facts.get("files", {}).items())),
    ]  # fmt: skip
    return Section("reproduce", "How to reproduce", False, parts)


def _environment(source: Source) -> dict[str, Any]:
    path = source.release / "env.json"
    return read_json(path) if path.is_file() else {}


def _versions(env: dict[str, Any]) -> list[tuple[str, str]]:
    if not env:
        return [("Versions", "env.json is missing")]
    packages = ", ".join(f"{name} {version}" for name, version in env.get("packages", {}).items())
    gpu = [str(env["gpu"])] if env.get("gpu") else []
    machine = ", ".join(
        [str(env.get("platform", "-")), f"{env.get('cores', '-')} cores", *gpu,
         f"device {env.get('device', '-')}"]
    )  # fmt: skip
    return [
        ("Python", str(env.get("python", "-"))), ("Packages", packages), ("Machine", machine),
        ("Revision", str(env.get("git") or "not known")), ("Seed", str(env.get("seed", "-"))),
    ]  # fmt: skip


def _key(source: Source) -> str:
    try:
        return check_signature(source.release)
    except UserError as e:
        return f"no valid signature ({source.told(e)})"
