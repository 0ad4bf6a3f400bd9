"""The command line: `dpsd`, or `python -m dpsd`. Heavy imports stay inside the subcommands."""

import argparse
import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dpsd
from dpsd.cli import commands as commands
from dpsd.cli.attacks import add_attack, add_audit
from dpsd.cli.options import Parser, add_setters, count
from dpsd.console import say
from dpsd.errors import UserError
from dpsd.imports import brief

_USERS_ERRNO = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        0; 1 where a check failed; 2 for bad input, after one line on stderr; 130 if interrupted.
    """
    args = _parser().parse_args(argv)
    try:
        with _one_line_warnings():
            return int(args.run(args))
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except UserError as e:
        return _fail(f"error: {e}")
    except ImportError as e:
        name = (e.name or "dpsd").split(".")[0]
        if name == "dpsd":
            raise
        return _fail(f"error: {name}: missing or incomplete ({brief(e)}); pip install {name}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as e:
        if e.errno not in _USERS_ERRNO:
            raise
        return _fail(f"error: {f'{e.filename}: ' if e.filename else ''}{e.strerror or e}")
    except Exception as e:
        if "No space left on device" not in str(e):  # how safetensors tells it
            raise
        return _fail(f"error: {e}")


@contextlib.contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Show dpsd's own warnings in a line each, and spare users what torch plans to deprecate."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Any, category: Any, filename: str, *rest: Any, **named: Any) -> None:
            if Path(filename).is_relative_to(Path(dpsd.__file__).parent):
                sys.stderr.write(f"dpsd: warning: {' '.join(str(message).split())}\n")
            else:
                usual(message, category, filename, *rest, **named)

        warnings.showwarning = show
        if not sys.warnoptions:
            warnings.simplefilter("ignore", FutureWarning)
        yield


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="dpsd", description=(dpsd.__doc__ or "").split("\n")[0])
    parser.add_argument("--version", action=_Version)
    added_to = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, function: Any, text: str, target: str, nargs: str | None = None
    ) -> argparse.ArgumentParser:
        added = added_to.add_parser(name, help=text, description=text)
        added.set_defaults(run=function)
        kind = {"CONFIG": "a YAML file", "RUN": "a run folder", "RELEASE": "a release folder"}
        added.add_argument("target", metavar=target, type=Path, nargs=nargs, help=kind[target])
        if target == "CONFIG":
            add_setters(added)
        return added

    teacher = command(
        "teacher", commands.run_teacher, "train a teacher on the private data", "CONFIG"
    )
    teacher.add_argument("--dp", action="append", default=[], metavar="A=B",
                         help="DP-SGD, as in epsilon=3; same as --set teacher.dp.A=B")  # fmt: skip
    teacher.add_argument("--shards", type=count, metavar="N",
                         help="same as --set teacher.shards=N")  # fmt: skip
    rows = command(
        "manifest", commands.run_manifest, "number the records of an image folder", "CONFIG"
    )
    rows.add_argument("--out", type=Path, required=True, metavar="FILE", help="list, for data.rows")
    plan = command(
        "plan",
        commands.run_plan,
        "print what a run releases and guarantees; touches no data",
        "CONFIG",
    )
    plan.add_argument("--route", choices=("auto", "single", "ensemble", "inherited"),
                      help="find a route and its size instead, or try this one")  # fmt: skip
    plan.add_argument("--unit", choices=("answer", "record", "user"),
                      help="what that route is to protect (default: record)")  # fmt: skip
    plan.add_argument("--rows", type=count, metavar="N", help="training records, a public number")
    plan.add_argument("--assume", choices=("mnist", "fashion_mnist"),
                      help="public data on which votes are assumed")  # fmt: skip
    t = command("transcribe", commands.run_transcribe, "make the private student", "CONFIG")
    f = command(
        "federate", commands.run_federate, "make the private student from many clients", "CONFIG"
    )
    f.add_argument("--runtime", choices=("in-process", "simulation", "deployment"),
                   help="same as --set federated.runtime=X")  # fmt: skip
    f.add_argument("--credentials", type=Path, metavar="DIR",
                   help="certificates and node keys of --runtime deployment")  # fmt: skip
    f.add_argument("--port", type=count, metavar="N",
                   help="of the SuperLink (default: a free one)")  # fmt: skip
    for added in (t, f):
        _add_run_flags(added)
    check = command(
        "check-teacher", commands.run_check, "try the teacher, tell what to mend", "CONFIG"
    )
    evaluate = command("evaluate", commands.run_evaluate, "measure a run on private data", "RUN")
    evaluate.add_argument("--split", choices=("test", "holdout", "train"), default="test")
    evaluate.add_argument("--teacher", type=Path, metavar="DIR", help="the teacher's folder")
    evaluate.add_argument("--data", type=Path, metavar="DIR", help="the data's folder")
    verify = command(
        "verify", commands.run_verify, "recompute a guarantee, check the hashes", "RELEASE"
    )
    sample = command("sample", commands.run_sample, "write labelled synthetic images", "RUN")
    sample.add_argument("--n", type=count, required=True, metavar="N", help="how many")
    sample.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    export = command("export", commands.run_export, "write a file that runs without dpsd", "RUN")
    export.add_argument("--format", choices=("torch", "onnx"), required=True)
    export.add_argument("--out", type=Path, metavar="FILE")
    attack, audit = add_attack(added_to), add_audit(added_to)
    for added in (plan, check, evaluate, verify, attack, audit):
        added.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    """What every command that makes a run accepts."""
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/...)")
    parser.add_argument("--resume", action="store_true", help="go on with the stopped run in --out")
    parser.add_argument(
        "--data-is-public",
        action="store_true",
        help="figures measured on the data go on the card too",
    )
    parser.add_argument(
        "--insecure-seeded-noise",
        action="store_true",
        help="noise from the seed, for tests and benchmarks: NOT PRIVATE",
    )
    parser.add_argument("--no-evaluate", action="store_true", help="do not measure on the holdout")


class _Version(argparse.Action):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs | {"nargs": 0, "help": "print the version"})

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        say(f"dpsd {dpsd.__version__}")
        parser.exit()


def _fail(message: str, code: int = 2) -> int:
    sys.stderr.write(f"dpsd: {' '.join(message.split())}\n")
    return code
