"""Commands on a finished run: evaluate, sample, export."""

import argparse
from pathlib import Path

from dpsd.cli.options import Commands, add_command, add_json, as_json, count, number
from dpsd.cli.report import refresh
from dpsd.console import note, say
from dpsd.errors import UserError


def add_evaluate(commands: Commands) -> None:
    """`dpsd evaluate RUN`."""
    text = "measure a run on private data"
    added = add_command(commands, "evaluate", run_evaluate, text, "RUN")
    added.add_argument("--split", choices=("test", "holdout", "train"), default="test",
                       help="which rows to measure on")  # fmt: skip
    added.add_argument("--teacher", type=Path, metavar="DIR", help="the teacher's folder")
    added.add_argument("--data", type=Path, metavar="DIR", help="the data's folder")
    added.add_argument("--rows", type=Path, metavar="PATH",
                       help="measure on these labelled pictures: a folder with a folder for each "
                       "class, or an npz file with images and labels")  # fmt: skip
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
        note(threads)
    if args.release_accuracy:
        from dpsd.evaluation.release_accuracy import accuracy_text, release_accuracy

        if args.split != "test" or args.teacher is not None or args.rows is not None:
            accepted = "accepted for --split test, without --teacher and --rows"
            raise UserError(f"--release-accuracy: {accepted}")
        released = release_accuracy(run, args.epsilon, data=args.data)
        say(as_json(released) if args.json else accuracy_text(released))
        refresh(run, (lambda text: None) if args.json else say)
        return 0
    result = evaluate(run, split=args.split, teacher=args.teacher, data=args.data,
                      rows=args.rows)  # fmt: skip
    say(as_json(result) if args.json else evaluation_table(result))
    refresh(run, (lambda text: None) if args.json else say)
    return 0


def add_sample(commands: Commands) -> None:
    """`dpsd sample RUN`."""
    text = "write labelled synthetic images, or measure what a fresh model learns from them"
    added = add_command(commands, "sample", run_sample, text, "RUN")
    added.add_argument("--n", type=count, required=True, metavar="N", help="number of images")
    added.add_argument("--out", type=Path, metavar="FILE.npz",
                       help="images, the student's classes and its probabilities")  # fmt: skip
    added.add_argument("--balanced", action="store_true",
                       help="equally many images of each class, by the student's label; at most "
                       "20 candidates for each image are drawn, times K of --best")  # fmt: skip
    added.add_argument("--best", type=count, default=1, metavar="K",
                       help="of K candidates of a class, keep that of which the student is "
                       "surest")  # fmt: skip
    added.add_argument("--select", type=count, metavar="K",
                       help="of K images, rather take those of which the student is unsure, and "
                       "rare classes; default: the run's generator.select")  # fmt: skip
    added.add_argument("--check", action="store_true",
                       help="train a fresh model on the samples alone and measure it on private "
                       "rows; needs a run, writes private/downstream.json")  # fmt: skip
    checks = added.add_argument_group("with --check")
    checks.add_argument("--split", choices=("test", "holdout", "train"), help="default: test")
    checks.add_argument("--model", metavar="NAME", help="the fresh model; not the student's")
    checks.add_argument("--passes", type=count, metavar="P", help="over the samples")
    checks.add_argument("--hard", action="store_true", default=None,
                        help="learn the student's classes, not its probabilities")  # fmt: skip
    checks.add_argument("--temperature", type=number, metavar="T",
                        help="of the student's probabilities; above 1 they tell more of unlikely "
                        "classes; default: 1")  # fmt: skip
    checks.add_argument("--teacher", type=Path, metavar="DIR", help="the teacher's folder")
    checks.add_argument("--data", type=Path, metavar="DIR", help="the data's folder")
    checks.add_argument("--rows", type=Path, metavar="PATH",
                        help="labelled pictures, as of `dpsd evaluate`")  # fmt: skip
    checks.add_argument("--json", action="store_true", default=None, help="print JSON")


_OF_CHECK = ("split", "model", "passes", "hard", "temperature", "teacher", "data", "rows",
             "json")  # fmt: skip


def run_sample(args: argparse.Namespace) -> int:
    """Write labelled synthetic images, and check them."""
    from dpsd.config import load_config
    from dpsd.device import use_threads
    from dpsd.runs.release import release_folder
    from dpsd.runs.samples import draw_samples

    if not args.check:
        for option in _OF_CHECK:
            if getattr(args, option) is not None:
                raise UserError(f"--{option}: accepted with --check")
        if args.out is None:
            raise UserError("--out: missing; name a FILE.npz, or give --check")
    else:
        from dpsd.evaluation.downstream import downstream, downstream_table, fresh_model
        from dpsd.runs.folder import open_run

        run = open_run(args.target)
        fresh_model(run.config.student.model, args.model)
        if args.temperature is not None and args.hard:
            raise UserError("--temperature: accepted without --hard")
    talk = (lambda text: None) if args.json else note
    tell = (lambda text: None) if args.json else say
    talk(use_threads(load_config(release_folder(args.target) / "config.yaml").threads))
    choice = {"balanced": args.balanced, "best": args.best, "select": args.select}
    samples = draw_samples(args.target, args.n, **choice)
    if samples.short:
        tell(samples.shortage())
    if args.out is not None:
        samples.write(args.out)
        tell(f"{args.n:,} labelled synthetic images in {args.out}")
    if args.check:
        result = downstream(
            run, samples, split=args.split or "test", choice=choice, model=args.model,
            passes=args.passes, soft=not args.hard,
            temperature=1.0 if args.temperature is None else args.temperature,
            teacher=args.teacher, data=args.data, rows=args.rows, say=talk,
        )  # fmt: skip
        say(as_json(result) if args.json else downstream_table(result))
    return 0


def add_export(commands: Commands) -> None:
    """`dpsd export RUN`."""
    text = "write the student as a file that runs without dpsd"
    added = add_command(commands, "export", run_export, text, "RUN")
    added.add_argument("--format", choices=("torch", "onnx"), required=True,
                       help="a torch.export program, or ONNX (needs dpsd[onnx])")  # fmt: skip
    added.add_argument("--out", type=Path, metavar="FILE", help="default: beside the release")


def run_export(args: argparse.Namespace) -> int:
    """Write the student as a file that runs without dpsd."""
    from dpsd.runs.export import export

    say(f"student in {export(args.target, args.format, args.out)}")
    return 0
