"""The students of some rounds, kept so that `evaluate` can measure them after the run.

While a run goes on, the student meets no private row. What is kept follows from the privatised
answers alone.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from dpsd.config import PublicFacts
from dpsd.runs.folder import Run, write_weights
from dpsd.runs.release import read_student, student_header

_MOST = 8


def is_kept(round: int, rounds: int) -> bool:
    """Whether the student of this round, counted from 0, is kept: at most eight, evenly spaced."""
    n = min(rounds, _MOST)
    return (round + 1) * n // rounds > round * n // rounds


def keep_student(
    run: Run, facts: PublicFacts, state: dict[str, Tensor], round: int, answers: int
) -> None:
    """Write the weights of a round's student into `private/rounds/`, whole or not at all.

    Raises:
        UserError: the disk is full or not writable.
    """
    folder = run.private / "rounds"
    folder.mkdir(exist_ok=True)
    header = student_header(run.config.student.model, facts) | {"round": round, "answers": answers}
    write_weights(folder / f"{round:06d}.safetensors", state, header)


def kept_students(run: Run) -> Iterator[tuple[nn.Module, dict[str, Any]]]:
    """The kept students, oldest first; each with its `round`, from 0, and the `answers` until then.

    Raises:
        UserError: a damaged file.
    """
    for path in sorted((run.private / "rounds").glob("*.safetensors")):
        yield read_student(path)
