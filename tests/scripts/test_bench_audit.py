"""docs/attacks.md is what the benchmark scripts make of the measured JSON files."""

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return runpy.run_path(str(ROOT / "scripts" / "bench_attacks.py"))


def test_the_page_is_made_from_the_measurements(bench):
    assert (ROOT / "docs" / "attacks.md").read_text() == bench["page"]()


def test_measurements_name_unit_seed_and_machine(bench):
    found = [json.loads(p.read_text()) for p in bench["RESULTS"].glob("*.json")]
    assert found
    for report in found:
        assert {"seed", "machine", "revision", "wall_seconds"} <= report.keys()
        text = json.dumps(report)
        assert "/work" not in text and "/home" not in text and "/tmp" not in text
        for outcome in report.get("outcomes", []):
            assert outcome["unit"] and outcome["passed"]


def test_pictures_of_the_docs_are_there_and_small():
    readme = (ROOT / "README.md").read_text()
    named = re.findall(r"!\[[^]]*\]\((docs/pictures/[^)]+)\)", readme)
    assert "docs/pictures/inversion-faces.png" in named
    assert all((ROOT / name).is_file() for name in named)
    for path in (ROOT / "docs/pictures").glob("*.png"):
        assert path.stat().st_size < 300_000, path.name
