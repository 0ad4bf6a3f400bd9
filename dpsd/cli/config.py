"""The command `config`: what every key of a configuration means."""

import argparse

from dpsd.cli.options import Commands
from dpsd.console import say


def add_config(commands: Commands) -> None:
    """`dpsd config [KEY]`."""
    text = "look up what a key of a configuration means, its default and what it accepts"
    added = commands.add_parser("config", help=text, description=text)
    added.set_defaults(run=run_config)
    added.add_argument("key", metavar="KEY", nargs="?",
                       help="as privacy.epsilon; or a section; default: all")  # fmt: skip
    added.add_argument("--markdown", action="store_true", help="print the page docs/config.md")


def run_config(args: argparse.Namespace) -> int:
    """Print the reference of one key, a section, or all keys."""
    from dpsd.config.reference import find_parts, parts, reference_markdown, reference_text

    shown = parts() if args.key is None else find_parts(args.key)
    say(reference_markdown(shown) if args.markdown else reference_text(shown))
    return 0
