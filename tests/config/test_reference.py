"""`dpsd config` and docs/config.md say what the sections accept, key by key."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from dpsd.cli import main
from dpsd.config import Config, flatten, parse_config
from dpsd.config.reference import find_parts, parts, reference_markdown

ROOT = Path(__file__).parents[2]
PRIVACY = {"privacy": {"epsilon": 1}}  # the one key without which no configuration stands
KEYS = {key.name: key for part in parts() for key in part.keys}


def test_the_page_is_made_of_the_sections():
    assert (ROOT / "docs" / "config.md").read_text() == reference_markdown(parts())


def test_every_key_is_there_with_a_meaning():
    plain = flatten(parse_config(PRIVACY).model_dump(mode="json"))
    missing = [k for k in plain if k not in KEYS and not k.startswith("generator.shares.")]
    assert not missing and "generator.shares" in KEYS
    assert [name for name, key in KEYS.items() if not key.meaning] == []


def test_every_choice_that_is_named_is_taken_by_its_key():
    choices = {n: k.accepted.split(" | ") for n, k in KEYS.items() if k.type == "choice"}
    assert {"privacy.route", "privacy.vector", "federated.aggregate"} <= choices.keys()
    for name, accepted in choices.items():
        *sections, leaf = name.split(".")
        model = Config
        for section in sections:
            model = model.model_fields[section].annotation
        rest = {} if sections else PRIVACY
        for choice in accepted:
            assert getattr(model(**{leaf: choice}, **rest), leaf) == choice
        with pytest.raises(ValidationError, match=leaf):
            model(**{leaf: "no such choice"}, **rest)


@pytest.mark.parametrize(
    ("name", "kind", "default", "accepted"),
    [
        ("privacy.epsilon", "number or null", "null", "above 0"),
        ("seed", "whole number", "0", "from 0, below 2^63"),
        ("privacy.explore", "number", "0.3", "from 0, up to 1"),
        ("teacher.normalize.mean", "list of numbers", "required", ""),
        ("data.shape", "list of 3 whole numbers or null", "null", ""),
        ("owner", "text or null", "null", "up to 200 characters"),
        ("teacher.root", "path", "by environment", ""),
    ],
)
def test_type_default_and_range_are_the_field_s(name, kind, default, accepted):
    key = KEYS[name]
    assert (key.type, key.default, key.accepted) == (kind, default, accepted)


def test_defaults_read_back_as_yaml():
    for name in ("generator.shares", "generator.augment", "privacy.delta", "seed", "student.model"):
        section, _, leaf = name.rpartition(".")
        value = yaml.safe_load(KEYS[name].default)
        tree = {section: {leaf: value}} if section else {leaf: value}
        tree["privacy"] = tree.get("privacy", {}) | PRIVACY["privacy"]
        assert parse_config(tree) == parse_config(PRIVACY), name


def test_a_key_a_section_and_a_typing_error(capsys):
    assert main(["config", "privacy.epsilon"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("privacy.epsilon = null   (number or null; above 0)\n    For one `unit`")
    assert main(["config", "teacher.dp"]) == 0
    out = capsys.readouterr().out
    assert "Unit: one record" in out and "teacher.dp.momentum = 0.9" in out
    assert "teacher.model" not in out
    for wrong in ("privacy.epsilom", "epsilon"):
        assert main(["config", wrong]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "did you mean privacy.epsilon" in error
    assert main(["config", "zzzzzz"]) == 2
    assert "lists all keys" in capsys.readouterr().err


def test_a_section_beside_a_key_of_its_name_shows_both():
    assert [p.name for p in find_parts("data.split")] == ["data", "data.split"]
    assert [p.name for p in find_parts("generator")] == ["generator", "generator.photographs[]"]
