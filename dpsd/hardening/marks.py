"""Marks of a run: what is kept of each, and where.

The release stays as it is. A student that a mark or a defence has changed lies in
`marked/<name>/student.safetensors` of the run, in the released student's format. `mark.json` beside
it has public facts, among them a commitment to the key. The key lies in `private/marks/<name>.key`
(mode 0600).
"""

import hashlib
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from dpsd.defences.keyed import commitment
from dpsd.errors import UserError
from dpsd.files import make_once, read_json, write_json
from dpsd.runs.folder import Run, write_weights
from dpsd.runs.release import read_student, release_folder

CHANGED = ("trigger", "nasty", "robust")
"""Kinds that have a student of their own."""
KINDS = ("trigger", "cosine", "account_marks", "fingerprint", "nasty", "robust")
POST_PROCESSING = (
    "Made from the released student and synthetic images alone: post-processing, so that the "
    "release's privacy statement holds for it, for the unit that it names."
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Mark:
    """A mark of a run.

    Attributes:
        run: whose student it is of.
        name: of the mark.
        kind: one of `KINDS`.
        key: secret.
        facts: what `mark.json` holds.
    """

    run: Run
    name: str
    kind: str
    key: bytes
    facts: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where the public part lies."""
        return marked_folder(self.run, self.name)

    @property
    def parameters(self) -> dict[str, Any]:
        """Numbers of the mark's kind."""
        found: dict[str, Any] = self.facts["parameters"]
        return found


def marked_folder(run: Run, name: str) -> Path:
    """`marked/<name>` of the run."""
    return run.path / "marked" / name


def private_folder(run: Run) -> Path:
    """`private/marks` of the run (mode 0700), created where it is missing."""
    folder = run.private / "marks"
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    return folder


def check_name(run: Run, name: str) -> None:
    """Refuse a name that cannot be a folder's, or that the run has already.

    Raises:
        UserError: it does.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"--name: {name!r}; accepted: letters, digits, '.', '_', '-', at most 64")
    if marked_folder(run, name).exists() or (run.private / "marks" / f"{name}.key").exists():
        raise UserError(f"--name {name}: {marked_folder(run, name)} exists; choose another name")


def save_mark(
    run: Run, name: str, kind: str, key: bytes, parameters: dict[str, Any],
    student: nn.Module | None = None, measured: dict[str, Any] | None = None,
) -> Mark:  # fmt: skip
    """Write a mark: the key first, `mark.json` last.

    Args:
        run: finished.
        name: new.
        kind: one of `KINDS`.
        key: secret.
        parameters: of the kind; public.
        student: the changed one, for kinds in `CHANGED`.
        measured: figures on synthetic images; public.

    Raises:
        UserError: the name is taken.
    """
    check_name(run, name)
    folder, released = marked_folder(run, name), release_folder(run) / "student.safetensors"
    if not make_once(private_folder(run) / f"{name}.key", key.hex().encode() + b"\n"):
        raise UserError(f"--name {name}: another process has just made it")
    folder.mkdir(parents=True)
    facts = {
        "name": name, "kind": kind, "run": run.id, "key_commitment": commitment(key),
        "parameters": parameters, "measured": measured or {}, "release_student": sha256(released),
        "student": None, "made": now(), "privacy": POST_PROCESSING,
    }  # fmt: skip
    if student is not None:
        path = folder / "student.safetensors"
        write_weights(path, student.state_dict(), read_student(released)[1])
        facts["student"] = sha256(path)
    write_json(folder / "mark.json", facts)
    return Mark(run, name, kind, key, facts)


def open_mark(run: Run, name: str) -> Mark:
    """A mark that was made.

    Raises:
        UserError: there is none of this name, or its key is missing or another one.
    """
    path = marked_folder(run, name) / "mark.json"
    if not path.is_file():
        made = sorted(p.parent.name for p in (run.path / "marked").glob("*/mark.json"))
        raise UserError(f"--name {name}: no such mark; accepted: {', '.join(made) or 'none made'}")
    facts, key_file = read_json(path), run.private / "marks" / f"{name}.key"
    try:
        key = bytes.fromhex(key_file.read_text().strip())
    except (OSError, ValueError) as e:
        raise UserError(f"{key_file}: no readable key ({e})") from e
    if commitment(key) != facts["key_commitment"]:
        raise UserError(f"{key_file}: is not the key to which {path} commits")
    return Mark(run, name, str(facts["kind"]), key, facts)


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
