"""The subcommands `attack` and `audit`. Heavy imports stay inside."""

import argparse
import json
from pathlib import Path
from typing import Any

from dpsd.cli.options import count
from dpsd.cli.report import refresh
from dpsd.console import Progress, note, say
from dpsd.errors import UserError

KINDS = ("inversion", "membership", "extraction", "all")


def add_attack(commands: Any) -> argparse.ArgumentParser:
    """`dpsd attack KIND RUN`; `commands` is what `add_subparsers` gave."""
    added: argparse.ArgumentParser = commands.add_parser(
        "attack", help="try what a run's models give away"
    )
    added.set_defaults(run=_attack)
    added.add_argument("kind", choices=KINDS, help="which attack; all: with the audit")
    added.add_argument("target", metavar="RUN", type=Path, help="a run folder")
    _common(added)
    added.add_argument("--profile", metavar="NAME", help="the split the run was made with")
    added.add_argument("--beside", type=Path, action="append", default=[], metavar="RUN",
                       help="inversion: other runs, whose students are attacked too")  # fmt: skip
    added.add_argument("--fpr", type=float, metavar="RATE",
                       help="membership: false-positive rate, default 0.01")  # fmt: skip
    added.add_argument("--clones", type=count, metavar="N",
                       help="inversion, membership: attack copies too, which a thief makes by N "
                       "questions")  # fmt: skip
    _extraction(added.add_argument_group("extraction"))
    return added


def add_audit(commands: Any) -> argparse.ArgumentParser:
    """`dpsd audit RUN`; `commands` is what `add_subparsers` gave."""
    text = "bound epsilon from below by attack"
    added: argparse.ArgumentParser = commands.add_parser("audit", help=text, description=text)
    added.set_defaults(run=_audit)
    added.add_argument("target", metavar="RUN", type=Path, nargs="?", help="a run folder")
    added.add_argument("--self-test", action="store_true",
                       help="audit mechanisms of known epsilon, some broken, instead")  # fmt: skip
    _common(added)
    return added


_OF_EXTRACTION = ("targets", "attacks", "defences", "ladder", "pool", "rows", "model", "weights",
                  "url", "key")  # fmt: skip


def _extraction(group: Any) -> None:
    group.add_argument("--target", dest="targets", action="append", metavar="NAME",
                       help="student (default), teacher, or a student that `dpsd watermark` "
                       "made; may be repeated")  # fmt: skip
    group.add_argument("--attack", dest="attacks", action="append", metavar="NAME",
                       help="default: all; may be repeated")  # fmt: skip
    group.add_argument("--defence", dest="defences", action="append", metavar="NAME",
                       help="beside none, as rounding or honey:threshold=1.5/labels; default: "
                       "those of the budget; may be repeated")  # fmt: skip
    group.add_argument("--budget", dest="ladder", type=_ladder, metavar="N,M",
                       help="images asked, at which clones are trained: 1000,10000")  # fmt: skip
    group.add_argument("--pool", metavar="NAME",
                       help="what may be asked: same (rows of the same problem), synthetic, "
                       "another data set, or a folder of images")  # fmt: skip
    group.add_argument("--rows", type=Path, metavar="PATH",
                       help="labelled pictures to ask about and measure on, in place of the "
                       "run's data")  # fmt: skip
    group.add_argument("--model", metavar="NAME", help="copy this model, as teacher.model names it")
    group.add_argument("--weights", type=Path, metavar="FILE", help="of --model")
    group.add_argument("--url", metavar="URL", help="ask the served student at this address")
    group.add_argument("--key", metavar="K", help="of an account there")


def _ladder(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text} is not accepted: whole numbers, as 1000,10000"
        ) from None


def _common(added: argparse.ArgumentParser) -> None:
    budget = added.add_mutually_exclusive_group()
    for name, text in (("fast", "minutes"), ("standard", "an hour"), ("full", "hours")):
        budget.add_argument(f"--{name}", dest="budget", action="store_const", const=name,
                            help=f"{text} on two cores")  # fmt: skip
    added.add_argument("--seed", type=int, default=0, metavar="N", help="of the first repetition")
    added.add_argument("--teacher", type=Path, metavar="DIR", help="the teacher's folder")
    added.add_argument("--data", type=Path, metavar="DIR", help="the data's folder")
    added.add_argument("--analyse-only", action="store_true",
                       help="compute the figures again from saved scores")  # fmt: skip
    added.add_argument("--data-is-public", action="store_true",
                       help="the figures go on the card too")  # fmt: skip


def _attack(args: argparse.Namespace) -> int:
    """Attack a run: 0, or 1 where the audit found a claim violated."""
    with Progress(shown=not args.json):
        return _attacks(args)


def _attacks(args: argparse.Namespace) -> int:
    from dpsd.device import use_threads
    from dpsd.runs.folder import open_run

    run, reports = open_run(args.target), dict[str, Any]()
    others = [open_run(path) for path in args.beside]
    if others and args.kind == "membership":
        raise UserError("--beside: inversion alone compares runs; accepted: inversion or all")
    if args.kind not in ("extraction", "all"):
        for key, value in vars(args).items():
            if key in _OF_EXTRACTION and value is not None:
                raise UserError(f"{key}: an option of `attack extraction`; this is {args.kind}")
    tell = (lambda text: None) if args.json else say
    hear = (lambda text: None) if args.json else note
    hear(use_threads(run.config.threads))
    options = {
        "budget": args.budget, "seed": args.seed, "teacher": args.teacher, "data": args.data,
        "analyse_only": args.analyse_only, "data_is_public": args.data_is_public, "say": hear,
    }  # fmt: skip
    if args.kind in ("membership", "all"):
        from dpsd.attacks.command import membership
        from dpsd.attacks.membership.text import membership_text

        reports["membership"] = membership(run, fpr=args.fpr, clones=args.clones, **options)
        tell("\n" + membership_text(reports["membership"]))
    if args.kind in ("inversion", "all"):
        from dpsd.attacks.command import inversion
        from dpsd.attacks.inversion.text import inversion_text

        reports["inversion"] = inversion(
            run, profile=args.profile, beside=others, clones=args.clones, **options
        )
        tell("\n" + inversion_text(reports["inversion"]))
    if args.kind in ("extraction", "all"):
        from dpsd.attacks.command import extraction
        from dpsd.attacks.extraction.attack import Choice
        from dpsd.attacks.extraction.text import extraction_text

        chosen: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key in _OF_EXTRACTION
            if (value := getattr(args, key)) is not None
        }
        reports["extraction"] = extraction(run, choice=Choice(**chosen), **options)
        tell("\n" + extraction_text(reports["extraction"]))
    if args.kind == "all":
        from dpsd.attacks.audit.text import audit_text
        from dpsd.attacks.command import audit

        reports["audit"] = audit(run, **options)
        tell("\n" + audit_text(reports["audit"]))
    refresh(run, hear)
    if args.json:
        say(json.dumps(reports, indent=2, allow_nan=False))
    else:
        say(f"\nscores, reports and pictures: {run.private / 'attacks'} (private)")
    return 1 if any(r.get("verdict") == "violated" for r in reports.values()) else 0


def _audit(args: argparse.Namespace) -> int:
    if args.self_test == (args.target is not None):
        raise UserError("audit: say which run, or --self-test alone")
    if args.self_test:
        from dpsd.attacks.audit.self_test import self_test, self_test_text

        outcomes = self_test(seed=args.seed)
        facts = {"outcomes": [o.facts() for o in outcomes]}
        say(json.dumps(facts, indent=2) if args.json else self_test_text(outcomes))
        return 0 if all(o.passed for o in outcomes) else 1
    from dpsd.attacks.audit.text import audit_text
    from dpsd.attacks.command import audit
    from dpsd.device import use_threads
    from dpsd.runs.folder import open_run

    run, hear = open_run(args.target), (lambda text: None) if args.json else note
    hear(use_threads(run.config.threads))
    with Progress(shown=not args.json):
        report = audit(
            run, budget=args.budget, seed=args.seed,
            teacher=args.teacher, data=args.data, analyse_only=args.analyse_only,
            data_is_public=args.data_is_public, say=hear,
        )  # fmt: skip
    say(json.dumps(report, indent=2, allow_nan=False) if args.json else audit_text(report))
    refresh(run, hear)
    return 1 if report["verdict"] == "violated" else 0
