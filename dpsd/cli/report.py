"""The command `report`, and the refresh of the private report after other commands."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dpsd.cli.options import Commands, add_command
from dpsd.console import Say, say

if TYPE_CHECKING:
    from dpsd.runs.folder import Run

REFRESHED = True
"""Whether other commands write the report anew when they end."""


def add_report(commands: Commands) -> None:
    """`dpsd report RUN`."""
    text = "write one HTML file that shows a run to people"
    added = add_command(commands, "report", run_report, text, "RUN")
    added.add_argument("--beside", type=Path, action="append", default=[], metavar="RUN",
                       help="other runs to compare with; takes several")  # fmt: skip
    added.add_argument("--public", action="store_true",
                       help="what the release holds alone; RUN may be a release")  # fmt: skip
    added.add_argument("--out", type=Path, metavar="FILE",
                       help="default: RUN/private/report.html, RUN/report-public.html")  # fmt: skip


def run_report(args: argparse.Namespace) -> int:
    """Write the report of a run."""
    from dpsd.report.page import write_report

    out = write_report(args.target, beside=args.beside, public=args.public, out=args.out)
    say(f"report in {out}" + ("" if args.public else " (private)"))
    return 0


@contextmanager
def without_refresh() -> Iterator[None]:
    """Commands that run inside leave the report as it is."""
    global REFRESHED
    before, REFRESHED = REFRESHED, False
    try:
        yield
    finally:
        REFRESHED = before


def refresh(run: "Run", say: Say = say) -> None:
    """Write the run's report anew, and its public one if there is one.

    A failure is a warning: the command has succeeded.
    """
    if not REFRESHED:
        return
    try:
        from dpsd.report.page import PUBLIC_NAME, write_report

        say(f"report: {write_report(run.path)} (private)")
        if (run.path / PUBLIC_NAME).exists():
            say(f"report: {write_report(run.path, public=True)}")
    except Exception as e:
        text = " ".join(f"{type(e).__name__}: {e}".split())
        sys.stderr.write(f"dpsd: warning: no report: {text}\n")
