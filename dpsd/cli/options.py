"""What the commands share: the parser, the flags that set keys of a configuration, output."""

import argparse
import contextlib
import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsd.console import QUIET, VERBOSE

if TYPE_CHECKING:
    from dpsd.config import Config

ALIASES = {"epsilon": "privacy.epsilon", "seed": "seed", "device": "device"}
"""Options of every command that takes a configuration, and the keys that they set."""
UNMEASURED = "not measured"
_SETTING = re.compile(r"[\w.]+=")


class Parser(argparse.ArgumentParser):
    """A parser with options that take several values and yet leave words to the positionals.

    `--set` and `--dp` take the words that look like `key=value`; `--beside` takes all words but
    those that the positionals still need.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, after each of several values has got an option of its own."""
        words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(self._one_value_each(words), namespace)

    def _one_value_each(self, words: list[str]) -> list[str]:
        """`--set a=1 b=2 CONFIG` as `--set=a=1 --set=b=2 CONFIG`."""
        groups: list[tuple[str, list[str]]] = [("", [])]
        for word in words:
            if word.startswith("-"):
                groups.append((word, []))
            else:
                groups[-1][1].append(word)
        needed = len(self._get_positional_actions())
        needed -= sum(len(v) - self._taken(o, v) for o, v in groups if o != "--beside")
        out = []
        for option, values in groups:
            n = self._taken(option, values)
            if option == "--beside":
                n = max(1, len(values) - max(0, needed))
            if option in ("--set", "--dp", "--beside") and values:
                out += [f"{option}={value}" for value in values[:n]] + values[n:]
            else:
                out += [option, *values] if option else values
        return out

    def _taken(self, option: str, values: list[str]) -> int:
        """How many of the words behind an option are its values."""
        if option in ("--set", "--dp"):  # the first word always: a bad one is refused by name
            more = (i for i, word in enumerate(values) if i and not _SETTING.match(word))
            return next(more, len(values))
        action = self._option_string_actions.get(option)
        return min(len(values), int(action is not None and action.nargs != 0))


class Help(argparse.RawDescriptionHelpFormatter):
    """Help that shows each default which is not plain, once, and keeps examples as they stand."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if default in (None, False, argparse.SUPPRESS, "", []) or "default" in text:
            return text
        return f"{text} (default: %(default)s)"


Commands = Any
"""What `add_subparsers` gives: a command is added to it."""
_TARGETS = {
    "CONFIG": "a YAML file", "RUN": "a run folder", "RELEASE": "a release folder",
    "DATASET": "a data set's name",
    "LEDGER": "a data set's name, a run that was charged, or a folder with a ledger",
}  # fmt: skip


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    target: str,
) -> argparse.ArgumentParser:
    """A command on a CONFIG (with the flags that change its keys), or on another target.

    `run` gives the exit code: 0, or 1 where a check failed.
    """
    added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    added.set_defaults(run=run)
    kind = str if target in ("DATASET", "LEDGER") else Path
    added.add_argument("target", metavar=target, type=kind, help=_TARGETS[target])
    if target == "CONFIG":
        add_setters(added, hidden=("epsilon",) if name == "teacher" else ())
    return added


def add_talk(parser: argparse.ArgumentParser) -> None:
    """`--quiet` and `--verbose`."""
    talk = parser.add_mutually_exclusive_group()
    for name, level, text in (
        ("quiet", QUIET, "print results alone, no progress"),
        ("verbose", VERBOSE, "print a line on every round and every pass"),
    ):
        talk.add_argument(f"--{name}", dest="talk", action="store_const", const=level, help=text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_setters(parser: argparse.ArgumentParser, hidden: Sequence[str] = ()) -> None:
    """The flags that change keys of the configuration; help is silent about the hidden ones."""
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C",
                        help="override keys of the configuration; takes several")  # fmt: skip
    for alias, key in ALIASES.items():
        text = argparse.SUPPRESS if alias in hidden else f"same as --set {key}=X"
        parser.add_argument(f"--{alias}", metavar="X", help=text)


def load(args: argparse.Namespace) -> "Config":
    """The configuration that the arguments name and change.

    A mechanism set here takes the place of the file's, with the keys that only the latter reads.
    """
    from dpsd.config import load_config

    return load_config(args.target, overrides(args), warnings.warn)


def overrides(args: argparse.Namespace) -> list[str]:
    """All `key=value` of `--set` and of the flags that are short for it."""
    short = [f"{key}={value}" for alias, key in ALIASES.items()
             if (value := getattr(args, alias)) is not None]  # fmt: skip
    return [*args.set, *short]


def count(text: str) -> int:
    """A whole number from 1, for argparse."""
    with contextlib.suppress(ValueError):
        if int(text) >= 1:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text} is not accepted: a whole number from 1")


def number(text: str) -> float:
    """A finite number above 0, for argparse."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not accepted: a number above 0")


def as_json(tree: Any) -> str:
    """JSON for people and programs."""
    return json.dumps(tree, indent=2, allow_nan=False)
