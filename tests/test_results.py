"""docs/results.md is what scripts/render_results makes of the measured cells."""

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_results_are_rendered_from_the_cells(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    render = runpy.run_path(str(ROOT / "scripts" / "render_results"))["render"]
    assert (ROOT / "docs" / "results.md").read_text() == render()


def test_every_cell_says_its_seed_revision_and_unit():
    for path in (ROOT / "docs" / "results").glob("*-seed*.json"):
        cell = json.loads(path.read_text())
        assert {"seed", "revision", "config_hash", "machine", "seconds", "unit"} <= cell.keys()
        assert cell["unit"] in ("answer", "none")
