"""The command line: `dpsd`, or `python -m dpsd`. Heavy imports stay inside the subcommands."""

import argparse
import contextlib
import errno
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dpsd
from dpsd.cli_attacks import add_attack, add_audit
from dpsd.errors import UserError
from dpsd.imports import brief
from dpsd.progress import Progress, say, show_epsilon

if TYPE_CHECKING:
    from dpsd.config import Config
    from dpsd.run import Run

_USERS_ERRNO = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG,
}  # fmt: skip
_ALIASES = {"epsilon": "privacy.epsilon", "seed": "seed", "device": "device"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        0; 1 where a check failed; 2 for bad input, after one line on stderr; 130 if interrupted.
    """
    args = _parser().parse_args(argv)
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
            if Path(filename).is_relative_to(Path(__file__).parent):
                sys.stderr.write(f"dpsd: warning: {' '.join(str(message).split())}\n")
            else:
                usual(message, category, filename, *rest, **named)

        warnings.showwarning = show
        if not sys.warnoptions:
            warnings.simplefilter("ignore", FutureWarning)
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dpsd", description=(dpsd.__doc__ or "").split("\n")[0])
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, function: Any, text: str, target: str, nargs: str | None = None
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=function)
        kind = {"CONFIG": "a YAML file", "RUN": "a run folder", "RELEASE": "a release folder"}
        added.add_argument("target", metavar=target, type=Path, nargs=nargs, help=kind[target])
        if target == "CONFIG":
            added.add_argument("--set", nargs="+", action="extend", default=[], metavar="A.B=C",
                               help="override keys of the configuration")  # fmt: skip
            for alias, key in _ALIASES.items():
                added.add_argument(f"--{alias}", metavar="X", help=f"same as --set {key}=X")
        return added

    teacher = command("teacher", _teacher, "train a teacher on the private data", "CONFIG")
    teacher.add_argument("--dp", nargs="+", default=[], metavar="A=B",
                         help="DP-SGD, as in epsilon=3; same as --set teacher.dp.A=B")  # fmt: skip
    teacher.add_argument("--shards", type=_count, metavar="N",
                         help="same as --set teacher.shards=N")  # fmt: skip
    rows = command("manifest", _manifest, "number the records of an image folder", "CONFIG")
    rows.add_argument("--out", type=Path, required=True, metavar="FILE", help="list, for data.rows")
    plan = command(
        "plan", _plan, "print what a run releases and guarantees; touches no data", "CONFIG"
    )
    plan.add_argument("--route", choices=("auto", "single", "ensemble", "inherited"),
                      help="find a route and its size instead, or try this one")  # fmt: skip
    plan.add_argument("--unit", choices=("answer", "record", "user"),
                      help="what that route is to protect (default: record)")  # fmt: skip
    plan.add_argument("--rows", type=_count, metavar="N", help="training records, a public number")
    plan.add_argument("--assume", choices=("mnist", "fashion_mnist"),
                      help="public data on which votes are assumed")  # fmt: skip
    t = command("transcribe", _transcribe, "make the private student", "CONFIG")
    t.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/...)")
    t.add_argument("--resume", action="store_true", help="go on with the stopped run in --out")
    t.add_argument("--data-is-public", action="store_true",
                   help="figures measured on the data go on the card too")  # fmt: skip
    t.add_argument("--insecure-seeded-noise", action="store_true",
                   help="noise from the seed, for tests and benchmarks: NOT PRIVATE")  # fmt: skip
    t.add_argument("--no-evaluate", action="store_true", help="do not measure on the holdout")
    f = command("federate", _federate, "make the private student from many clients", "CONFIG")
    f.add_argument("--runtime", choices=("in-process", "simulation", "deployment"),
                   help="same as --set federated.runtime=X")  # fmt: skip
    f.add_argument("--credentials", type=Path, metavar="DIR",
                   help="certificates and node keys of --runtime deployment")  # fmt: skip
    f.add_argument("--port", type=_count, metavar="N",
                   help="of the SuperLink (default: a free one)")  # fmt: skip
    f.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/...)")
    f.add_argument("--resume", action="store_true", help="go on with the stopped run in --out")
    f.add_argument("--data-is-public", action="store_true",
                   help="figures measured on the data go on the card too")  # fmt: skip
    f.add_argument("--insecure-seeded-noise", action="store_true",
                   help="noise from the seed, for tests and benchmarks: NOT PRIVATE")  # fmt: skip
    f.add_argument("--no-evaluate", action="store_true", help="do not measure on the holdout")
    check = command("check-teacher", _check, "try the teacher, tell what to mend", "CONFIG")
    evaluate = command("evaluate", _evaluate, "measure a run on private data", "RUN")
    evaluate.add_argument("--split", choices=("test", "holdout", "train"), default="test")
    evaluate.add_argument("--teacher", type=Path, metavar="DIR", help="the teacher's folder")
    evaluate.add_argument("--data", type=Path, metavar="DIR", help="the data's folder")
    verify = command("verify", _verify, "recompute a guarantee, check the hashes", "RELEASE")
    sample = command("sample", _sample, "write labelled synthetic images", "RUN")
    sample.add_argument("--n", type=_count, required=True, metavar="N", help="how many")
    sample.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    export = command("export", _export, "write a file that runs without dpsd", "RUN")
    export.add_argument("--format", choices=("torch", "onnx"), required=True)
    export.add_argument("--out", type=Path, metavar="FILE")
    attack, audit = add_attack(commands), add_audit(commands)
    for added in (plan, check, evaluate, verify, attack, audit):
        added.add_argument("--json", action="store_true", help="print JSON")
    return parser


class _Version(argparse.Action):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs | {"nargs": 0, "help": "print the version"})

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        say(f"dpsd {dpsd.__version__}")
        parser.exit()


def _teacher(args: argparse.Namespace) -> int:
    args.set += [f"teacher.dp.{item}" for item in args.dp]
    if args.shards is not None:
        args.set.append(f"teacher.shards={args.shards}")
    config = _config(args)
    from dpsd import parallel
    from dpsd.device import pick_device
    from dpsd.teacher import ensure_teacher

    if config.teacher.weights is not None or ":" in config.teacher.model:
        name = config.teacher.weights or config.teacher.model
        raise UserError(f"teacher: {name} is your own, so there is nothing to train")
    if config.teacher.shards is not None:
        parallel.start(pick_device(config.device))
    leads = parallel.rank() == 0
    home = ensure_teacher(config, say if leads else lambda text: None, together=True)
    parallel.stop()
    if not leads:
        return 0
    rows = [("teacher", str(home.path)), ("uuid", home.uuid)]
    for split, share in (home.facts.get("accuracy") or {}).items():
        rows.append((f"accuracy on {split}", _percent(share)))
    say(_table([*rows, ("recipe", json.dumps(home.facts.get("recipe")))]))
    return 0


def _manifest(args: argparse.Namespace) -> int:
    config = _config(args)
    from dpsd.manifest import write_manifest
    from dpsd.sources import image_files

    if config.data.name != "image_folder":
        raise UserError(f"data.name: {config.data.name}; a manifest is for image_folder alone")
    base, files = image_files(config.data.folder())
    write_manifest(base, files, args.out)
    say(f"{len(files):,} records numbered in {args.out}; set data.rows to it, and keep it private")
    return 0


def _plan(args: argparse.Namespace) -> int:
    if args.route is not None or args.unit is not None:
        return _plan_routes(args)
    if args.rows is not None or args.assume is not None:
        raise UserError("--rows and --assume: accepted together with --route or --unit")
    config = _config(args)
    from dpsd.describe import describe, describe_text

    facts = describe(config)
    say(_json(facts) if args.json else describe_text(facts))
    return 0


def _plan_routes(args: argparse.Namespace) -> int:
    from dpsd.config import read_tree

    tree = read_tree(args.target, _overrides(args))
    from dpsd.planner import plan_routes, planning_config
    from dpsd.planner_text import planner_text

    facts = plan_routes(
        planning_config(tree), args.route or "auto", args.unit or "record", rows=args.rows,
        assume=args.assume,
    )  # fmt: skip
    say(_json(facts) if args.json else planner_text(facts))
    return 0


def _transcribe(args: argparse.Namespace) -> int:
    if args.insecure_seeded_noise:
        args.set.append("privacy.insecure_seeded_noise=true")
    config = _config(args)
    if args.resume and args.out is None:
        raise UserError("--resume: say which run with --out DIR")
    leads = os.environ.get("RANK", "0") == "0"
    with Progress(config) as progress:
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


def _federate(args: argparse.Namespace) -> int:
    if args.insecure_seeded_noise:
        args.set.append("privacy.insecure_seeded_noise=true")
    if args.runtime is not None:
        args.set.append(f"federated.runtime={args.runtime}")
    config = _config(args)
    if args.resume and args.out is None:
        raise UserError("--resume: say which run with --out DIR")
    deployed = config.federated.runtime == "deployment"
    for flag in ("credentials", "port"):
        if getattr(args, flag) is not None and not deployed:
            raise UserError(f"--{flag}: accepted with --runtime deployment")
    from dpsd.evaluate import evaluate
    from dpsd.federated.deployed import federate_deployed
    from dpsd.federated.federate import federate

    wanted = {"out": args.out, "resume": args.resume, "data_is_public": args.data_is_public}
    if deployed:
        run = federate_deployed(
            config, **wanted, say=say, credentials=args.credentials, port=args.port
        )
    else:
        with Progress(config) as progress:
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


def _check(args: argparse.Namespace) -> int:
    config = _config(args)
    from dpsd.check import check, check_text

    rows = check(config, (lambda text: None) if args.json else say)
    say(_json({"checks": rows}) if args.json else check_text(rows))
    return 0 if all(row["ok"] for row in rows) else 1


def _evaluate(args: argparse.Namespace) -> int:
    from dpsd.evaluate import evaluate, evaluation_table
    from dpsd.run import open_run

    result = evaluate(open_run(args.target), split=args.split, teacher=args.teacher, data=args.data)
    say(_json(result) if args.json else evaluation_table(result))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from dpsd.privacy.statement import statement_text, verify_release

    facts = verify_release(args.target)
    if args.json:
        say(_json(facts | {"verified": True}))
    else:
        say(statement_text(facts))
        say(
            f"verified: every figure follows from the facts, and {len(facts['files'])} files "
            "have the stated hashes"
        )
    return 0


def _sample(args: argparse.Namespace) -> int:
    from dpsd.release import sample

    sample(args.target, args.n, args.out)
    say(f"{args.n:,} labelled synthetic images in {args.out}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from dpsd.release import export

    say(f"student in {export(args.target, args.format, args.out)}")
    return 0


def _config(args: argparse.Namespace) -> "Config":
    return dpsd.load_config(args.target, _overrides(args))


def _overrides(args: argparse.Namespace) -> list[str]:
    short = [f"{key}={value}" for alias, key in _ALIASES.items()
             if (value := getattr(args, alias)) is not None]  # fmt: skip
    return [*args.set, *short]


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if int(text) >= 1:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text} is not accepted: a whole number from 1")


def _fail(message: str, code: int = 2) -> int:
    sys.stderr.write(f"dpsd: {' '.join(message.split())}\n")
    return code


def _json(tree: Any) -> str:
    return json.dumps(tree, indent=2, allow_nan=False)


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{100 * share:.2f} %"
