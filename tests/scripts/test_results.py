"""docs/results.md is what scripts/render_results makes of the measured cells."""

import json
import runpy
from pathlib import Path

from bench_tables import cells
from bench_tables import dpsgd as known
from render_tables.curve import curve, draw_curve
from render_tables.dpsgd import dpsgd, dpsgd_beside

ROOT = Path(__file__).parents[2]
render = runpy.run_path(str(ROOT / "scripts" / "render_results"))["render"]


def test_results_are_rendered_from_the_cells():
    assert (ROOT / "docs" / "results.md").read_text() == render()


def test_results_of_an_earlier_configuration_are_named_and_not_shown(tmp_path):
    fresh = json.loads((ROOT / "docs" / "results" / "mnist-none-seed0.json").read_text())
    old = fresh | {"seed": 1, "student_accuracy": 0.1234}  # the hash is of seed 0
    for name, result in (("mnist-none-seed0", fresh), ("mnist-none-seed1", old)):
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    shown = render(tmp_path)
    assert "12.34" not in shown and f"| {100 * fresh['student_accuracy']:.2f} |" in shown
    assert "Measured with an earlier configuration, not shown: mnist-none-seed1." in shown


def test_plain_dpsgd_is_tabled_with_its_unit(tmp_path):
    assert dpsgd(tmp_path) == []
    name = "dpsgd-mnist-cnn-tanh-eps1"
    for seed, right in ((0, 0.93), (1, 0.95), (2, 0.1)):
        found = known.current_hash(known.cells()[name], seed) if seed < 2 else "another"
        result = {"cell": name, "seed": seed, "config_hash": found, "seconds": 9.0,
                  "accuracy": {"test": right}}  # fmt: skip
        (tmp_path / f"{name}-seed{seed}.json").write_text(json.dumps(result))
    assert dpsgd_beside(name, tmp_path) == "94.00 ± 1.41 in 9 s"
    assert (
        dpsgd_beside("dpsgd-mnist-cnn-tanh-eps2", tmp_path) == dpsgd_beside(None, tmp_path) == "-"
    )
    lines = dpsgd(tmp_path)
    assert "| MNIST | cnn-tanh | 1 | 94.00 ± 1.41 | 9 | 2 |" in lines
    assert any("eps per record" in line for line in lines)
    assert f"Measured with an earlier configuration, not shown: {name}-seed2." in lines


def test_every_cell_says_its_seed_revision_and_unit():
    for path in (ROOT / "docs" / "results").glob("*-seed*.json"):
        cell = json.loads(path.read_text())
        assert {"seed", "revision", "config_hash", "machine", "seconds", "unit"} <= cell.keys()
        assert cell["unit"] in ("answer", "record", "user", "none")


def test_curve_is_drawn_and_tabled(tmp_path):
    curves = [
        {"cell": name, "rows": 6000, "answers": list(range(1000, 100_001, 1000)),
         "student_accuracy": [top * r / 100 for r in range(1, 101)], "refit_accuracy": [0.99],
         "teacher_accuracy": 0.995}
        for name, top in (("a", 0.9), ("b", 0.8))
    ]  # fmt: skip
    titles = {"a": "first", "b": "second"}
    draw_curve(curves, titles, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "curve.png").stat().st_size < 300_000
    lines = curve(curves, titles)
    assert "| first | 9.00 | 22.50 | 45.00 | 67.50 | 90.00 | 99.00 | 99.50 |" in lines
    assert curve([], titles) == []


def test_every_baseline_that_a_cell_names_is_one():
    baselines, main = known.cells(), cells.main_cells()
    named = {name: cell["dpsgd"] for name, cell in main.items() if "dpsgd" in cell}
    assert named and set(named.values()) <= baselines.keys()
    assert all(baselines[baseline]["epsilon"] == int(name.rsplit("eps", 1)[1])
               for name, baseline in named.items())  # fmt: skip
