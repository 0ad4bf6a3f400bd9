"""The command `demo`: the whole way once, on data that come with the install."""

import argparse
import importlib.util
import os
import time
from pathlib import Path

from dpsd.cli.options import Commands, add_setters, overrides
from dpsd.cli.report import without_refresh
from dpsd.console import note, say
from dpsd.errors import UserError

CONFIG = Path(__file__).with_name("demo.yaml")
"""Digits 5 to 9 are private, 0 to 4 public: a smaller configs/attacks_digits.yaml."""


def add_demo(commands: Commands) -> None:
    """`dpsd demo`."""
    text = "train a small private teacher, transcribe it at eps 1 per answer, attack both"
    added = commands.add_parser("demo", help=text, description=text)
    added.set_defaults(run=run_demo)
    added.add_argument("--out", type=Path, metavar="DIR",
                       help="run folder, new (default: runs/demo-TIME)")  # fmt: skip
    add_setters(added)


def run_demo(args: argparse.Namespace) -> int:
    """Transcribe, evaluate, attack, report; 0, or the exit code of the first step that failed."""
    from dpsd.cli import main

    run: Path = args.out or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    if run.exists():
        raise UserError(f"--out: {run} is there already; choose a new folder")
    talk = {-1: ["--quiet"], 1: ["--verbose"]}.get(args.talk or 0, [])
    settings = overrides(args)
    if "DPSD_HOME" not in os.environ:  # the demo's ledger and key stay beside its runs
        settings.insert(0, f"teacher.root={run.parent / 'home'}")
    made = [f"--set={setting}" for setting in settings]
    began = time.perf_counter()
    for title, words in (
        ("transcribe a private teacher into a student",
         ["transcribe", str(CONFIG), "--data-is-public", "--out", str(run), *made]),
        ("measure both on test rows", ["evaluate", str(run), "--split", "test"]),
        ("attack both: reconstruct what private classes look like",
         ["attack", "inversion", str(run), "--fast"]),
        ("attack both: tell who was in the data", ["attack", "membership", str(run), "--fast"]),
    ):  # fmt: skip
        note(f"\n== {title}\n")
        with without_refresh():  # the report is written once, at the end
            code = main([*words, *talk])
        if code:
            return code
    pictures = run / "private/attacks/inversion/reconstructions-gmi.png"
    say(f"\nThe run is in {run.absolute()}: release/ may be given away, private/ stays here.")
    if pictures.exists():
        say(f"Reconstructions, teacher beside student and baselines: {pictures.absolute()}")
    if importlib.util.find_spec("dpsd.report") is not None and (code := main(["report", str(run)])):
        return code
    note(f"{time.perf_counter() - began:.0f} s in all")
    return 0
