"""Commands on a finished run: evaluate, sample, export."""

import argparse
from pathlib import Path

from dpsd.cli.options import Commands, add_command, add_json, as_json, count, number
from dpsd.console import say
from dpsd.errors import UserError


def add_evaluate(commands: Commands) -> None:
    """`dpsd evaluate RUN`."""
    text = "measure a run on private data"
    added = add_command(commands, "evaluate", run_evaluate, text, "RUN")
    added.add_argument("--split", choices=("test", "holdout", "train"), default="test")
    added.add_argument("--teacher", type=Path, metavar="DIR", help="the teacher's folder")
    added.add_argument("--data", type=Path, metavar="DIR", help="the data's folder")
    added.add_argument("--release-accuracy", action="store_true",
                       help="put the accuracy on test rows on the card, with noise")  # fmt: skip
    added.add_argument("--epsilon", type=number, metavar="X",
                       help="of --release-accuracy, for one test record")  # fmt: skip
    add_json(added)


def run_evaluate(args: argparse.Namespace) -> int:
    """Measure a run on private data."""
    from dpsd.device import use_threads
    from dpsd.evaluation.evaluate import evaluate
    from dpsd.evaluation.table import evaluation_table
    from dpsd.runs.folder import open_run

    if args.release_accuracy != (args.epsilon is not None):
        raise UserError(
            "--release-accuracy: needs --epsilon X, for one test record, and --epsilon needs it"
        )
    run = open_run(args.target)
    threads = use_threads(run.config.threads)
    if not args.json:
        say(threads)
    if args.release_accuracy:
        from dpsd.evaluation.release_accuracy import accuracy_text, release_accuracy

        if args.split != "test" or args.teacher is not None:
            raise UserError("--release-accuracy: accepted for --split test, without --teacher")
        released = release_accuracy(run, args.epsilon, data=args.data)
        say(as_json(released) if args.json else accuracy_text(released))
        return 0
    result = evaluate(run, split=args.split, teacher=args.teacher, data=args.data)
    say(as_json(result) if args.json else evaluation_table(result))
    return 0


def add_sample(commands: Commands) -> None:
    """`dpsd sample RUN`."""
    text = "write labelled synthetic images"
    added = add_command(commands, "sample", run_sample, text, "RUN")
    added.add_argument("--n", type=count, required=True, metavar="N", help="number of images")
    added.add_argument("--out", type=Path, required=True, metavar="FILE.npz")


def run_sample(args: argparse.Namespace) -> int:
    """Write labelled synthetic images."""
    from dpsd.config import load_config
    from dpsd.device import use_threads
    from dpsd.runs.release import release_folder, sample

    say(use_threads(load_config(release_folder(args.target) / "config.yaml").threads))
    sample(args.target, args.n, args.out)
    say(f"{args.n:,} labelled synthetic images in {args.out}")
    return 0


def add_export(commands: Commands) -> None:
    """`dpsd export RUN`."""
    text = "write the student as a file that runs without dpsd"
    added = add_command(commands, "export", run_export, text, "RUN")
    added.add_argument("--format", choices=("torch", "onnx"), required=True)
    added.add_argument("--out", type=Path, metavar="FILE")


def run_export(args: argparse.Namespace) -> int:
    """Write the student as a file that runs without dpsd."""
    from dpsd.runs.export import export

    say(f"student in {export(args.target, args.format, args.out)}")
    return 0
