"""Transcribe a private model into a differentially private student that may be released.

The Python API is `dpsd.plan`, `dpsd.transcribe`, `dpsd.load_student`, `dpsd.load_statement` and
`dpsd.load_config`; the command line is a thin layer over them. Importing dpsd imports no torch.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from dpsd.config import Config
    from dpsd.privacy.notebook import Statement
    from dpsd.privacy.plan import Plan
    from dpsd.runs.folder import Run

__all__ = ["__version__", "load_config", "load_statement", "load_student", "plan", "transcribe"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dpsd")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_config(path: "Path | str | None", overrides: Sequence[str] = ()) -> "Config":
    """Read a YAML file, apply `a.b=c` overrides, validate.

    Raises:
        UserError: one line with the field, the value and what is accepted.
    """
    from dpsd.config import load_config

    return load_config(path, overrides)


def plan(config: "Config | Path | str | dict[str, Any]") -> "Plan":
    """What a run of this configuration will release and guarantee; reads no data.

    Args:
        config: a `Config`, a YAML file, or a tree of plain values.

    Raises:
        UserError: bad input, in one line.
    """
    from dpsd.privacy.plan import make_plan
    from dpsd.transcription.session import check_room

    config = _config(config)
    plan = make_plan(config)
    check_room(config, plan)
    return plan


def transcribe(
    config: "Config | Path | str | dict[str, Any]",
    *,
    out: "Path | str | None" = None,
    resume: bool = False,
    data_is_public: bool = False,
    evaluate: bool = True,
    progress: Callable[[dict[str, Any]], None] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> "Run":
    """Transcribe the private teacher into a student that may be released.

    Args:
        config: a `Config`, a YAML file, or a tree of plain values.
        out: run folder, new; default `runs/<data>-<mechanism>-<time>`.
        resume: go on with a stopped run in `out`.
        data_is_public: the card also shows figures measured on the data.
        evaluate: measure the student on the private holdout at the end, where there are data.
        progress: receives the public figures of each round.
        say: receives lines for the user.

    Returns:
        The finished run (None on the other ranks of a process group).

    Raises:
        UserError: bad input, in one line.
    """
    from dpsd.device import use_threads
    from dpsd.transcription.transcribe import transcribe

    config = _config(config)
    say(use_threads(config.threads))
    measured = evaluate and config.data.name != "none"
    if measured and config.teacher.weights is not None:
        from dpsd.data.load import load_data

        load_data(config.data)  # what cannot be read is said before an answer is paid
    run = transcribe(
        config, out=out, resume=resume, data_is_public=data_is_public, progress=progress, say=say
    )
    if measured and run is not None:
        from dpsd.errors import UserError
        from dpsd.evaluation.evaluate import evaluate as measure

        try:
            measure(run, split="holdout")
        except UserError as e:
            text = f"the release in {run.release} is complete, and only measuring it failed"
            raise UserError(f"{text}: {e}; `dpsd evaluate {run.path}` measures again") from e
    return run


def load_student(run: "Run | Path | str") -> "nn.Module":
    """The released student: float images [B, C, H, W] from 0 to 1 in, logits [B, K] out.

    Args:
        run: a finished run, its folder, or a release folder by itself.

    Raises:
        UserError: no release is there.
    """
    from dpsd.runs.release import load_student

    return load_student(run)


def load_statement(run: "Run | Path | str") -> "Statement":
    """What a release says of itself: unit, epsilon, what is covered and what is not.

    Args:
        run: a finished run, its folder, or a release folder by itself.

    Raises:
        UserError: no release is there.
    """
    from dpsd.privacy.notebook import read_statement
    from dpsd.runs.release import release_folder

    return read_statement(release_folder(run))


def _config(config: "Config | Path | str | dict[str, Any]") -> "Config":
    from dpsd.config import Config, load_config, parse_config

    if isinstance(config, Config):
        return config
    return parse_config(config) if isinstance(config, dict) else load_config(config)
