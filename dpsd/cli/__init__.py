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
from dpsd.cli import config, demo, guard, make, marks, prepare, serve, start, trust, use
from dpsd.cli.attacks import add_attack, add_audit
from dpsd.cli.examples import explain
from dpsd.cli.options import Parser, add_json
from dpsd.cli.report import add_report
from dpsd.console import USUAL, say, set_level
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
    args = make_parser().parse_args(argv)
    set_level(getattr(args, "talk", None) or USUAL)
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


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands, each with an example."""
    parser = Parser(prog="dpsd", description=(dpsd.__doc__ or "").split("\n")[0])
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        start.add_init, demo.add_demo, config.add_config,
        prepare.add_teacher, prepare.add_manifest, prepare.add_check, prepare.add_plan,
        make.add_transcribe, make.add_federate,
        use.add_evaluate, use.add_sample, use.add_export, add_report,
        serve.add_serve, serve.add_account, guard.add_guard,
        marks.add_watermark, marks.add_claim,
        trust.add_verify, trust.add_ledger, trust.add_budget, trust.add_key,
    ):  # fmt: skip
        add(commands)
    for attack in (add_attack(commands), add_audit(commands)):
        add_json(attack)
    for name, command in commands.choices.items():
        explain(command, name)
    return parser


class _Version(argparse.Action):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs | {"nargs": 0, "help": "print the version"})

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        say(f"dpsd {dpsd.__version__}")
        parser.exit()


def _fail(message: str, code: int = 2) -> int:
    sys.stderr.write(f"dpsd: {' '.join(message.split())}\n")
    return code
