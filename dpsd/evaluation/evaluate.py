"""How good a student is, measured on private data: everything here goes under `private/`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dpsd.config import Config
from dpsd.data.labelled import read_labelled
from dpsd.data.load import Split, load_data
from dpsd.device import pick_device
from dpsd.errors import UserError
from dpsd.evaluation.measures import accuracy, on_rows, without_rows
from dpsd.files import read_json, write_json
from dpsd.runs.card import write_card
from dpsd.runs.finish import seal
from dpsd.runs.folder import Run
from dpsd.runs.release import Labeller, load_student
from dpsd.runs.rounds import kept_students
from dpsd.teachers.folder import TeacherFolder, read_folder
from dpsd.teachers.teacher import load_teacher

_SPLITS = ("test", "holdout", "train")


def evaluate(
    run: Run,
    split: Literal["test", "holdout", "train"] | str = "test",
    teacher: Path | None = None,
    data: Path | None = None,
    rows: Path | None = None,
) -> dict[str, Any]:
    """Measure the released student and its teacher on private data.

    Writes `private/evaluation.json` and fills in `private/report.json`. If the run's data were
    declared public, the card of the release shows the figures. Otherwise the release is unchanged.

    Args:
        run: a finished run.
        split: rows to measure on.
        teacher: the new place of a teacher that was moved: its folder, or the weights file if it
            is the user's own.
        data: another `data.root`.
        rows: labelled pictures to measure on, in place of a split; see `read_labelled`.

    Returns:
        `split` (`given` with `rows`; None without labelled rows), `rows`, `agreement_with` (what
        the agreement is measured against), `teacher` with
        `accuracy` and `ece`, `student` with `accuracy`, `ece` and `agreement`, and `per_class`, a
        list of `class`, `rows`, `teacher` and `student` accuracy. All are shares from 0 to 1.
        `over_rounds` lists `round` (from 0), `answers` until then and `accuracy` of the students of
        some rounds, which learned from the loop alone; empty without labelled rows.
        `reliability` has the bins of a calibration diagram, `confusion` counts rows by true class
        and the student's class (none with more than 20 classes).
        With `data.name` none, the agreement is that with held-out paid answers.
        `student.gain_nats_per_answer` then says how much better than a uniform guess the student
        predicts those answers. All other figures are None.

    Raises:
        UserError: an unknown split, an unfinished run, another teacher, or missing data.
    """
    report = run.report()
    predict = Labeller(load_student(run), pick_device(run.config.device)).predict
    config, found = read_rows(run, split, data)
    if rows is not None:
        split, found = "given", read_labelled(rows, config.facts)
    if found is None:
        result = {"split": None, "over_rounds": []} | without_rows(run, predict)
    else:
        ask = ask_teacher(config, run, teacher)
        result = {"split": split} | on_rows(found, config.facts.class_names, ask, predict)
        result["over_rounds"] = _over_rounds(run, found)
    write_json(run.private / "evaluation.json", result)
    report["teacher"]["accuracy"] = result["teacher"]["accuracy"]
    report["student"] |= result["student"]
    report["evaluation"] = {k: result[k] for k in ("split", "rows", "agreement_with")}
    run.write_report(report)
    if run.data_is_public:
        write_card(run, read_json(run.release / "statement.json"), result)
        seal(run)
    return result


def _over_rounds(run: Run, rows: Split) -> list[dict[str, Any]]:
    """Accuracy of the students that were kept of some rounds."""
    device = pick_device(run.config.device)
    return [
        {"round": facts["round"], "answers": facts["answers"],
         "accuracy": accuracy(Labeller(student, device).predict, rows)}
        for student, facts in kept_students(run)
    ]  # fmt: skip


def read_rows(run: Run, split: str, data: Path | None = None) -> tuple[Config, Split | None]:
    """The run's configuration, with another `data.root` if one is given, and its private rows.

    Raises:
        UserError: an unknown split, or missing data.
    """
    if split not in _SPLITS:
        raise UserError(f"split: {split!r}; accepted: {', '.join(_SPLITS)}")
    config = run.config
    if config.data.name == "none":
        if data is not None:
            raise UserError("--data: accepted where data.name is not none; --rows takes labelled "
                            "pictures")  # fmt: skip
        return config, None
    root = {"root": data} if data is not None else {}
    config = config.model_copy(update={"data": config.data.model_copy(update=root)})
    rows: Split | None = getattr(load_data(config.data), split)
    if rows is None:
        raise UserError(f"--split {split}: the data have no such rows; accepted: holdout, train, "
                        "or --rows PATH with labelled pictures")  # fmt: skip
    return config, rows


def ask_teacher(config: Config, run: Run, moved: Path | None) -> Callable[[Tensor], Tensor]:
    """The run's frozen teacher: uint8 images [B, C, H, W] -> its logits or votes [B, K].

    Raises:
        UserError: no teacher is there, or it is another one.
    """
    if config.privacy.route == "federated":
        from dpsd.evaluation.federation import federation_teacher

        return federation_teacher(config)
    return load_teacher(*find_teacher(config, run, moved))


def find_teacher(config: Config, run: Run, moved: Path | None) -> tuple[Config, TeacherFolder]:
    """The configuration that finds the run's teacher, moved or not, and the teacher's folder.

    Raises:
        UserError: no teacher is there, or it is another one.
    """
    home, update = run.teacher_folder, dict[str, Path]()
    if moved is not None and moved.is_file():
        update = {"weights": moved}
    elif moved is not None:
        home = moved
    folder = read_folder(home)
    if folder.uuid != run.teacher:
        raise UserError(
            f"teacher {folder.path}: is teacher {folder.uuid}, the run transcribed {run.teacher}"
        )
    own = config.teacher.model_copy(update={"path": home} | update)
    return config.model_copy(update={"teacher": own}), folder
