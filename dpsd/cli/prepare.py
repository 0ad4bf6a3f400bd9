"""Commands before a run: teacher, manifest, check-teacher, plan."""

import argparse
import json
import warnings
from pathlib import Path

from dpsd.cli.options import (
    UNMEASURED,
    Commands,
    add_command,
    add_json,
    as_json,
    count,
    load,
    overrides,
)
from dpsd.console import Progress, note, percent, say
from dpsd.errors import UserError
from dpsd.tables import facts_table


def add_teacher(commands: Commands) -> None:
    """`dpsd teacher CONFIG`."""
    text = "train a teacher on the private data"
    added = add_command(commands, "teacher", run_teacher, text, "CONFIG")
    added.add_argument("--dp", action="append", default=[], metavar="A=B",
                       help="DP-SGD, as in epsilon=3; same as --set teacher.dp.A=B")  # fmt: skip
    added.add_argument("--shards", type=count, metavar="N",
                       help="same as --set teacher.shards=N")  # fmt: skip


def run_teacher(args: argparse.Namespace) -> int:
    """Train a teacher, or all members of an ensemble."""
    if args.epsilon is not None:
        raise UserError(
            f"--epsilon {args.epsilon}: sets privacy.epsilon, which no teacher is trained by; "
            f"train one by DP-SGD with --dp epsilon={args.epsilon}, or leave it out"
        )
    args.set += [f"teacher.dp.{item}" for item in args.dp]
    if args.shards is not None:
        args.set.append(f"teacher.shards={args.shards}")
    config = load(args)
    from dpsd.device import join_processes, leave_processes, pick_device, rank, use_threads
    from dpsd.teachers.teacher import ensure_teacher

    if config.teacher.weights is not None or ":" in config.teacher.model:
        name = config.teacher.weights or config.teacher.model
        raise UserError(f"teacher: {name} is your own, so there is nothing to train")
    threads = use_threads(config.threads)
    if config.teacher.shards is not None:
        join_processes(pick_device(config.device))
    leads = rank() == 0
    if leads:
        note(threads)
    with Progress(shown=leads):
        home = ensure_teacher(config, note if leads else lambda text: None, together=True)
    leave_processes()
    if not leads:
        return 0
    rows = [("teacher", str(home.path)), ("uuid", home.uuid)]
    for split, share in (home.facts.get("accuracy") or {}).items():
        rows.append((f"accuracy on {split}", percent(share, missing=UNMEASURED)))
    rows.append(("recipe", json.dumps(home.facts.get("recipe"))))
    say(facts_table(rows).text())
    return 0


def add_manifest(commands: Commands) -> None:
    """`dpsd manifest CONFIG`."""
    text = "number the records of an image folder or of WebDataset shards"
    added = add_command(commands, "manifest", run_manifest, text, "CONFIG")
    added.add_argument("--out", type=Path, required=True, metavar="FILE",
                       help="the list, for data.rows")  # fmt: skip


def run_manifest(args: argparse.Namespace) -> int:
    """Number the records of an image folder or of WebDataset shards."""
    config = load(args)
    from dpsd.config import NUMBERED
    from dpsd.data.folders import training_files
    from dpsd.data.manifest import write_manifest
    from dpsd.data.tars import training_samples

    name, root = config.data.name, config.data.folder()
    if name not in NUMBERED:
        raise UserError(f"data.name: {name}; a manifest is for {' or '.join(NUMBERED)}")
    if name == "image_folder":
        base, names = training_files(root)
    else:
        base, names = training_samples(root, config.facts.shape)
    write_manifest(base, names, args.out)
    say(f"{len(names):,} records numbered in {args.out}; set data.rows to it, and keep it private")
    return 0


def add_check(commands: Commands) -> None:
    """`dpsd check-teacher CONFIG`."""
    text = "try the teacher on synthetic images, say what to fix"
    added = add_command(commands, "check-teacher", run_check, text, "CONFIG")
    added.add_argument("--rows", type=Path, metavar="PATH",
                       help="measure the accuracy on these labelled pictures: a folder with a "
                       "folder for each class, or an npz file with images and labels")  # fmt: skip
    add_json(added)


def run_check(args: argparse.Namespace) -> int:
    """Try the teacher on synthetic images."""
    config = load(args)
    from dpsd.device import use_threads
    from dpsd.teachers.check import check, check_text

    show = (lambda text: None) if args.json else note
    show(use_threads(config.threads))
    rows = check(config, show, args.rows)
    say(as_json({"checks": rows}) if args.json else check_text(rows))
    return 1 if any(row["ok"] is False for row in rows) else 0


def add_plan(commands: Commands) -> None:
    """`dpsd plan CONFIG`."""
    text = "print what a run releases and guarantees; touches no data"
    added = add_command(commands, "plan", run_plan, text, "CONFIG")
    added.add_argument("--route", choices=("auto", "single", "ensemble", "inherited"),
                       help="find a route and its size, or try this one")  # fmt: skip
    added.add_argument("--unit", choices=("answer", "record", "user"),
                       help="what that route is to protect (default: record)")  # fmt: skip
    added.add_argument("--rows", type=count, metavar="N",
                       help="number of training records, which is public")  # fmt: skip
    added.add_argument("--assume", choices=("mnist", "fashion_mnist"),
                       help="public data whose votes are assumed")  # fmt: skip
    add_json(added)


def run_plan(args: argparse.Namespace) -> int:
    """Print what a run would release and guarantee."""
    if args.route is not None or args.unit is not None:
        return _plan_routes(args)
    if args.rows is not None or args.assume is not None:
        raise UserError("--rows and --assume: accepted together with --route or --unit")
    config = load(args)
    from dpsd.planning.describe import describe
    from dpsd.planning.text import describe_text

    facts = describe(config)
    say(as_json(facts) if args.json else describe_text(facts))
    return 0


def _plan_routes(args: argparse.Namespace) -> int:
    from dpsd.config import read_tree

    tree = read_tree(args.target, overrides(args), warnings.warn)
    from dpsd.planning.routes import plan_routes, planning_config
    from dpsd.planning.routes_text import planner_text

    facts = plan_routes(
        planning_config(tree), args.route or "auto", args.unit or "record", rows=args.rows,
        assume=args.assume,
    )  # fmt: skip
    say(as_json(facts) if args.json else planner_text(facts))
    return 0
