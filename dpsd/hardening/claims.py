"""Ownership of a suspected copy: a p-value and a file of evidence.

The suspect is asked about synthetic images of the release, or images that the owner gives. A claim
holds where the p-value under "the suspect is independent of the mark" is below `alpha`.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dpsd.defences.account_marks import is_marked, mark_label
from dpsd.defences.keyed import commitment
from dpsd.errors import UserError
from dpsd.files import make_once
from dpsd.hardening.fingerprint import Fingerprint, check_fingerprint, read_points
from dpsd.hardening.marks import Mark, now, private_folder
from dpsd.hardening.statistics import least_p_value, mark_p_value, models_for
from dpsd.hardening.suspects import Suspect
from dpsd.hardening.synthetic import Base, answers_of, base_of, ordinary_copy
from dpsd.hardening.trigger import check_trigger
from dpsd.hardening.waves import wave_test

ALPHA = 1e-6
IMAGES = 4_000
NULL_MODELS = 8
_STREAM = 1  # images of claims, apart from those that marks were trained on


@dataclass(frozen=True)
class Claim:
    """The outcome of a test of ownership.

    Attributes:
        p_value: of the null hypothesis that `method` names.
        alpha: a claim holds below it.
        method: the test, in a sentence.
        figures: counts and correlations that the p-value follows from.
        evidence: the file that has all of it.
    """

    p_value: float
    alpha: float
    method: str
    figures: dict[str, Any]
    evidence: Path

    @property
    def claimed(self) -> bool:
        """Whether the suspect is claimed."""
        return self.p_value < self.alpha


def claim(
    mark: Mark,
    suspect: Suspect,
    *,
    images: Tensor | None = None,
    account: str | None = None,
    independent: Sequence[Suspect] = (),
    alpha: float = ALPHA,
    count: int | None = None,
) -> Claim:
    """Test whether a suspect carries a mark, and write `private/marks/claims/<name>-<n>.json`.

    `n` is the first free number. A file that is there stays as it is.

    Args:
        mark: of the run.
        suspect: an opened model.
        images: uint8 [N, C, H, W] to ask about. Account marks need those that the account asked;
            the others take synthetic images where none are given.
        account: whose marks are looked for.
        independent: models trained without the owner's answers. A fingerprint needs at least 3,
            and so many that a p-value below `alpha` can come out; a trigger takes ordinary copies
            of the unmarked student where none are given.
        alpha: a claim holds below it.
        count: synthetic images; default 4,000.

    Raises:
        UserError: a mark that nothing can be claimed by, or what it needs is missing.
    """
    check_claim(mark, images, account, len(independent), alpha, count)
    if mark.kind == "fingerprint":
        points = read_points(private_folder(mark.run) / f"{mark.name}.npz")
        asked = points.images
        p, method, figures = _by_fingerprint(points, suspect, independent)
    else:
        base = base_of(mark.run, (count or IMAGES) if images is None else 1, _STREAM)
        if images is not None:
            base = replace(base, images=images, probabilities=answers_of(base.student, images))
        asked = base.images
        if mark.kind == "trigger":
            p, method, figures = _by_trigger(mark, suspect, base, independent)
        elif mark.kind == "cosine":
            p, method, figures = _by_wave(mark, suspect, base)
        else:
            p, method, figures = _by_account(mark, suspect, base, account or "")
    evidence = _keep_evidence(mark, {
        "p_value": p, "alpha": alpha, "claimed": p < alpha, "method": method, "figures": figures,
        "mark": {"name": mark.name, "kind": mark.kind, "made": mark.facts["made"],
                 "parameters": mark.parameters, "student": mark.facts["student"],
                 "release_student": mark.facts["release_student"]},
        "key_commitment": commitment(mark.key), "account": account,
        "suspect": {"source": suspect.source, "sha256": suspect.sha256},
        "independent": [{"source": s.source, "sha256": s.sha256} for s in independent],
        "images_sha256": hashlib.sha256(asked.contiguous().numpy().tobytes()).hexdigest(),
        "claimed_at": now(),
    })  # fmt: skip
    return Claim(p, alpha, method, figures, evidence)


def check_claim(
    mark: Mark, images: Tensor | None, account: str | None, independent: int, alpha: float,
    count: int | None = None,
) -> None:  # fmt: skip
    """Refuse what a claim cannot be made from. `independent` is the number of models.

    Raises:
        UserError: it cannot.
    """
    if mark.kind in ("nasty", "robust"):
        raise UserError(
            f"--name {mark.name}: {mark.kind} is no mark of ownership; nothing to claim"
        )
    if not 0 < alpha < 1:
        raise UserError(f"--alpha: {alpha}; accepted: above 0, below 1")
    if mark.kind == "account_marks" and (account is None or images is None):
        raise UserError(f"--name {mark.name}: account marks need --account NAME and --images FILE")
    if mark.kind != "account_marks" and account is not None:
        raise UserError(f"--account {account}: accepted for account marks; this one is {mark.kind}")
    if mark.kind == "fingerprint":
        _check_models(independent, int(mark.parameters["points"]), alpha)
    if mark.kind == "trigger" and independent:
        _check_models(independent, (count or IMAGES) if images is None else len(images), alpha)


def _check_models(models: int, questions: int, alpha: float) -> None:
    """Refuse independent models that are too few for any p-value below `alpha`.

    Raises:
        UserError: they are.
    """
    needed = models_for(questions, alpha)
    if needed is None:
        raise UserError(
            f"--alpha: {alpha:g}; {questions} questions give no p-value below it, however many "
            "models there are; accepted: a larger one"
        )
    if models < needed:
        best = f", since {models} give no p-value below {least_p_value(questions, models):.1e}"
        raise UserError(
            f"--independent: {models} models; accepted: at least {needed} at --alpha {alpha:g}, "
            f"trained without the student's answers{best if models >= 3 else ''}"
        )


Found = tuple[float, str, dict[str, Any]]


def _by_trigger(mark: Mark, suspect: Suspect, base: Base, independent: Sequence[Suspect]) -> Found:
    models = [s.model for s in independent] or [
        ordinary_copy(base, seed) for seed in range(NULL_MODELS)
    ]
    found = check_trigger(suspect.model, base, mark.key, models)
    kind = "independent models" if independent else "ordinary copies of the unmarked student"
    text = (
        f"share of images with the keyed corner that get the keyed class, against {len(models)} "
        f"{kind} (Student t on the logit scale, and the binomial tail at their bounded rate)"
    )
    return found.p_value, text, asdict(found)


def _by_wave(mark: Mark, suspect: Suspect, base: Base) -> Found:
    answers = answers_of(suspect.model, base.images)
    frequency = float(mark.parameters["frequency"])
    found = wave_test(answers, base.probabilities, base.images, mark.key, frequency)
    text = (
        "the keyed waves in the suspect's log probabilities, beyond the unmarked student's, "
        f"against {found.keys} random keys (Student t tail; exact permutation beside it)"
    )
    return found.p_value, text, asdict(found)


def _by_account(mark: Mark, suspect: Suspect, base: Base, account: str) -> Found:
    images, named = base.images, base.labels
    marked = is_marked(images, mark.key, account, float(mark.parameters["share"]))
    wrong = mark_label(images, mark.key, account, named, base.facts.classes)[marked]
    if not bool(marked.any()):
        raise UserError(
            f"--images: none of {len(images)} is marked for {account}; give more images"
        )
    said = answers_of(suspect.model, images[marked]).argmax(1)
    differs = int((said != named[marked]).sum())
    repeated = int((said == wrong).sum())
    p = mark_p_value(repeated, differs, base.facts.classes)
    text = (
        "wrong answers of the account's marks that the suspect repeats, among the marked questions "
        "on which it differs from the owner's model (exact binomial tail over the key)"
    )
    figures = {"asked": len(images), "marked": int(marked.sum()), "differs": differs}
    return p, text, figures | {"repeated": repeated}


def _by_fingerprint(points: Fingerprint, suspect: Suspect, independent: Sequence[Suspect]) -> Found:
    found = check_fingerprint(suspect.model, points, [s.model for s in independent])
    text = (
        "share of boundary points with the student's class, against "
        f"{len(independent)} independently trained models (Student t on the logit scale)"
    )
    return found.p_value, text, asdict(found)


def _keep_evidence(mark: Mark, facts: dict[str, Any]) -> Path:
    """Write a file of evidence under the first free number, beside those of other processes."""
    folder = private_folder(mark.run) / "claims"
    folder.mkdir(exist_ok=True)
    text = json.dumps(facts, indent=2, allow_nan=False) + "\n"
    paths = (folder / f"{mark.name}-{n}.json" for n in itertools.count(1))
    return next(p for p in paths if not p.exists() and make_once(p, text.encode()))
