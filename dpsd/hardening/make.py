"""Make a mark, or a hardened student, of a finished run."""

import hashlib
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import nn

from dpsd.defences.account_marks import AccountMarks
from dpsd.defences.cosine import Cosine
from dpsd.errors import UserError
from dpsd.hardening.fingerprint import fingerprint, write_points
from dpsd.hardening.marks import KINDS, Mark, check_name, private_folder, save_mark
from dpsd.hardening.nasty import NastyRecipe, nasty
from dpsd.hardening.robust import RobustRecipe, robust
from dpsd.hardening.synthetic import Base, answers_of, base_of
from dpsd.hardening.trigger import trigger_of, with_trigger
from dpsd.randomness import draw_key
from dpsd.runs.folder import Run

IMAGES = 4_000
POINTS = 500
STEPS = 400
_TEST_STREAM = 2


@dataclass(frozen=True)
class _Nothing:
    """A kind without parameters."""


def make_mark(
    run: Run,
    kind: str,
    *,
    name: str | None = None,
    key: bytes | None = None,
    images: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    **parameters: float,
) -> Mark:
    """Make a mark under a fresh key, and keep it with the run; the release stays as it is.

    Args:
        run: finished.
        kind: trigger | cosine | account_marks | fingerprint | nasty | robust.
        name: of the mark; default: its kind.
        key: instead of a fresh one, at least 16 bytes.
        images: synthetic ones that a student is changed with; default 4,000.
        steps: of training; default 400.
        seed: of the order of images.
        parameters: fields of the defence (cosine, account_marks) or of the recipe (nasty, robust).

    Raises:
        UserError: an unknown kind, a name that is taken, parameters that are not accepted.
    """
    if kind not in KINDS:
        raise UserError(f"--mark: {kind!r}; accepted: {', '.join(KINDS)}")
    name, key = name or kind, draw_key() if key is None else key
    images, steps = images or IMAGES, steps or STEPS
    check_name(run, name)
    if kind in ("cosine", "account_marks"):
        defence = Cosine if kind == "cosine" else AccountMarks
        given = _accepted(kind, defence, parameters)
        return save_mark(run, name, kind, key, asdict(defence(**given)))
    if kind == "fingerprint":
        _accepted(kind, _Nothing, parameters)
        points = fingerprint(base_of(run, POINTS, _TEST_STREAM), POINTS)
        write_points(points, private_folder(run) / f"{name}.npz")
        digest = hashlib.sha256(points.images.numpy().tobytes()).hexdigest()
        facts = {"points": len(points.labels), "images_sha256": digest}
        return save_mark(run, name, kind, key, facts)
    base = base_of(run, images)
    student, facts = _changed(kind, base, key, steps, seed, parameters)
    measured = _measured(kind, student, base_of(run, images, _TEST_STREAM), key)
    return save_mark(run, name, kind, key, facts, student, measured)


def _changed(
    kind: str, base: Base, key: bytes, steps: int, seed: int, parameters: Mapping[str, float]
) -> tuple[nn.Module, dict[str, Any]]:
    if kind == "trigger":
        _accepted(kind, _Nothing, parameters)
        return with_trigger(base, key, seed=seed, steps=steps), {"steps": steps}
    if kind == "nasty":
        hostile = NastyRecipe(**_accepted(kind, NastyRecipe, parameters, steps))
        return nasty(base, hostile, seed=seed), asdict(hostile)
    firm = RobustRecipe(**_accepted(kind, RobustRecipe, parameters, steps))
    return robust(base, firm, seed=seed), asdict(firm)


def _accepted(
    kind: str, recipe: type[Any], parameters: Mapping[str, float], steps: int | None = None
) -> dict[str, Any]:
    """The parameters as fields of a recipe.

    Raises:
        UserError: one that it has not, or a number that is none of its kind.
    """
    known = typing.get_type_hints(recipe)
    known = {f.name: known[f.name] for f in fields(recipe)}
    for name, value in parameters.items():
        if name not in known or (known[name] is int and not isinstance(value, int)) or value < 0:
            raise UserError(f"--set {name}={value}: accepted for {kind}: numbers from 0 for "
                            f"{', '.join(known) or 'nothing'}")  # fmt: skip
    return ({} if steps is None else {"steps": steps}) | dict(parameters)


def _measured(kind: str, student: nn.Module, fresh: Base, key: bytes) -> dict[str, float]:
    """Agreement with the released student on fresh synthetic images, and how a trigger works."""
    said = answers_of(student, fresh.images).argmax(1)
    found = {"agreement": float((said == fresh.labels).double().mean())}
    if kind == "trigger":
        trigger = trigger_of(key, fresh.facts.classes)
        others = fresh.images[fresh.labels != trigger.target]
        obeys = answers_of(student, trigger.stamp(others)).argmax(1) == trigger.target
        found["trigger"] = float(obeys.double().mean())
    return found
