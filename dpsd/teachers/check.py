"""Checks that a teacher can be transcribed, on synthetic images and on the private side."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dpsd.config import Config, PublicFacts
from dpsd.config.sections import Normalize
from dpsd.console import Say, percent
from dpsd.data.labelled import read_labelled
from dpsd.device import pick_device
from dpsd.errors import UserError
from dpsd.generator.synthesizer import Synthesizer
from dpsd.imports import brief
from dpsd.models.own import read_own_teacher
from dpsd.student.student import Student
from dpsd.teachers.folder import as_logits
from dpsd.teachers.teacher import accuracy, ensure_teacher, load_teacher

_IMAGES = 256
_ACCURACY = "accuracy"
_VALUES = _IMAGES * 64 * 64 * 3


def check(config: Config, say: Say, labelled: Path | None = None) -> list[dict[str, Any]]:
    """The results of checks of the configured teacher, on images of the configured synthesizer.

    A missing teacher that has a recipe is trained first. The user's own gets no folder. Where
    `labelled` names pictures (see `read_labelled`), its accuracy on them is measured too.

    Returns:
        Rows of `check`, `ok` and `message`. They are private. What is assumed has `ok` None.

    Raises:
        UserError: the teacher cannot be loaded, its output does not fit the declared classes, or
            the labelled pictures cannot be read.
    """
    facts, device = config.facts, pick_device(config.device)
    split = None if labelled is None else read_labelled(labelled, facts)
    t = config.teacher
    own = t.path is None and (t.weights is not None or ":" in t.model)
    normalize, channels, unwrapped = t.normalize, facts.shape[0], ""
    if own:
        model, unwrapped = read_own_teacher(t, facts)
        teacher: Callable[[torch.Tensor], torch.Tensor] = model.to(device)
        channels = model.in_channels
    else:
        home = ensure_teacher(config, say)
        teacher = load_teacher(config, home)
        normalize = normalize if home.kind == "own" else None
    n = max(8, min(_IMAGES, _VALUES // torch.Size(facts.shape).numel()))
    plain = config.model_copy(
        update={"generator": config.generator.model_copy(update={"select": 1})}
    )
    student = Student(
        plain, facts, rounds=1, queries_per_round=n, soft_targets=False, device=device,
        dtype=torch.float32,
    )  # fmt: skip
    images = Synthesizer(plain, facts, device).sample(n, student)
    rows: list[tuple[str, bool | None, str]] = [
        ("input", None, input_text(normalize, facts, channels)),
        *([("weights", None, unwrapped)] if unwrapped else []),
        *check_teacher(teacher, facts, images),
    ]
    if split is not None and ("output", False) not in [row[:2] for row in rows]:
        text = f"{percent(accuracy(teacher, split))} of the {len(split):,} pictures in {labelled}; "
        text += "if it should be more, check teacher.normalize and the order of the classes"
        rows.append((_ACCURACY, None, text))
    return [{"check": name, "ok": ok, "message": message} for name, ok, message in rows]


def check_text(rows: list[dict[str, Any]]) -> str:
    """One line a check, then the verdict."""
    width, marks = max(len(row["check"]) for row in rows), {True: "ok", False: "FIX", None: ""}
    lines = [f"{row['check']:<{width}}  {marks[row['ok']]:<4}  {row['message']}" for row in rows]
    failed = sum(row["ok"] is False for row in rows)
    verdict = "the teacher fits"
    if _ACCURACY not in (row["check"] for row in rows):
        verdict += "; whether it is right on your images was not measured (--rows PATH does)"
    if failed:
        verdict = f"{failed} of {sum(row['ok'] is not None for row in rows)} checks failed"
    return "\n".join([*lines, verdict]) + "\n"


def input_text(normalize: Normalize | None, facts: PublicFacts, channels: int) -> str:
    """What the teacher is assumed to take: range of the pixels, normalisation, shape."""
    how = "not normalised"
    if normalize is not None:
        how = f"then normalised by mean {list(normalize.mean)} and std {list(normalize.std)}"
    shape = " x ".join(map(str, facts.shape))
    grey = f", grey repeated to {channels} channels" if channels != facts.shape[0] else ""
    return f"pixels 0 to 1, {how}, {shape}{grey}"


def check_teacher(
    teacher: Callable[[torch.Tensor], torch.Tensor], facts: PublicFacts, images: torch.Tensor
) -> list[tuple[str, bool, str]]:
    """Rows of name, passed and message for a teacher on uint8 images [B, C, H, W]. Private.

    The checks: outputs, finite values, confidence, determinism, independence of the rows of a
    batch, speed. A check that fails is a warning; nothing is raised.
    """
    try:
        begin = time.perf_counter()
        logits = teacher(images).cpu()
        seconds = time.perf_counter() - begin
    except UserError as e:
        return [("output", False, str(e))]
    except Exception as e:
        return [("output", False, f"the model raised {brief(e)}")]
    kind = "logits" if logits.is_floating_point() else "votes"
    rows = [("output", True, f"{kind} {list(logits.shape)} for {facts.classes} classes")]
    bad = int((~logits.isfinite()).any(1).sum())
    text = f"{bad} of {len(logits)} answers have NaN or infinite values"
    rows.append(("finite", not bad, text if bad else "all values are finite"))
    p = as_logits(logits).nan_to_num().softmax(1)
    predicted, top = len(p.argmax(1).unique()), float(p.max(1).values.mean())
    floating = logits.is_floating_point()
    one_class = predicted == 1 and len(p) > 1
    flat = not bad and floating and bool(((logits >= 0) & (logits <= 1)).all())
    text = f"{predicted} of {facts.classes} classes predicted, mean confidence {top:.4f}"
    if flat:
        text += "; all outputs lie from 0 to 1: probabilities? Return logits"
    elif one_class:
        text += "; one class alone: check teacher.normalize (mean and std) and grey or RGB"
    elif top > 0.99999:
        text += "; saturated: check teacher.normalize (mean and std)"
    rows.append(("confidence", not (flat or top > 0.99999 or one_class), text))
    again = teacher(images).cpu()
    same = torch.equal(again.nan_to_num(), logits.nan_to_num())
    text = "two calls agree" if same else "two calls differ: dropout or other randomness is on"
    rows.append(("determinism", same, text))
    few = images[: max(1, min(8, len(images) // 2))]
    mates = teacher(torch.cat([few, 255 - few]))[: len(few)].cpu()
    scale = 1 + float(logits.nan_to_num().abs().max())
    gap = float((mates - logits[: len(few)]).float().nan_to_num().abs().max()) / scale
    text = f"an answer moves by {gap:.1e} (relative) with the rest of its batch"
    if gap > 1e-2:
        text += ": batch norm in training mode? Export the model after .eval()"
    rows.append(("batch independence", gap <= 1e-2, text))
    rows.append(("speed", True, f"{len(images) / max(seconds, 1e-9):.0f} images per second"))
    return rows
