"""Commands for those who answer for a release: verify, ledger, budget, key."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsd.cli.options import Commands, add_command, add_json, as_json, count, number
from dpsd.console import say, show_epsilon
from dpsd.errors import UserError
from dpsd.tables import Table

if TYPE_CHECKING:
    from dpsd.privacy.ledger import Ledger

_DELTA = 1e-5
_LARGE = 1e-3  # a budget at such a delta bounds little


def add_verify(commands: Commands) -> None:
    """`dpsd verify RELEASE`."""
    text = "rebuild plan and figures of a release, check hashes, signature and ledger"
    added = add_command(commands, "verify", run_verify, text, "RELEASE")
    added.add_argument("--key", type=Path, metavar="PUB", help="the owner's public key")
    added.add_argument("--ledger", type=Path, metavar="PATH",
                       help="the ledger that the run was charged to")  # fmt: skip
    add_json(added)


def run_verify(args: argparse.Namespace) -> int:
    """Check a release, and say what was checked and what cannot be."""
    from dpsd.privacy.signature import check_signature
    from dpsd.privacy.statement_text import statement_text
    from dpsd.privacy.verify import verify_release, what_was_checked

    facts = verify_release(args.target, key=args.key, ledger=args.ledger)
    lines = what_was_checked(facts, check_signature(args.target), key=args.key, ledger=args.ledger)
    if args.json:
        say(as_json(facts | {"verified": True, "checks": lines}))
    else:
        say(f"verified: {args.target}; its statement follows, then what was checked\n")
        say(statement_text(facts))
        say("\n".join(["verified", *(f"  {line}" for line in lines)]))
    return 0


def add_ledger(commands: Commands) -> None:
    """`dpsd ledger LEDGER`."""
    text = "show and check the history of a data set or teacher"
    added = add_command(commands, "ledger", run_ledger, text, "LEDGER")
    added.add_argument("--unit", choices=("answer", "record", "user", "client", "test record"),
                       help="of the composed epsilon (default: by the ledger)")  # fmt: skip
    added.add_argument("--delta", type=number, default=_DELTA, metavar="X",
                       help="at which epsilon of that unit is stated")  # fmt: skip
    added.add_argument("--rows", type=count, metavar="N",
                       help="enter that the data set has this many rows now")  # fmt: skip
    _add_root(added)
    add_json(added)


def run_ledger(args: argparse.Namespace) -> int:
    """Show and check a ledger."""
    from dpsd.privacy.history import history

    if args.delta >= 1:
        raise UserError(f"--delta: {args.delta:g}; accepted: above 0, below 1")
    folder = _folder(args.target, args.root)
    ledger = _ledger(folder)
    ledger.check_hashes()
    if args.rows is not None:
        if not (folder / "dataset.json").exists():
            raise UserError(f"--rows: {folder} is a teacher's; accepted for a data set's ledger")
        ledger.set_rows(args.rows)
    units = {r.unit for r in ledger.runs()}
    of_data = (folder / "dataset.json").exists()
    unit = args.unit or ("record" if of_data else "client" if "client" in units else "answer")
    facts = history(ledger, unit, args.delta)
    if args.json:
        say(as_json(facts))
        return 0
    say(_history_table(facts, of_data).text())
    say(
        f"\n{facts['lines']:,} lines of {ledger.path}, the last with checksum "
        f"{facts['checksum']}; checksums, hashes and head fit each other. A ledger that was "
        "restored whole from a backup fits too: compare with the releases made from it (dpsd "
        "verify RELEASE --ledger)."
    )
    return 0


def add_budget(commands: Commands) -> None:
    """`dpsd budget DATASET`."""
    text = "set a data set's total budget, or show what is spent"
    added = add_command(commands, "budget", run_budget, text, "DATASET")
    added.add_argument("--unit", choices=("record", "user", "client", "test record"),
                       help="what the budget is for one of")  # fmt: skip
    added.add_argument("--epsilon", type=number, metavar="X", help="of all runs together")
    added.add_argument("--delta", type=number, metavar="X", help="of all runs together")
    _add_root(added)
    add_json(added)


def run_budget(args: argparse.Namespace) -> int:
    """Set or show budgets."""
    from dpsd.privacy.history import spending

    given = [args.unit, args.epsilon, args.delta]
    if any(x is not None for x in given):
        if None in given:
            raise UserError("--unit, --epsilon, --delta: a budget needs all three")
        if args.delta >= _LARGE:
            raise UserError(f"--delta: {args.delta:g}; accepted: above 0, below {_LARGE:g}")
        _make(args.target, args.root).set_allowance(*given)
    ledger = _ledger(_folder(args.target, args.root))
    budgets = spending(ledger)
    if args.json:
        say(as_json({"dataset": args.target, "budgets": budgets}))
        return 0
    if not budgets:
        say(f"data set {args.target}: no budget; set one with --unit, --epsilon and --delta")
    for b in budgets:
        say(
            f"budget: epsilon {b['epsilon']:g} for one {b['unit']} at delta {b['delta']:g}, set "
            f"{b['set']}\nspent: epsilon {show_epsilon(b['spent'])} for one {b['unit']}\nleft: "
            f"one more run of up to epsilon {b['left']:.4g} for one {b['unit']} with Gaussian or "
            "vote noise"
        )
        rows = [(r["run"], r["started"], r["route"] or "-", r["mechanism"] or "-",
                 show_epsilon(r["alone"])) for r in b["runs"]]  # fmt: skip
        head = ("run", "started", "route", "mechanism", f"epsilon alone, one {b['unit']}")
        say(Table(head, rows, align="llllr").text() + "\n")
    return 0


def add_key(commands: Commands) -> None:
    """`dpsd key LEDGER`."""
    text = "show or export the public key that signs the releases of a ledger"
    added = add_command(commands, "key", run_key, text, "LEDGER")
    added.add_argument("--out", type=Path, metavar="FILE", help="write the public key (PEM)")
    _add_root(added)


def run_key(args: argparse.Namespace) -> int:
    """Show or export a ledger's public key."""
    from dpsd.files import whole_file
    from dpsd.privacy.signature import fingerprint, public_text, signing_key

    ledger = _ledger(_folder(args.target, args.root))
    public = signing_key(ledger.path.parent).public_key()
    say(f"key {fingerprint(public)} (Ed25519) of ledger {ledger.path}")
    if args.out is None:
        say(public_text(public))
        return 0
    with whole_file(args.out) as partial:
        partial.write_text(public_text(public))
    say(f"public key in {args.out}; give it to those who verify, by a way that they trust")
    return 0


def _history_table(facts: dict[str, Any], of_data: bool) -> Table:
    columns = ("run", "started", "route", "mechanism", "event", "answers", "unit", "noise",
               f"composed epsilon, one {facts['unit']}, delta {facts['delta']:g}")  # fmt: skip
    rows = [
        (
            r["run"], r["started"] or "-", r["route"] or "-", r["mechanism"] or "-",
            _event(r["event"]), _answers(r, of_data), r["unit"],
            "seeded" if r["seeded_noise"] else "fresh",
            show_epsilon(r["composed_epsilon"]) if r["counts"] else "-",
        )
        for r in facts["runs"]
    ]  # fmt: skip
    return Table(columns, rows, align="lllllrllr")


def _answers(run: dict[str, Any], of_data: bool) -> str:
    """A data set's ledger holds the runs of units like the answer; the teacher's counts them."""
    trained = run["event"]["kind"] == "dp_sgd" and run["route"] == "single"
    if of_data and not run["answers"] and (trained or run["unit"] in ("answer", "none", "client")):
        return "in the teacher's ledger"
    return f"{run['answers']:,} of {run['cap']:,}"


def _event(event: dict[str, Any]) -> str:
    if event["kind"] == "open":
        return "unbounded (no finite epsilon)"
    numbers = (f"{k} {v:.6g}" for k, v in event.items() if k != "kind")
    return " ".join([event["kind"], *numbers])


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, metavar="DIR",
                        help="teacher.root (default: $DPSD_HOME or the user's folder)")  # fmt: skip


def _root(given: Path | None) -> Path:
    from dpsd.config.sections import default_root

    return given or default_root()


def _folder(target: str, root: Path | None) -> Path:
    """The folder of a ledger: a path, a run that was charged to it, a name below the root."""
    from dpsd.data.identity import dataset_folder

    base = _root(root)
    if (Path(target) / "private" / "run.json").is_file():
        from dpsd.runs.folder import open_run

        return open_run(Path(target)).ledger_folder
    for folder in (Path(target), dataset_folder(base, target), base / target):
        if (folder / "ledger.jsonl").is_file():
            return folder
    known = sorted(p.name for p in (base / "datasets").glob("*") if p.is_dir())
    raise UserError(
        f"{target}: no ledger of this name in {base}; known data sets: {', '.join(known) or 'none'}"
    )


def _ledger(folder: Path) -> "Ledger":
    from dpsd.privacy.ledger import open_ledger
    from dpsd.transcription.entries import check_releases

    ledger = open_ledger(folder)
    check_releases(ledger)
    return ledger


def _make(name: str, root: Path | None) -> "Ledger":
    """The ledger of a data set, made where it is missing: a budget may come before any run."""
    from dpsd.config import parse_config
    from dpsd.data.identity import dataset_folder, dataset_home, read_dataset
    from dpsd.privacy.ledger import Ledger

    base = _root(root)
    if not (folder := dataset_folder(base, name)).exists():
        tree = {"data": {"dataset": name}, "teacher": {"root": str(base)},
                "privacy": {"epsilon": 1}}  # fmt: skip
        dataset_home(parse_config(tree), None, "a budget")
    return Ledger(folder, read_dataset(folder)["uuid"])
