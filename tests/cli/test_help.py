"""Every command says what it is for, shows an example that parses, and shows its defaults."""

import argparse
import re
import shlex

import pytest

from dpsd.cli import make_parser
from dpsd.cli.examples import PURPOSES


def _commands(parser, prefix=""):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield f"{prefix}{name}", command
                yield from _commands(command, f"{prefix}{name} ")


COMMANDS = dict(_commands(make_parser()))
TARGETS = ("transcribe", "plan", "verify", "attack", "audit", "serve", "init", "config", "demo")


def test_the_walk_finds_the_commands():
    assert set(TARGETS) <= COMMANDS.keys() and "account add" in COMMANDS
    assert COMMANDS.keys() <= PURPOSES.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_purpose_and_an_example_that_parses(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    shown = COMMANDS[name].format_help()
    purpose, examples = PURPOSES[name]
    assert re.match(r"[A-Z].*\.$", purpose) and purpose in " ".join(shown.split())
    assert "example:\n" in shown
    for line in examples.splitlines():
        first, *words = shlex.split(line)
        assert first == "dpsd" and " ".join(words).startswith(name) and line.strip() in shown
        args = make_parser().parse_args(words)
        assert callable(args.run)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_explained_and_shows_its_default(name):
    command = COMMANDS[name]
    for action in command._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        assert action.help, f"{name} {action.dest}"
        if action.default in (None, False, argparse.SUPPRESS, "", []):
            continue
        text = command._get_formatter()._get_help_string(action) % {"default": action.default}
        assert "default" in text, f"{name} {action.dest}"


@pytest.mark.parametrize(
    "name", [n for n, c in COMMANDS.items() if "ACTION" not in c.format_usage()]
)
def test_each_command_can_be_quiet_or_tell_more(name):
    options = COMMANDS[name]._option_string_actions
    assert {"--quiet", "--verbose"} <= options.keys()
