"""Commands around the guard of a served student: guard calibrate."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dpsd.cli.guard_tools import add_tools
from dpsd.cli.options import Commands, count, number
from dpsd.console import note, say
from dpsd.errors import UserError

if TYPE_CHECKING:
    from dpsd.guard.detection.reference import Reference


def add_guard(commands: Commands) -> None:
    """`dpsd guard ACTION`."""
    text = "prepare and ask the guard that watches who asks a served student"
    added = commands.add_parser("guard", help=text, description=text)
    actions = added.add_subparsers(dest="action", required=True, metavar="ACTION")
    add_tools(actions)
    about = "learn what honest questions look like, from images or from logged honest traffic"
    calibrate = actions.add_parser("calibrate", help=about, description=about)
    calibrate.set_defaults(run=run_calibrate)
    calibrate.add_argument("target", metavar="RUN", type=Path, nargs="?",
                           help="a run or release folder; without it the guard stands before "
                           "another application: --logs and --out")  # fmt: skip
    source = calibrate.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, metavar="FILE",
                        help="a folder of PNG and JPEG files, or an npz file with images, like "
                        "those that users send; they are not kept")  # fmt: skip
    source.add_argument("--logs", type=Path, nargs="+", metavar="FILE",
                        help="JSON lines or Parquet of honest accounts, with features and answers "
                        "of the served model; see docs/guard-logs.md")  # fmt: skip
    calibrate.add_argument("--outliers", type=Path, metavar="FILE",
                           help="what attackers may ask: images as for --images, beside those of "
                           "dpsd's synthesizer; without a run, logs with features")  # fmt: skip
    calibrate.add_argument("--out", type=Path, metavar="FILE",
                           help="default: guard/reference.npz of the run")  # fmt: skip
    calibrate.add_argument("--alpha", type=number, default=0.001, metavar="RATE",
                           help="false alarms an honest account in a month; "
                           "default: %(default)s")  # fmt: skip
    calibrate.add_argument("--accounts", type=count, default=2_000, metavar="N",
                           help="honest accounts to simulate about the images; "
                           "default: %(default)s")  # fmt: skip


def run_calibrate(args: argparse.Namespace) -> int:
    """Write `guard/reference.npz` of a run, or a reference for another application."""
    from dpsd.guard.detection.reference_file import save_reference
    from dpsd.serving.service import guard_folder

    if args.target is None and (args.logs is None or args.out is None):
        raise UserError("calibrate: no RUN; accepted without one: --logs and --out")
    reference = _of_application(args) if args.target is None else _of_run(args)
    path = args.out or guard_folder(args.target) / "reference.npz"
    save_reference(reference, path)
    as_who = (
        "as the logged ones did, who are taken for honest, in as long a time (30 days at most)"
        if args.logs else "in a month as the simulated ones do about such images"
    )  # fmt: skip
    say(f"reference in {path}: an alarm in {reference.alpha:g} of honest accounts, if they ask "
        f"{as_who}")  # fmt: skip
    return 0


def _of_application(args: argparse.Namespace) -> "Reference":
    from dpsd.guard.offline.calibration import calibrate_on_logs, teach_from_logs

    teach = None if args.outliers is None else teach_from_logs([args.outliers])
    return calibrate_on_logs(args.logs, alpha=args.alpha, say=note, teach=teach)


def _of_run(args: argparse.Namespace) -> "Reference":
    from dpsd.config import load_config
    from dpsd.runs.release import load_student, release_folder
    from dpsd.serving.calibration import calibrate_guard, calibrate_on_traffic, read_images
    from dpsd.serving.predictor import featured

    release = release_folder(args.target)
    facts, ask = load_config(release / "config.yaml").facts, featured(load_student(release))
    outliers = (
        None if args.outliers is None else read_images(args.outliers, facts.shape, "--outliers")
    )
    if args.logs:
        return calibrate_on_traffic(
            args.logs, ask, facts, alpha=args.alpha, say=note, outliers=outliers
        )
    images = read_images(args.images, facts.shape)
    return calibrate_guard(ask, images, alpha=args.alpha, accounts=args.accounts, say=note,
                           outliers=outliers)  # fmt: skip
