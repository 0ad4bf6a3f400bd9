"""Commands that make a run: transcribe, federate."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

import dpsd
from dpsd.cli.options import UNMEASURED, Commands, add_command, count, load
from dpsd.cli.report import refresh
from dpsd.console import Progress, note, percent, say, show_epsilon
from dpsd.errors import UserError
from dpsd.tables import facts_table

if TYPE_CHECKING:
    from dpsd.config import Config
    from dpsd.runs.folder import Run


def add_transcribe(commands: Commands) -> None:
    """`dpsd transcribe CONFIG`."""
    text = "make the private student of a teacher"
    _add_run_flags(add_command(commands, "transcribe", run_transcribe, text, "CONFIG"))


def run_transcribe(args: argparse.Namespace) -> int:
    """Make the private student of one teacher or ensemble."""
    config = _config_of_run(args)
    leads = _leads()
    with Progress(config.loop.rounds, config.answers(), _weights(config), shown=leads) as progress:
        run = dpsd.transcribe(
            config,
            out=args.out,
            resume=args.resume,
            data_is_public=args.data_is_public,
            evaluate=not args.no_evaluate,
            progress=progress if leads else None,
            say=note if leads else lambda text: None,
        )
    if leads:
        say("\n" + (run.release / "statement.txt").read_text())
        say(_summary(run, args.no_evaluate))
        _warn_of_collapse(run)
        refresh(run)
    return 0


def add_federate(commands: Commands) -> None:
    """`dpsd federate CONFIG`."""
    text = "make the private student from many clients"
    added = add_command(commands, "federate", run_federate, text, "CONFIG")
    added.add_argument("--runtime", choices=("in-process", "simulation", "deployment"),
                       help="same as --set federated.runtime=X")  # fmt: skip
    added.add_argument("--credentials", type=Path, metavar="DIR",
                       help="certificates and node keys of --runtime deployment")  # fmt: skip
    added.add_argument("--port", type=count, metavar="N",
                       help="of the SuperLink (default: a free one)")  # fmt: skip
    _add_run_flags(added)


def run_federate(args: argparse.Namespace) -> int:
    """Make the private student of many clients' answers."""
    if args.runtime is not None:
        args.set.append(f"federated.runtime={args.runtime}")
    config = _config_of_run(args)
    deployed = config.federated.runtime == "deployment"
    for flag in ("credentials", "port"):
        if getattr(args, flag) is not None and not deployed:
            raise UserError(f"--{flag}: accepted with --runtime deployment")
    from dpsd.device import use_threads
    from dpsd.evaluation.evaluate import evaluate
    from dpsd.federated.deployment.deployed import federate_deployed
    from dpsd.federated.federate import federate

    leads = _leads()
    talk = note if leads else lambda text: None
    talk(use_threads(config.threads))
    wanted = {"out": args.out, "resume": args.resume, "data_is_public": args.data_is_public}
    if deployed:
        run = federate_deployed(
            config, **wanted, say=talk, credentials=args.credentials, port=args.port
        )
    else:
        weights = {k: v for k, v in _weights(config).items() if k != _TEACHER}
        rounds, answers = config.loop.rounds, config.answers()
        with Progress(rounds, answers, weights, shown=leads) as progress:
            run = federate(config, **wanted, progress=progress if leads else None, say=talk)
    if not leads:
        return 0
    if not args.no_evaluate:
        evaluate(run, split="holdout")
    say("\n" + (run.release / "statement.txt").read_text())
    say((run.release / "rounds.csv").read_text())
    say(_summary(run, args.no_evaluate))
    refresh(run)
    return 0


_TEACHER = "teacher: steps"


def _weights(config: "Config") -> dict[str, float]:
    """What the pieces of a run cost, roughly, in passes of one image through one network."""
    from dpsd.config import NAMED

    t, answers = config.teacher, config.answers()
    rows = 60_000 if (known := NAMED.get(config.data.name)) is None else known.rows
    if t.shards is not None:
        pieces = {"teacher: shards": float(rows * t.copies + t.shards * t.shard_batch)}
    else:
        passes = t.epochs if t.dp.epsilon is None else t.dp.epochs
        pieces = {_TEACHER: 3.0 * passes * rows}
    learned = min(answers, config.loop.window)
    return pieces | {
        "rounds": answers * (1 + config.generator.select + 3 * config.student.epochs_per_round),
        "refit: images": 3.0 * config.student.refit_epochs * learned,
    }


def _leads() -> bool:
    """Whether this process speaks: under torchrun the first one alone."""
    return os.environ.get("RANK", "0") == "0"


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
    parser.add_argument(
        "--allow-open",
        action="store_true",
        help="go on where the data set's budget is exceeded by a release without a finite epsilon",
    )
    parser.add_argument("--no-evaluate", action="store_true", help="do not measure on the holdout")


def _config_of_run(args: argparse.Namespace) -> "Config":
    """The configuration of a run, once the flags that all runs share are read."""
    if args.insecure_seeded_noise:
        args.set.append("privacy.insecure_seeded_noise=true")
    if args.allow_open:
        args.set.append("privacy.allow_open=true")
    config = load(args)
    if args.resume and args.out is None:
        raise UserError("--resume: no run is named; name it with --out DIR")
    return config


def _summary(run: "Run", unmeasured: bool) -> str:
    """The figures of a finished run."""
    report = run.report()
    privacy, student = report["privacy"], report["student"]
    epsilon, worst = privacy["epsilon"], privacy["worst_case_epsilon"]
    per = f"per {privacy['unit']}" if privacy["scope"] == "total" else "per answer"
    whom = f"one {privacy['unit']}" if privacy["scope"] == "total" else "one record, user or client"
    on = "" if unmeasured or run.config.data.name == "none" else " (holdout)"
    stamp = "" if report["private"] else " (NOT PRIVATE)"
    rows = [
        (f"teacher accuracy{on}", percent(report["teacher"]["accuracy"], missing=UNMEASURED)),
        (f"student accuracy{on}", percent(student["accuracy"], missing=UNMEASURED)),
        (f"agreement{on}", percent(student["agreement"], missing=UNMEASURED)),
        ("answers asked", f"{report['answers']:,}"),
        ("epsilon", f"{show_epsilon(epsilon)} {per} at delta {privacy['delta']:g}{stamp}"),
        ("worst case", f"{show_epsilon(worst)} for {whom}{stamp}"),
        ("seconds", f"{report['wall_seconds']:.0f}"),
        ("run folder", str(run.path)),
    ]
    return facts_table(rows).text()


def _warn_of_collapse(run: "Run") -> None:
    """One line where the student leaves classes out on the images that it learned from."""
    from dpsd.runs.named import named_classes

    found = named_classes(run)
    if found is not None and found[0] < found[1]:
        say(
            f"warning: the student names {found[0]} of {found[1]} classes on its own query images: "
            "ask more answers, or images closer to yours (generator.photographs)"
        )
