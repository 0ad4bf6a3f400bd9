"""Make a mark, or a hardened student, of a finished run."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import nn

from dpsd.defences.account_marks import AccountMarks
from dpsd.defences.cosine import Cosine
from dpsd.errors import UserError
from dpsd.hardening.fingerprint import fingerprint, write_points
from dpsd.hardening.marks import CHANGED, KINDS, Mark, check_name, private_folder, save_mark
from dpsd.hardening.nasty import NastyRecipe, nasty
from dpsd.hardening.robust import RobustRecipe, robust
from dpsd.hardening.synthetic import Base, answers_of, base_of
from dpsd.hardening.training import check_values, whole
from dpsd.hardening.trigger import trigger_of, with_trigger
from dpsd.randomness import draw_key
from dpsd.runs.folder import Run

IMAGES = 4_000
POINTS = 500
_LEAST_IMAGES = 10
_TEST_STREAM = 2


@dataclass(frozen=True)
class _Trigger:
    """How a trigger is trained in: `steps` of training, from 1."""

    steps: int = 400

    def __post_init__(self) -> None:
        check_values("trigger", vars(self), steps=whole(self.steps))


@dataclass(frozen=True)
class _Fingerprint:
    """A fingerprint has no parameters."""


_RECIPES: dict[str, type[Any]] = {
    "trigger": _Trigger, "cosine": Cosine, "account_marks": AccountMarks,
    "fingerprint": _Fingerprint, "nasty": NastyRecipe, "robust": RobustRecipe,
}  # fmt: skip


def make_mark(
    run: Run,
    kind: str,
    *,
    name: str | None = None,
    key: bytes | None = None,
    seed: int = 0,
    parameters: Mapping[str, float] | None = None,
) -> Mark:
    """Make a mark under a fresh key, and keep it with the run; the release stays as it is.

    Args:
        run: finished.
        kind: trigger | cosine | account_marks | fingerprint | nasty | robust.
        name: of the mark; default: its kind.
        key: instead of a fresh one, at least 16 bytes.
        seed: of the order of images.
        parameters: fields of the defence (cosine, account_marks) or of the recipe (nasty, robust),
            `steps` of training a trigger in (from 1, default 400), and `images`, the number of
            synthetic ones that a student is changed with (from 10, default 4,000).

    Raises:
        UserError: an unknown kind, a name that is taken, a parameter that the kind has not, or a
            value out of range.
    """
    if kind not in KINDS:
        raise UserError(f"--mark: {kind!r}; accepted: {', '.join(KINDS)}")
    name, key = name or kind, draw_key() if key is None else key
    check_name(run, name)
    recipe, images = _recipe(kind, dict(parameters or {}))
    if kind in ("cosine", "account_marks"):
        return save_mark(run, name, kind, key, asdict(recipe))
    if kind == "fingerprint":
        points = fingerprint(base_of(run, POINTS, _TEST_STREAM), POINTS)
        write_points(points, private_folder(run) / f"{name}.npz")
        digest = hashlib.sha256(points.images.numpy().tobytes()).hexdigest()
        facts = {"points": len(points.labels), "images_sha256": digest}
        return save_mark(run, name, kind, key, facts)
    base = base_of(run, images)
    student = _changed(base, recipe, key, seed)
    measured = _measured(kind, student, base_of(run, images, _TEST_STREAM), key)
    return save_mark(run, name, kind, key, asdict(recipe), student, measured)


def _recipe(kind: str, given: dict[str, float]) -> tuple[Any, int]:
    """The parameters as a kind's recipe, and the number of synthetic images.

    Raises:
        UserError: a parameter that the kind has not, or a value out of range.
    """
    recipe = _RECIPES[kind]
    known = [f.name for f in fields(recipe)] + ["images"] * (kind in CHANGED)
    for name, value in given.items():
        if name not in known:
            raise UserError(
                f"--set {name}={value}: no parameter of {kind}; accepted: "
                f"{', '.join(known) or 'none'}"
            )
    images = given.pop("images", IMAGES)
    check_values(kind, {"images": images}, images=whole(images, _LEAST_IMAGES))
    return recipe(**given), int(images)


def _changed(base: Base, recipe: Any, key: bytes, seed: int) -> nn.Module:
    if isinstance(recipe, NastyRecipe):
        return nasty(base, recipe, seed=seed)
    if isinstance(recipe, RobustRecipe):
        return robust(base, recipe, seed=seed)
    return with_trigger(base, key, seed=seed, steps=recipe.steps)


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
