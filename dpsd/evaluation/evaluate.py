"""How good a student is, measured on private data: everything here goes under `private/`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dpsd.config import Config
from dpsd.data.load import Split, load_data
from dpsd.device import pick_device
from dpsd.errors import UserError
from dpsd.files import read_json, write_json
from dpsd.privacy.plan import make_plan
from dpsd.privacy.releases import load_release
from dpsd.runs.card import write_card
from dpsd.runs.finish import seal
from dpsd.runs.folder import Run
from dpsd.runs.release import Labeller, load_student
from dpsd.student.losses import answer_gain, names_a_class
from dpsd.teachers.folder import TeacherFolder, as_logits
from dpsd.teachers.teacher import ensure_teacher, load_teacher

_SPLITS = ("test", "holdout", "train")
_BINS = 15
_BATCH = 512
WITH_TEACHER = "the teacher's class on the same rows"
WITH_ANSWERS = (
    "the most likely class of held-out paid answers, privatised and so noisy: the first of the "
    "last round, to synthetic images, never trained on"
)
WITH_NOTHING = (
    "nothing: no held-out paid answer makes one class likelier than all others; see the gain"
)


def evaluate(
    run: Run,
    split: Literal["test", "holdout", "train"] | str = "test",
    teacher: Path | None = None,
    data: Path | None = None,
) -> dict[str, Any]:
    """Measure the released student and its teacher on private data.

    Writes `private/evaluation.json` and fills in `private/report.json`. The release is left as it
    is, unless the run's data were declared public: then its card shows the figures.

    Args:
        run: a finished run.
        split: rows to measure on.
        teacher: the teacher's folder (or its weights file, if it is the user's own) where it has
            been moved.
        data: another `data.root`.

    Returns:
        `split`, `rows`, `agreement_with` (what the agreement is measured against), `teacher` with
        `accuracy` and `ece`, `student` with `accuracy`, `ece` and `agreement`, and `per_class`, a
        list of `class`, `rows`, `teacher` and `student` accuracy. All are shares from 0 to 1.
        Without such rows, all figures but the agreement with held-out paid answers are None, and
        `student.gain_nats_per_answer` says how much better than chance it foretells those.

    Raises:
        UserError: an unknown split, an unfinished run, another teacher, or missing data.
    """
    if split not in _SPLITS:
        raise UserError(f"split: {split!r}; accepted: {', '.join(_SPLITS)}")
    report = run.report()
    predict = Labeller(load_student(run), pick_device(run.config.device)).predict
    config, rows = run.config, None
    if config.data.name != "none":
        root = {"root": data} if data is not None else {}
        config = config.model_copy(update={"data": config.data.model_copy(update=root)})
        rows = getattr(load_data(config.data), split)
    if rows is None:
        result = {"split": split} | _without_rows(run, predict)
    else:
        ask = _teacher(config, run, teacher)
        result = {"split": split} | _on_rows(config, rows, ask, predict)
    write_json(run.private / "evaluation.json", result)
    report["teacher"]["accuracy"] = result["teacher"]["accuracy"]
    report["student"] |= result["student"]
    report["evaluation"] = {k: result[k] for k in ("split", "rows", "agreement_with")}
    run.write_report(report)
    if run.data_is_public:
        write_card(run, read_json(run.release / "statement.json"), result)
        seal(run)
    return result


def evaluation_table(result: dict[str, Any]) -> str:
    """The figures of `evaluate` as plain text for a terminal."""
    teacher, student = result["teacher"], result["student"]
    lines = [
        f"split {result['split']}, {result['rows']:,} rows",
        f"{'':<10}{'accuracy':>10}{'agreement':>11}{'ECE':>9}",
        f"{'teacher':<10}{_percent(teacher['accuracy']):>10}{'-':>11}{_share(teacher['ece']):>9}",
        f"{'student':<10}{_percent(student['accuracy']):>10}{_percent(student['agreement']):>11}"
        f"{_share(student['ece']):>9}",
        f"agreement with {result['agreement_with']}",
    ]
    if student.get("gain_nats_per_answer") is not None:
        gain = student["gain_nats_per_answer"]
        lines += [f"gain over chance in foretelling them: {gain:.4f} nats per answer"]
    if result["per_class"]:
        width = max(len("class"), *(len(c["class"]) for c in result["per_class"])) + 2
        lines += ["", f"{'class':<{width}}{'rows':>8}{'teacher':>10}{'student':>10}"]
        lines += [
            f"{c['class']:<{width}}{c['rows']:>8,}{_percent(c['teacher']):>10}"
            f"{_percent(c['student']):>10}"
            for c in result["per_class"]
        ]
    return "\n".join(lines)


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = _BINS) -> float:
    """Mean gap of confidence and accuracy over bins of equal width (Guo et al. 2017, equation 3).

    Args:
        probabilities: float [B, K].
        labels: int64 [B].
        bins: the confidence c falls into bin ceil(c * bins).

    Returns:
        From 0 to 1.
    """
    confidence, found = probabilities.double().max(1)
    hit = (found == labels).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, confidence - hit)
    return float(gaps.abs().sum() / len(labels))


def _on_rows(
    config: Config,
    rows: Split,
    ask: Callable[[Tensor], Tensor],
    predict: Callable[[Tensor], Tensor],
) -> dict[str, Any]:
    y = rows.labels
    answers = torch.cat([as_logits(ask(x).cpu()) for x in rows.images.split(_BATCH)]).softmax(1)
    guesses = predict(rows.images)
    t, s = answers.argmax(1), guesses.argmax(1)

    def share(hits: Tensor) -> float | None:
        return float(hits.double().mean()) if len(hits) else None

    names = config.facts.class_names
    return {
        "rows": len(rows),
        "agreement_with": WITH_TEACHER,
        "teacher": {"accuracy": share(t == y), "ece": _ece(answers, y)},
        "student": {
            "accuracy": share(s == y),
            "agreement": share(s == t),
            "ece": _ece(guesses, y),
        },
        "per_class": [
            {
                "class": name,
                "rows": int((y == c).sum()),
                "teacher": share(t[y == c] == c),
                "student": share(s[y == c] == c),
            }
            for c, name in enumerate(names)
        ],
    }


def _without_rows(run: Run, predict: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Agreement with the paid answers that were held out of training; it costs nothing more."""
    plan = make_plan(run.config)
    last, n = (plan.rounds - 1) * plan.queries_per_round, plan.held_out
    agreement = gain = None
    if n and last in {int(path.stem) for path in run.bank.glob("*.safetensors")}:
        images, answers = load_release(run.bank, last)
        scores = plan.mechanism.log_likelihood(answers)[:n]
        guesses, named = predict(images[:n]), names_a_class(scores)
        if named.any():
            hits = guesses.argmax(1)[named] == scores.argmax(1)[named]
            agreement = float(hits.double().mean())
        gain = float(answer_gain(guesses.clamp_min(1e-12).log(), scores).double().mean())
    return {
        "rows": n if gain is not None else 0,
        "agreement_with": WITH_NOTHING if agreement is None else WITH_ANSWERS,
        "teacher": {"accuracy": None, "ece": None},
        "student": {
            "accuracy": None,
            "agreement": agreement,
            "ece": None,
            "gain_nats_per_answer": gain,
        },
        "per_class": [],
    }


def _teacher(config: Config, run: Run, moved: Path | None) -> Callable[[Tensor], Tensor]:
    if config.privacy.route == "federated":
        from dpsd.evaluation.federation import federation_teacher

        return federation_teacher(config)
    return load_teacher(*find_teacher(config, run, moved))


def find_teacher(config: Config, run: Run, moved: Path | None) -> tuple[Config, TeacherFolder]:
    """The run's teacher, where it was or where it has been moved, and the configuration for it.

    Raises:
        UserError: there is none, or it is another one.
    """
    home, weights = moved or run.teacher_folder, None
    if moved is not None and moved.is_file():
        home, weights = moved.with_name(moved.name + ".dpsd"), moved
    elif moved is not None and moved.suffix == ".dpsd" and moved.with_suffix("").is_file():
        weights = moved.with_suffix("")  # the user's own, which lie beside their folder
    update = {"path": home} | ({} if weights is None else {"weights": weights})
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update=update)})
    folder = ensure_teacher(config, lambda text: None)
    if folder.uuid != run.teacher:
        raise UserError(
            f"teacher {folder.path}: is teacher {folder.uuid}, the run transcribed {run.teacher}"
        )
    return config, folder


def _ece(probabilities: Tensor, labels: Tensor) -> float | None:
    return expected_calibration_error(probabilities, labels) if len(labels) else None


def _percent(x: float | None) -> str:
    return "-" if x is None else f"{100 * x:.2f} %"


def _share(x: float | None) -> str:
    return "-" if x is None else f"{x:.4f}"
