"""What the subcommands of `dpsd` do, but for attacks. Heavy imports stay inside the functions.

Each returns the exit code: 0, or 1 where a check failed.
"""

import argparse
import json
import os
import warnings
from typing import TYPE_CHECKING

import dpsd
from dpsd.cli.options import as_json, load, overrides
from dpsd.console import Progress, say, show_epsilon
from dpsd.errors import UserError

if TYPE_CHECKING:
    from dpsd.runs.folder import Run


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
        say(threads)
    home = ensure_teacher(config, say if leads else lambda text: None, together=True)
    leave_processes()
    if not leads:
        return 0
    rows = [("teacher", str(home.path)), ("uuid", home.uuid)]
    for split, share in (home.facts.get("accuracy") or {}).items():
        rows.append((f"accuracy on {split}", _percent(share)))
    say(_table([*rows, ("recipe", json.dumps(home.facts.get("recipe")))]))
    return 0


def run_manifest(args: argparse.Namespace) -> int:
    """Number the records of an image folder."""
    config = load(args)
    from dpsd.data.manifest import write_manifest
    from dpsd.data.sources import image_files

    if config.data.name != "image_folder":
        raise UserError(f"data.name: {config.data.name}; a manifest is for image_folder alone")
    base, files = image_files(config.data.folder())
    write_manifest(base, files, args.out)
    say(f"{len(files):,} records numbered in {args.out}; set data.rows to it, and keep it private")
    return 0


def run_plan(args: argparse.Namespace) -> int:
    """Print what a run would release and guarantee."""
    if args.route is not None or args.unit is not None:
        return _plan_routes(args)
    if args.rows is not None or args.assume is not None:
        raise UserError("--rows and --assume: accepted together with --route or --unit")
    config = load(args)
    from dpsd.planning.describe import describe, describe_text

    facts = describe(config)
    say(as_json(facts) if args.json else describe_text(facts))
    return 0


def _plan_routes(args: argparse.Namespace) -> int:
    from dpsd.config import read_tree

    tree = read_tree(args.target, overrides(args), warnings.warn)
    from dpsd.planning.routes import plan_routes, planning_config
    from dpsd.planning.text import planner_text

    facts = plan_routes(
        planning_config(tree), args.route or "auto", args.unit or "record", rows=args.rows,
        assume=args.assume,
    )  # fmt: skip
    say(as_json(facts) if args.json else planner_text(facts))
    return 0


def run_transcribe(args: argparse.Namespace) -> int:
    """Make the private student of one teacher or ensemble."""
    if args.insecure_seeded_noise:
        args.set.append("privacy.insecure_seeded_noise=true")
    config = load(args)
    if args.resume and args.out is None:
        raise UserError("--resume: say which run with --out DIR")
    leads = os.environ.get("RANK", "0") == "0"
    with Progress(config.loop.rounds, config.answers()) as progress:
        run = dpsd.transcribe(
            config,
            out=args.out,
            resume=args.resume,
            data_is_public=args.data_is_public,
            evaluate=not args.no_evaluate,
            progress=progress if leads else None,
            say=say if leads else lambda text: None,
        )
    if leads:
        say("\n" + (run.release / "statement.txt").read_text())
        say(_table(_summary(run, args.no_evaluate)))
    return 0


def run_federate(args: argparse.Namespace) -> int:
    """Make the private student of many clients' answers."""
    if args.insecure_seeded_noise:
        args.set.append("privacy.insecure_seeded_noise=true")
    if args.runtime is not None:
        args.set.append(f"federated.runtime={args.runtime}")
    config = load(args)
    if args.resume and args.out is None:
        raise UserError("--resume: say which run with --out DIR")
    deployed = config.federated.runtime == "deployment"
    for flag in ("credentials", "port"):
        if getattr(args, flag) is not None and not deployed:
            raise UserError(f"--{flag}: accepted with --runtime deployment")
    from dpsd.device import use_threads
    from dpsd.evaluation.evaluate import evaluate
    from dpsd.federated.deployment.deployed import federate_deployed
    from dpsd.federated.federate import federate

    say(use_threads(config.threads))
    wanted = {"out": args.out, "resume": args.resume, "data_is_public": args.data_is_public}
    if deployed:
        run = federate_deployed(
            config, **wanted, say=say, credentials=args.credentials, port=args.port
        )
    else:
        with Progress(config.loop.rounds, config.answers()) as progress:
            run = federate(config, **wanted, progress=progress, say=say)
    if not args.no_evaluate:
        evaluate(run, split="holdout")
    say("\n" + (run.release / "statement.txt").read_text())
    say((run.release / "rounds.csv").read_text())
    say(_table(_summary(run, args.no_evaluate)))
    return 0


def _summary(run: "Run", unmeasured: bool) -> list[tuple[str, str]]:
    report = run.report()
    privacy, student = report["privacy"], report["student"]
    epsilon, worst = privacy["epsilon"], privacy["worst_case_epsilon"]
    per = f"per {privacy['unit']}" if privacy["scope"] == "total" else "per answer"
    whom = f"one {privacy['unit']}" if privacy["scope"] == "total" else "one record, user or client"
    on = "" if unmeasured or run.config.data.name == "none" else " (holdout)"
    stamp = "" if report["private"] else " (NOT PRIVATE)"
    return [
        (f"teacher accuracy{on}", _percent(report["teacher"]["accuracy"])),
        (f"student accuracy{on}", _percent(student["accuracy"])),
        (f"agreement{on}", _percent(student["agreement"])),
        ("answers asked", f"{report['answers']:,}"),
        ("epsilon", f"{show_epsilon(epsilon)} {per} at delta {privacy['delta']:g}{stamp}"),
        ("worst case", f"{show_epsilon(worst)} for {whom}{stamp}"),
        ("seconds", f"{report['wall_seconds']:.0f}"),
        ("run folder", str(run.path)),
    ]


def run_check(args: argparse.Namespace) -> int:
    """Try the teacher on synthetic images."""
    config = load(args)
    from dpsd.device import use_threads
    from dpsd.teachers.check import check, check_text

    show = (lambda text: None) if args.json else say
    show(use_threads(config.threads))
    rows = check(config, show)
    say(as_json({"checks": rows}) if args.json else check_text(rows))
    return 0 if all(row["ok"] for row in rows) else 1


def run_evaluate(args: argparse.Namespace) -> int:
    """Measure a run on private data."""
    from dpsd.device import use_threads
    from dpsd.evaluation.evaluate import evaluate, evaluation_table
    from dpsd.runs.folder import open_run

    run = open_run(args.target)
    threads = use_threads(run.config.threads)
    if not args.json:
        say(threads)
    result = evaluate(run, split=args.split, teacher=args.teacher, data=args.data)
    say(as_json(result) if args.json else evaluation_table(result))
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Recompute the guarantee of a release."""
    from dpsd.privacy.verify import verify_release
    from dpsd.privacy.wording import statement_text

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


def run_sample(args: argparse.Namespace) -> int:
    """Write labelled synthetic images."""
    from dpsd.runs.release import sample

    sample(args.target, args.n, args.out)
    say(f"{args.n:,} labelled synthetic images in {args.out}")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Write the student as a file that runs without dpsd."""
    from dpsd.runs.export import export

    say(f"student in {export(args.target, args.format, args.out)}")
    return 0


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{100 * share:.2f} %"
