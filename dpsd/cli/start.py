"""The command `init`: a first configuration from five answers."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsd.cli.options import Commands, count, number
from dpsd.console import say
from dpsd.errors import UserError

if TYPE_CHECKING:
    from dpsd.planning.first import Holdings

_FLAGS = ("data", "weights", "train", "users", "clients")


def add_init(commands: Commands) -> None:
    """`dpsd init [FILE]`."""
    text = "write a first configuration from what you have, and say what it will protect"
    more_text = f"{text}. At a terminal it asks five questions; a flag answers one beforehand."
    added = commands.add_parser("init", help=text, description=more_text)
    added.set_defaults(run=run_init)
    added.add_argument("target", metavar="FILE", nargs="?", type=Path, default=Path("dpsd.yaml"),
                       help="the configuration to write (default: dpsd.yaml)")  # fmt: skip
    added.add_argument("--data", metavar="X",
                       help="the private training data: a name such as mnist, a folder of images, "
                       "an npz file, package.module:callable, or none")  # fmt: skip
    added.add_argument("--weights", metavar="FILE", help="a trained model, or none")
    added.add_argument("--train", choices=("dp", "shards", "no"),
                       help="may teachers be trained anew: by DP-SGD, on shards of the data "
                       "alone, or not (default: dp where there are data)")  # fmt: skip
    added.add_argument("--users", metavar="FILE.npz",
                       help="whose each record is, where one person has several")  # fmt: skip
    added.add_argument("--clients", type=_clients, metavar="N",
                       help="how many keep their data at home; 0 for none")  # fmt: skip
    more = added.add_argument_group("details of these answers")
    more.add_argument("--model", metavar="NAME", help="of --weights: resnet18, package.module:f")
    more.add_argument("--shape", type=_shape, metavar="C,H,W", help="of an image; becomes public")
    more.add_argument("--classes", type=count, metavar="K", help="becomes public")
    more.add_argument("--rows", type=count, metavar="N", help="training records, about; public")
    more.add_argument("--dataset", metavar="NAME", help="your name for these people's data")
    more.add_argument("--epsilon", type=number, metavar="X", help="for one unit of the route")
    added.add_argument("--force", action="store_true", help="write over an existing file")


def run_init(args: argparse.Namespace) -> int:
    """Write a first configuration."""
    path: Path = args.target
    if path.exists() and not args.force:
        raise UserError(f"{path}: is there already; choose another FILE, or write over it: --force")
    from dpsd.files import whole_file
    from dpsd.planning.first import first_config

    if at_terminal():
        _ask(args)
    elif all(getattr(args, flag) is None for flag in _FLAGS):
        raise UserError(
            "init: no terminal to ask at; give flags, as in --data my_images --shape 3,64,64 "
            "--classes 10 --rows 20000"
        )
    _look(args)
    _missing(args)
    first = first_config(_holdings(args), str(path))
    with whole_file(path) as partial:
        partial.write_text(first.text)
    say(f"{path}: route {first.config.privacy.route}, unit {first.config.privacy.unit}\n")
    say("\n".join(first.protects))
    say("\nNext:\n" + "\n".join(f"  {command}" for command in first.next))
    return 0


def at_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stdout.isatty()


@dataclass(frozen=True)
class _Question:
    flag: str
    text: str
    read: Callable[[str], Any] = str
    needed: bool = True


_QUESTIONS = (
    _Question("data", "1. Which private training data do you have? A name (digits, mnist, "
              "fashion_mnist, cifar10), a folder of images, an npz file; empty: none"),
    _Question("weights", "2. Which trained model do you have? Its file; empty: none"),
    _Question("train", "3. May teachers be trained anew on the data? dp: yes, by DP-SGD; shards: "
              "yes, but not by DP-SGD; no: my model must be the teacher"),
    _Question("users", "4. Does one person have several records? An npz of user ids; empty: no"),
    _Question("clients", "5. How many clients keep their data at home? Empty: none",
              lambda text: _clients(text)),
)  # fmt: skip


def _ask(args: argparse.Namespace) -> None:
    """Fill in what no flag has said: five questions, and the details that an answer needs."""
    for question in _QUESTIONS:
        needless = question.flag in ("train", "users", "clients") and args.data == "none"
        if getattr(args, question.flag) is None and not needless:
            _put(args, question)
        if question.flag == "data" and not _named(args.data):
            _look(args)
            for detail in (
                _Question("shape", "   Channels, height, width of an image, as 3,64,64", _shape),
                _Question("classes", "   How many classes", count),
            ):
                _put(args, detail)
            if args.data != "none":
                _put(args, _Question("rows", "   How many training records, about", count))
                _put(args, _Question("dataset", "   Your name for these people's data"))
            else:
                _put(args, _Question("dataset", "   Your name for the data that your model was "
                                     "trained on; empty: none", needed=False))  # fmt: skip
        if question.flag == "weights" and args.weights != "none":
            _put(args, _Question("model", "   Its architecture: resnet18, or package.module:f"))


def _look(args: argparse.Namespace) -> None:
    """Fill in what can be seen of the data, if they are there, and say so."""
    from dpsd.data.glance import glance

    if not _is_path(args.data) or all((args.shape, args.classes, args.rows)):
        return
    if (seen := glance(Path(args.data))) is None:
        return
    step = 10 ** max(0, len(str(seen.rows)) - 2)
    rows = seen.rows // step * step  # two digits, as it may become public
    told = []
    for flag, value in (("shape", seen.shape), ("classes", seen.classes), ("rows", rows)):
        if getattr(args, flag) is None and value:
            setattr(args, flag, value)
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            told.append(f"--{flag} {shown}")
    if told:
        say(f"seen in {args.data}: {' '.join(told)}; what the configuration says of it is public")


def _missing(args: argparse.Namespace) -> None:
    """Say which files are not there; they may come later."""
    for flag in ("data", "weights", "users"):
        if _is_path(file := getattr(args, flag)) and not Path(file).exists():
            say(f"--{flag}: {file} is not there yet")


def _is_path(given: str | None) -> bool:
    return given not in (None, "none") and ":" not in str(given) and not _named(str(given))


def _put(args: argparse.Namespace, question: _Question) -> None:
    """Ask until the answer can be read; an empty one is none."""
    while getattr(args, question.flag) is None:
        sys.stdout.write(f"{question.text}: ")
        sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            raise UserError("init: the input ended before the last answer")
        try:
            setattr(args, question.flag, _read(question, line.strip()))
        except argparse.ArgumentTypeError as e:
            say(f"   {e}")


def _read(question: _Question, text: str) -> Any:
    if not text and question.flag in ("data", "weights", "users"):
        return "none"
    if question.flag == "train":
        text = text or "dp"
        if text not in ("dp", "shards", "no"):
            raise argparse.ArgumentTypeError(f"{text} is not accepted: dp, shards or no")
    if not text and question.flag == "clients":
        return 0
    if not text and question.needed and question.flag in ("model", "dataset"):
        raise argparse.ArgumentTypeError("an answer is needed")
    return question.read(text)


def _named(data: str) -> bool:
    from dpsd.config import NAMED

    return data in NAMED


def _holdings(args: argparse.Namespace) -> "Holdings":
    from dpsd.planning.first import Holdings

    def given(text: str | None) -> str | None:
        return None if text == "none" else text

    data, weights = given(args.data), given(args.weights)
    if args.train is None and data is not None and weights is not None:
        raise UserError(
            "--train: missing; with data and weights say dp or shards (teachers are trained anew "
            "and records are protected), or no (the weights are the teacher)"
        )
    return Holdings(
        data=data, shape=args.shape, classes=args.classes, rows=args.rows,
        dataset=args.dataset or None, weights=weights, model=args.model, users=given(args.users),
        clients=args.clients or None, training=args.train or ("no" if data is None else "dp"),
        epsilon=args.epsilon,
    )  # fmt: skip


def _shape(text: str) -> tuple[int, int, int]:
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text} is not accepted: channels,height,width")
    channels, height, width = (int(part) for part in parts)
    return channels, height, width


def _clients(text: str) -> int:
    if not text.isdigit() or int(text) == 1:
        raise argparse.ArgumentTypeError(f"{text} is not accepted: 0, or a number from 2")
    return int(text)
