"""What `dpsd guard` does beside calibrating: scan, clusters, indicators, import, key."""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dpsd.cli.options import Commands, add_json, as_json, count, number
from dpsd.console import say
from dpsd.errors import UserError

if TYPE_CHECKING:
    from dpsd.guard.offline.scan import Report

_KEY = "sharing.key"


def add_tools(actions: Commands) -> None:
    """Add scan, clusters, indicators, import and key to `dpsd guard`."""
    for add in (_add_scan, _add_clusters, _add_indicators, _add_import, _add_key):
        add(actions)


def _action(
    actions: Commands, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    added.set_defaults(run=run)
    return added


def _on_run(added: argparse.ArgumentParser) -> None:
    from dpsd.cli.serve import add_store

    added.add_argument("target", metavar="RUN", type=Path, help="a run or release folder")
    add_store(added)


def _add_scan(actions: Commands) -> None:
    added = _action(actions, "scan", run_scan, "rank the accounts of access logs, offline")
    added.add_argument("logs", nargs="+", type=Path, metavar="LOGS",
                       help="JSON lines or Parquet; see docs/guard-logs.md")  # fmt: skip
    added.add_argument("--features", action="store_true", help="look at the column `features`")
    added.add_argument("--reference", type=Path, metavar="FILE",
                       help="what honest traffic looks like (dpsd guard calibrate)")  # fmt: skip
    added.add_argument("--top", type=count, default=20, metavar="N", help="accounts to report")
    added.add_argument("--out", type=Path, metavar="DIR", help="for report.json and indicators")
    added.add_argument("--sharing-key", type=Path, metavar="FILE",
                       help="hash what the report names under it, for --out")  # fmt: skip
    added.add_argument("--plain-networks", action="store_true", help="tell networks in plain")
    added.add_argument("--memory", type=count, default=2_000, metavar="MB", help="default: 2,000")
    added.add_argument("--threads", type=count, default=max(1, min(2, os.cpu_count() or 1)),
                       metavar="N", help="of DuckDB; default: %(default)s")  # fmt: skip
    add_json(added)


def run_scan(args: argparse.Namespace) -> int:
    """Rank the accounts of access logs."""
    from dpsd.files import write_json
    from dpsd.guard.detection.reference_file import read_reference
    from dpsd.guard.indicators.sharing import read_sharing_key
    from dpsd.guard.indicators.stix import to_stix
    from dpsd.guard.offline.scan import scan
    from dpsd.guard.offline.scan_text import as_tree, report_text, told

    if args.sharing_key is not None and args.out is None:
        raise UserError("--sharing-key: needs --out DIR, where the indicators go")
    key = None
    if args.sharing_key is not None and (key := read_sharing_key(args.sharing_key)) is None:
        raise UserError(f"--sharing-key {args.sharing_key}: no such file; dpsd guard key makes one")
    reference = None if args.reference is None else read_reference(args.reference)
    report: Report = scan(args.logs, features=args.features, reference=reference, most=args.top,
                          memory_mb=args.memory, threads=args.threads)  # fmt: skip
    tree = as_tree(report)
    if args.out is not None:
        write_json(args.out / "report.json", tree)
        if key is not None:
            _write(args.out / "indicators.stix.json",
                   to_stix(told(report, key, plain=args.plain_networks), key))  # fmt: skip
    say(as_json(tree) if args.json else report_text(report))
    return 0


def _add_clusters(actions: Commands) -> None:
    added = _action(actions, "clusters", run_clusters,
                    "find accounts that one hand uses, and set their prior suspicion")  # fmt: skip
    _on_run(added)
    added.add_argument("--alpha", type=number, default=0.02, metavar="P",
                       help="rate of false clusters, default 0.02")  # fmt: skip
    added.add_argument("--config", type=Path, metavar="FILE", help="of the service, for its policy")
    add_json(added)


def run_clusters(args: argparse.Namespace) -> int:
    """Find clusters in a guard's store."""
    from dpsd.guard.clusters.hydra import update_clusters
    from dpsd.serving.service import store_of
    from dpsd.serving.settings import read_settings

    if args.alpha >= 1:
        raise UserError(f"--alpha: {args.alpha:g}; accepted: above 0, below 1")
    policy = read_settings(args.config).policy_table()
    store = store_of(args.target, args.store)
    try:
        names = {a.id: a.name for a in store.accounts()}
        found = update_clusters(store, policy, time.time(), alpha=args.alpha)
    finally:
        store.close()
    if args.json:
        rows = [{"members": [names.get(m, m) for m in members], "linked": c.linked,
                 "suspicion": c.suspicion, "asked": c.asked, "score": c.score, "null": c.null,
                 "reason": c.reason} for members, c in found]  # fmt: skip
        say(as_json({"alpha": args.alpha, "clusters": rows}))
        return 0
    for members, c in found:
        listed = ", ".join(names.get(m, m) for m in members[:10])
        more = f" and {len(members) - 10:,} more" if len(members) > 10 else ""
        say(f"suspicion {c.suspicion:.2f}: {c.reason}: {listed}{more}")
    if not found:
        say("no cluster beyond chance")
    return 0


def _add_indicators(actions: Commands) -> None:
    added = _action(actions, "indicators", run_indicators,
                    "write what other operators may use: hashed indicators")  # fmt: skip
    _on_run(added)
    added.add_argument("--format", choices=("json", "stix"), default="json", help="default: json")
    added.add_argument("--out", type=Path, metavar="FILE", help="default: the terminal")
    added.add_argument("--at-least", type=number, default=1.0, metavar="X",
                       help="suspicion of the accounts that are told, default 1: the "
                       "alarm")  # fmt: skip
    added.add_argument("--plain-networks", action="store_true",
                       help="tell IPv4 networks in plain, for those without the key")  # fmt: skip


def run_indicators(args: argparse.Namespace) -> int:
    """Write indicators."""
    from dpsd.guard.indicators.sharing import as_tree, plain_networks, shared_of
    from dpsd.guard.indicators.stix import to_stix
    from dpsd.serving.service import store_of

    key = _key(args.target)
    store = store_of(args.target, args.store)
    try:
        networks = None
        if args.plain_networks:
            hashes = {s.indicator for s in store.seen() if s.kind == "network"}
            networks = plain_networks(key, hashes)
        shared = shared_of(store, key, args.at_least, networks)
    finally:
        store.close()
    text = to_stix(shared, key) if args.format == "stix" else as_json(as_tree(shared, key)) + "\n"
    if args.out is None:
        say(text)
    else:
        _write(args.out, text)
        say(f"{len(shared):,} accounts, {sum(len(s.indicators) for s in shared):,} indicators in "
            f"{args.out}")  # fmt: skip
    return 0


def _add_import(actions: Commands) -> None:
    added = _action(actions, "import", run_import,
                    "use another operator's indicators: prior suspicion of who fits")  # fmt: skip
    _on_run(added)
    added.add_argument("file", type=Path, metavar="FILE", help="JSON or STIX of dpsd")


def run_import(args: argparse.Namespace) -> int:
    """Keep another operator's indicators."""
    from dpsd.guard.clusters.hydra import IMPORTED
    from dpsd.guard.indicators.sharing import from_tree, keep, read_file
    from dpsd.guard.indicators.stix import from_stix
    from dpsd.serving.service import store_of

    key, tree = _key(args.target), read_file(args.file)
    is_stix = isinstance(tree, dict) and tree.get("type") == "bundle"
    shared = from_stix(tree, key) if is_stix else from_tree(tree, key)
    store = store_of(args.target, args.store)
    try:
        kept = keep(store, shared, key, IMPORTED)
        store.note("", "import", time.time(), file=args.file.name, indicators=kept, by="operator")
    finally:
        store.close()
    say(f"{kept:,} indicators of {len(shared):,} accounts are kept; accounts that share them get "
        "prior suspicion when clusters are looked for next")  # fmt: skip
    return 0


def _add_key(actions: Commands) -> None:
    added = _action(actions, "key", run_key,
                    "make or take the key under which indicators are shared")  # fmt: skip
    added.add_argument("target", metavar="RUN", type=Path, help="a run or release folder")
    added.add_argument("--use", type=Path, metavar="FILE", help="a partner's key")


def run_key(args: argparse.Namespace) -> int:
    """Make or take a sharing key."""
    from dpsd.guard.indicators.sharing import key_name, make_sharing_key, read_sharing_key

    path = _guard(args.target) / _KEY
    key: bytes | None = os.urandom(32)
    if args.use is not None and (key := read_sharing_key(args.use)) is None:
        raise UserError(f"--use {args.use}: no such file")
    assert key is not None
    if not make_sharing_key(path, key):
        old = read_sharing_key(path)
        if args.use is not None and old != key:
            raise UserError(f"{path}: there is another key; delete it first, and what was hashed "
                            "under it fits nobody any more")  # fmt: skip
        key = old or key
    say(f"sharing key {key_name(key)} in {path}; give the file to partners by a way that you both "
        "trust. Who holds it can read IPv4 networks off their hashes. Restart the "
        "service.")  # fmt: skip
    return 0


def _guard(run: Path) -> Path:
    from dpsd.serving.service import guard_folder

    return guard_folder(run)


def _key(run: Path) -> bytes:
    from dpsd.guard.indicators.sharing import read_sharing_key

    path = _guard(run) / _KEY
    if (key := read_sharing_key(path)) is None:
        raise UserError(f"{path}: no sharing key; dpsd guard key {run} makes or takes one")
    return key


def _write(path: Path, text: str) -> None:
    from dpsd.files import whole_file

    json.loads(text)  # never a file that nobody can read
    with whole_file(path) as partial:
        partial.write_text(text)
