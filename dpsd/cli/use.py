"""Commands on a finished run: evaluate, verify, sample, export."""

import argparse
from pathlib import Path

from dpsd.cli.options import Commands, add_command, add_json, as_json, count
from dpsd.console import say


def add_evaluate(commands: Commands) -> None:
    """`dpsd evaluate RUN`."""
    text = "measure a run on private data"
    added = add_command(commands, "evaluate", run_evaluate, text, "RUN")
    added.add_argument("--split", choices=("test", "holdout", "train"), default="test")
    added.add_argument("--teacher", type=Path, metavar="DIR", help="the teacher's folder")
    added.add_argument("--data", type=Path, metavar="DIR", help="the data's folder")
    add_json(added)


def run_evaluate(args: argparse.Namespace) -> int:
    """Measure a run on private data."""
    from dpsd.device import use_threads
    from dpsd.evaluation.evaluate import evaluate
    from dpsd.evaluation.table import evaluation_table
    from dpsd.runs.folder import open_run

    run = open_run(args.target)
    threads = use_threads(run.config.threads)
    if not args.json:
        say(threads)
    result = evaluate(run, split=args.split, teacher=args.teacher, data=args.data)
    say(as_json(result) if args.json else evaluation_table(result))
    return 0


def add_verify(commands: Commands) -> None:
    """`dpsd verify RELEASE`."""
    text = "recompute a guarantee, check the hashes"
    add_json(add_command(commands, "verify", run_verify, text, "RELEASE"))


def run_verify(args: argparse.Namespace) -> int:
    """Recompute the guarantee of a release."""
    from dpsd.privacy.statement_text import statement_text
    from dpsd.privacy.verify import verify_release

    facts = verify_release(args.target)
    if args.json:
        say(as_json(facts | {"verified": True}))
    else:
        say(statement_text(facts))
        say(
            f"verified: every figure follows from the facts, and {len(facts['files'])} files "
            "have the stated hashes"
        )
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
