"""docs/results.md is what scripts/render_results makes of the measured cells."""

import json
import runpy
from pathlib import Path

from bench_tables import cells
from bench_tables import downstream as fresh
from bench_tables import dpsgd as known
from render_tables.clean_labels import clean_labels
from render_tables.curve import curve, draw_curve
from render_tables.diffusion import diffusion
from render_tables.downstream import downstream
from render_tables.dpsgd import dpsgd, dpsgd_beside
from render_tables.speed import imagenet, ranks

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


def test_downstream_rows_say_unit_answers_samples_and_whether_the_student_was_reached(tmp_path):
    assert downstream(tmp_path) == []
    known = fresh.cells()
    for name, unit, right in (("fashion-inherited-eps3", "record", 0.875),
                              ("mnist-rr-eps1", "answer", 0.80)):  # fmt: skip
        result = {
            "cell": name, "seed": 0, "config_hash": fresh.current_hash(known[name], 0),
            "unit": unit,
            "fresh": right, "student": 0.88, "teacher": 0.89, "control": 0.1, "answers": 5000,
            "samples": 60_000, "labels": "soft", "model": "cnn-tiny", "student_model": "cnn",
            "choice": {"balanced": False, "best": 1, "select": 3},
        }  # fmt: skip
        (tmp_path / f"{name}-seed0.json").write_text(json.dumps(result))
    (tmp_path / "mnist-none-seed0.json").write_text(json.dumps(result | {"cell": "mnist-none"}))
    lines = downstream(tmp_path)
    how = "| 5,000 | 60,000 soft, select 3 | 89.00 | 88.00 (cnn) | cnn-tiny |"
    assert f"| Fashion-MNIST, inherited, eps 3 | record {how} 87.50 | 10.00 | 1 | yes |" in lines
    title = "MNIST, randomised response, eps 1"
    assert f"| {title} | answer {how} 80.00 | 10.00 | 1 | no |" in lines
    assert "Measured with an earlier configuration, not shown: mnist-none-seed0." in lines


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


def test_parts_at_real_sizes_are_tabled_with_what_they_would_take(tmp_path):
    machine = {"threads": 1, "cores": 2}
    rates = dict.fromkeys(("written", "mapped", "read_cold", "read_warm"), 100.0)
    found = {
        "machine": machine, "teacher": "T", "student": "S", "classes": 1000, "rounds": 2,
        "shape": [3, 4, 4], "answers": 8, "precision": "float32", "seconds": 9.0,
        "processor_seconds": 5.0, "peak_GiB": 1.5, "images_per_processor_second": {"teacher": 2.0},
        "mapped": {"bytes": 2**30, "memory_grew_bytes": 2**20, "images_per_second": rates},
        "planned": {"images": 7200, "rounds": 3, "select": 1, "memory_GiB": 24,
                    "bank_bytes": 2**31, "disk_bytes": 2**32, "memory_bytes": 2**29,
                    "hash_bytes": 2**22},
    }  # fmt: skip
    assert imagenet(tmp_path / "none.json") == ranks(tmp_path / "none.json") == []
    (tmp_path / "imagenet.json").write_text(json.dumps(found))
    text = "\n".join(imagenet(tmp_path / "imagenet.json"))
    assert "| teacher's forward passes | 2.0 | 1 |" in text
    assert "a bank of 2 GiB" in text and "0.50 GiB of memory" in text and "4 MiB for hash" in text
    one = {"processor_seconds": {"teacher": 8.0}, "images_per_processor_second": 10.0,
           "images_per_second": 9.0}  # fmt: skip
    two = {"processor_seconds": {"teacher": 4.0}, "images_per_processor_second": 20.0,
           "images_per_second": 18.0}  # fmt: skip
    (tmp_path / "ranks.json").write_text(json.dumps(found | {"processes": {"1": one, "2": two}}))
    text = "\n".join(ranks(tmp_path / "ranks.json"))
    assert "| teacher's forward passes | 8.0 | 4.0 |" in text and "| 9 | 18 |" in text


def test_a_diffusion_model_is_tabled(tmp_path):
    assert diffusion(tmp_path / "diffusion.json") == []
    one = {"accuracy": 0.8, "agreement": 0.81, "entropy_of_classes": 2.1, "mean_confidence": 0.9}
    names = ("synthesizer", "diffusion", "half guided 0.05")
    found = {
        "asked": 12_000, "trained": 60_000, "updates": 2_500, "batch": 128, "steps": 20,
        "weights": 293_092, "passes": 6, "sources": dict.fromkeys(names, one),
        "seconds": {"training": 680.0, "diffusion": 155.0},
    }  # fmt: skip
    (tmp_path / "diffusion.json").write_text(json.dumps(found))
    text = "\n".join(diffusion(tmp_path / "diffusion.json"))
    assert "| the synthesizer's | 80.00 | 81.00 | 2.10 | - |" in text
    assert "| diffusion, not guided | 80.00 | 81.00 | 2.10 | 155 |" in text
    assert "half of each: the synthesizer's and diffusion, guided by 0.05 a step" in text


def test_what_noisy_answers_are_worth_is_tabled(tmp_path):
    assert clean_labels(tmp_path / "clean-labels.json") == []
    found = {
        "nats_per_answer": 0.0162, "clean_labels": 10882.6, "images": 10882, "steps": 10,
        "shares": [900, 31, 1000], "fisher_share_at_half": 0.018, "fisher_share_at_99": 0.0007,
        "accuracy": {"class, augment none": 0.975},
    }  # fmt: skip
    (tmp_path / "clean-labels.json").write_text(json.dumps(found))
    text = "\n".join(clean_labels(tmp_path / "clean-labels.json"))
    assert "0.0162 nats" in text and "at most 10,883 clean" in text and "has 31 images" in text
    assert "| class, augment none | 97.50 |" in text
