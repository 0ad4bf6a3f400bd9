"""docs/attacks.md is what the benchmark scripts make of the measured JSON files."""

import json
import re
from pathlib import Path

from bench_tables.attacks import ATTACKS
from render_tables.attacks import page

ROOT = Path(__file__).parents[2]


def test_the_page_is_made_from_the_measurements():
    assert (ROOT / "docs" / "attacks.md").read_text() == page()


def test_measurements_name_unit_seed_and_machine():
    found = [json.loads(p.read_text()) for p in ATTACKS.glob("*.json")]
    assert found
    for report in found:
        assert {"seed", "machine", "revision", "wall_seconds"} <= report.keys()
        text = json.dumps(report)
        assert "/work" not in text and "/home" not in text and "/tmp" not in text
        for outcome in report.get("outcomes", []):
            assert outcome["unit"] and outcome["passed"]


def test_pictures_of_the_docs_are_there_and_small():
    text = (ROOT / "docs/attack-your-run.md").read_text()
    named = re.findall(r"!\[[^]]*\]\((pictures/[^)]+)\)", text)
    assert "pictures/inversion-faces.png" in named
    assert all((ROOT / "docs" / name).is_file() for name in named)
    for path in (ROOT / "docs/pictures").glob("*.png"):
        assert path.stat().st_size < 300_000, path.name
