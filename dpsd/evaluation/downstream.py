"""What a fresh model learns from a release's synthetic data alone; the figures stay private.

Making the samples and training on them is post-processing of the release, whatever its unit. Only
measuring reads private rows, so that the figures go below `private/`.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dpsd.config import Config
from dpsd.console import Say, percent, show_epsilon
from dpsd.data.labelled import read_labelled
from dpsd.data.load import Split
from dpsd.device import pick_device, pick_dtype
from dpsd.errors import UserError
from dpsd.evaluation.evaluate import ask_teacher, read_rows
from dpsd.evaluation.measures import on_rows
from dpsd.files import read_json, write_json
from dpsd.models.fit import FitRecipe, fit
from dpsd.models.networks import build_model
from dpsd.runs.folder import Run
from dpsd.runs.release import Labeller, load_student
from dpsd.runs.samples import Samples
from dpsd.student.losses import soften
from dpsd.tables import Table

FRESH = ("cnn-lite", "cnn")
"""Models that are trained on the samples; the first that is not the student's."""
PASSES, _LEAST_STEPS, _BATCH = 6, 400, 256
_LEAST = 1e-7  # of a probability, for its logarithm


def downstream(
    run: Run,
    samples: Samples,
    *,
    split: Literal["test", "holdout", "train"] | str = "test",
    choice: Mapping[str, Any] | None = None,
    model: str | None = None,
    passes: int | None = None,
    soft: bool = True,
    temperature: float = 1.0,
    teacher: Path | None = None,
    data: Path | None = None,
    rows: Path | None = None,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Measure on private rows what a fresh model learns from samples, and what from noise.

    The fresh model sees nothing but the samples: their images and the student's labels for them.
    A control of the same architecture learns in one pass from the same labels in random order. It
    must stay at chance. Writes `private/downstream.json`.

    Args:
        run: a finished run.
        samples: of its release.
        split: rows to measure on.
        choice: the options with which the samples were drawn; repeated in the result.
        model: the fresh model, an architecture other than the student's; default: one of `FRESH`.
        passes: over the samples; default: 6, or more where there are few samples.
        soft: learn the student's probabilities, not only its classes.
        temperature: of these probabilities, above 0; above 1 they tell more of unlikely classes.
        teacher: the new place of a teacher that was moved.
        data: another `data.root`.
        rows: labelled pictures to measure on, in place of a split; see `read_labelled`.
        say: receives progress.

    Returns:
        `fresh`, `student`, `teacher` and `control`: accuracies from 0 to 1. `chance`: that of
        always naming the commonest class. What they are figures of: `split` (`given` with `rows`),
        `rows`, `samples`, `counts`, `route`, `unit`, `epsilon` (None: infinite), `delta`,
        `answers`, `model`, `passes` and others.

    Raises:
        UserError: an unfinished run, no such rows, another teacher, the student's architecture, or
            a temperature that is not above 0, or is given with classes alone.
    """
    if not 0 < temperature < math.inf or (not soft and temperature != 1):
        accepted = "a number above 0, with probabilities"
        raise UserError(f"temperature: {temperature:g}; accepted: {accepted}")
    report, config = run.report(), run.config
    name = fresh_model(config.student.model, model)
    found, measured = read_rows(run, split, data)
    if rows is not None:
        split, measured = "given", read_labelled(rows, config.facts)
    if measured is None or not len(measured):
        raise UserError(
            f"data.name: {config.data.name} has no {split} rows to measure on; accepted: --rows "
            "PATH with labelled pictures"
        )
    recipe = fresh_recipe(len(samples.images), passes)
    start = time.perf_counter()
    student = Labeller(load_student(run), pick_device(config.device)).predict
    known = on_rows(measured, config.facts.class_names, ask_teacher(found, run, teacher), student)
    targets = samples.labels
    if soft:
        targets = soften(samples.probabilities.clamp_min(_LEAST).log(), temperature)
    fresh = _trained(config, name, samples.images, targets, recipe, say)
    rng = torch.Generator().manual_seed(config.seed)
    shuffled = targets[torch.randperm(len(targets), generator=rng)]
    control = _trained(config, name, samples.images, shuffled, fresh_recipe(len(targets), 1), say)
    statement = read_json(run.release / "statement.json")
    result = {
        "split": split, "rows": len(measured), "fresh": _accuracy(fresh, measured, config),
        "student": known["student"]["accuracy"], "teacher": known["teacher"]["accuracy"],
        "control": _accuracy(control, measured, config),
        "chance": int(measured.labels.bincount().max()) / len(measured),
        "samples": len(samples.images), "counts": samples.counts, "choice": dict(choice or {}),
        "candidates": samples.candidates, "short": samples.short,
        "model": name, "student_model": config.student.model,
        "passes": recipe.steps / math.ceil(len(targets) / recipe.batch_size),
        "labels": "soft" if soft else "hard", "temperature": temperature,
        "route": config.privacy.route, "mechanism": config.privacy.mechanism,
        "unit": report["privacy"]["unit"], "epsilon": statement["guarantee"]["epsilon"],
        "delta": report["privacy"]["delta"],
        "seeded_noise": statement["seeded_noise"], "answers": report["answers"],
        "seconds": time.perf_counter() - start,
    }  # fmt: skip
    write_json(run.private / "downstream.json", result)
    return result


def fresh_model(student: str, wanted: str | None = None) -> str:
    """The name of the model to train on the samples; another than the student's.

    Raises:
        UserError: the student's architecture is asked for.
    """
    if wanted == student:
        raise UserError(f"--model {wanted}: the student's architecture; accepted: another one")
    return wanted or next(name for name in FRESH if name != student)


def fresh_recipe(samples: int, passes: int | None = None) -> FitRecipe:
    """How a fresh model is trained on a number of samples.

    Few samples are seen more often, and moved a little each time; where there are enough, that
    harms.
    """
    size = min(_BATCH, samples)
    per_pass = math.ceil(samples / size)
    usual = PASSES * per_pass
    steps = max(usual, _LEAST_STEPS) if passes is None else passes * per_pass
    augment = "shift" if usual < min(steps, _LEAST_STEPS) else "none"
    return FitRecipe(steps=steps, batch_size=size, lr=0.01, augment=augment)


def _trained(
    config: Config, name: str, images: Tensor, targets: Tensor, recipe: FitRecipe, say: Say
) -> nn.Module:
    device = pick_device(config.device)
    facts = config.facts
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = build_model(name, facts.shape, facts.classes)
        model = model.to(device).to(memory_format=torch.channels_last)
        dtype = pick_dtype(config.precision, device)
        fit(model, images, targets, recipe, dtype=dtype, say=lambda text: say(f"fresh {text}"))
    return model


def _accuracy(model: nn.Module, rows: Split, config: Config) -> float:
    predicted = Labeller(model, pick_device(config.device)).predict(rows.images).argmax(1)
    return float((predicted == rows.labels).double().mean())


def downstream_table(result: dict[str, Any]) -> str:
    """The result of `downstream` as plain text for a terminal."""
    epsilon = "not private" if result["epsilon"] is None else (
        f"epsilon {show_epsilon(result['epsilon'])} per {result['unit']}"
    )  # fmt: skip
    seeded = " (seeded noise: NOT PRIVATE)" if result["seeded_noise"] else ""
    figures = [
        (f"fresh {result['model']}, from the samples alone", percent(result["fresh"])),
        (f"student ({result['student_model']})", percent(result["student"])),
        ("teacher", percent(result["teacher"])),
        ("control: the samples' labels shuffled", percent(result["control"])),
        ("chance: always the commonest class", percent(result["chance"])),
    ]
    return "\n".join([
        f"split {result['split']}, {result['rows']:,} rows; {result['samples']:,} samples",
        f"route {result['route']}, {epsilon}{seeded}, {result['answers']:,} answers",
        Table(("", "accuracy"), figures).text(),
    ])  # fmt: skip
