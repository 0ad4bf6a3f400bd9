"""docs/extraction.md names every attack and every defence, with their defaults."""

from pathlib import Path

from dpsd.attacks.extraction.attacks import ATTACKS
from dpsd.defences import DEFENCES, parse_defence

TEXT = (Path(__file__).parents[3] / "docs" / "extraction.md").read_text()


def test_every_attack_stands_in_the_table():
    for name, attack in ATTACKS.items():
        assert f"| `{name}` | {attack.needs} | {attack.text} |" in TEXT, name


def test_every_defence_stands_in_the_table_in_order():
    section = TEXT.split("## Defences")[1].split("\n## ")[0]
    told = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    assert [parse_defence(text).name for text in told] == list(DEFENCES)
    for text in told:
        assert parse_defence(text) == DEFENCES[parse_defence(text).name](), text
        kept = "yes" if parse_defence(text).keeps_top1 else "no"
        assert f"| `{text}` | {kept} |" in TEXT
