"""Does the teacher do what the oracle needs? Tried on synthetic images, on the private side."""

from typing import Any, cast

import torch

from dpsd.config import Config
from dpsd.data import public_facts
from dpsd.device import pick_device
from dpsd.generator.synthesizer import Synthesizer
from dpsd.models import Teacher, check_teacher, load_own_teacher
from dpsd.student import Student
from dpsd.teacher import Say, ensure_teacher, load_teacher

_IMAGES = 256
_VALUES = _IMAGES * 64 * 64 * 3


def check(config: Config, say: Say) -> list[dict[str, Any]]:
    """Load the configured teacher and try it on images of the configured synthesizer.

    A missing teacher with a recipe is trained first. Nothing is written for the user's own.

    Returns:
        Rows of `check`, `ok` and `message`. They are private.

    Raises:
        UserError: the teacher cannot be loaded, or its output does not fit the declared classes.
    """
    facts, device = public_facts(config.data), pick_device(config.device)
    t = config.teacher
    own = t.path is None and (t.weights is not None or ":" in t.model)
    if own:
        teacher = load_own_teacher(t, facts).to(device)
    else:
        teacher = cast(Teacher, load_teacher(config, ensure_teacher(config, say)))
    n = max(8, min(_IMAGES, _VALUES // torch.Size(facts.shape).numel()))
    plain = config.model_copy(
        update={"generator": config.generator.model_copy(update={"select": 1})}
    )
    student = Student(
        plain, facts, rounds=1, queries_per_round=n, soft_targets=False, device=device,
        dtype=torch.float32,
    )  # fmt: skip
    images = Synthesizer(plain, facts, device).sample(n, student)
    rows = check_teacher(teacher, facts, images)
    return [{"check": name, "ok": ok, "message": message} for name, ok, message in rows]


def check_text(rows: list[dict[str, Any]]) -> str:
    """One line a check, then the verdict."""
    width = max(len(row["check"]) for row in rows)
    lines = [f"{row['check']:<{width}}  {'ok  ' if row['ok'] else 'MEND'}  {row['message']}"
             for row in rows]  # fmt: skip
    failed = sum(not row["ok"] for row in rows)
    verdict = "the teacher is fit to be transcribed" if not failed else (
        f"{failed} of {len(rows)} checks failed"
    )  # fmt: skip
    return "\n".join([*lines, verdict]) + "\n"
