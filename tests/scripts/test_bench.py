"""The benchmarks' cells, controls and curve."""

import importlib
import runpy
from pathlib import Path

import pytest
import torch
from products import copy_of, tiny_config, tiny_run
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dpsd.config import Config
from dpsd.evaluation.evaluate import evaluate
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.plan import make_plan

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    """Imports a module of scripts/."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def test_every_cell_is_a_valid_plan(script, tmp_path):
    bench = script("bench_cells")
    main, ablations = bench.main_cells(), bench.ablations()
    for name, cell in (main | ablations).items():
        config = bench.configure(cell, 1, tmp_path)
        assert config.seed == 1 and config.privacy.insecure_seeded_noise
        assert make_plan(config).answers == config.privacy.answers, name
        small = bench.configure(cell, 1, tmp_path, shrink=100)
        assert small.privacy.answers <= config.privacy.answers / 90
        changed = {"loop", "privacy"}
        assert small.model_dump(exclude=changed) == config.model_dump(exclude=changed)
    for cell in ablations.values():
        assert cell["group"] in bench.ablation_groups() and "must" not in cell
        whole = bench.configure(main[cell["base"]], 0, tmp_path).privacy.answers
        asked = bench.configure(cell, 0, tmp_path).privacy.answers
        assert asked == pytest.approx(whole * cell["budget"])


def test_hash_tells_configurations_controls_and_nothing_else_apart(script, tmp_path):
    bench = script("bench_cells")
    config = Config.model_validate({"privacy": {"epsilon": 1.0, "answers": 100}})
    moved = config.model_copy(
        update={"teacher": config.teacher.model_copy(update={"root": tmp_path})}
    )
    assert bench.config_hash(config) == bench.config_hash(moved)
    other = config.model_copy(update={"seed": 1})
    hashes = {bench.config_hash(config), bench.config_hash(other)}
    hashes |= {bench.config_hash(config, control) for control in ("permuted", "uniform")}
    assert len(hashes) == 4


def test_share_of_the_trainable_generator(script, tmp_path):
    bench = script("bench_cells")
    cell = bench.ablations()["ablation-synthesizer-both"]
    shares = bench.configure(cell | {"trainable_share": 0.2}, 0, tmp_path).generator.shares
    assert shares["adversarial"] / sum(shares.values()) == pytest.approx(0.2)


def test_controls_permute_or_ignore_the_image(script):
    controls = script("bench_controls")
    order = controls.permutation(10)
    assert sorted(order.tolist()) == list(range(10))
    assert (order != torch.arange(10)).all()
    logits = torch.randn(500, 10, generator=torch.Generator().manual_seed(3))
    permuted = controls.controlled(lambda x: logits, "permuted", 10, 0)(torch.empty(500))
    assert torch.equal(order[permuted.argmax(1)], logits.argmax(1))
    blind = controls.controlled(lambda x: 1 / 0, "uniform", 10, 0)
    counts = torch.bincount(blind(torch.empty(20000)).argmax(1), minlength=10)
    assert ((counts - 2000).abs() < 5 * 2000**0.5).all()
    assert not torch.equal(blind(torch.empty(50)), blind(torch.empty(50)))


def test_control_run_is_charged_like_any_other(script, tmp_path_factory, tmp_path):
    controls = script("bench_controls")
    tiny_run(tmp_path_factory)  # trains the teacher
    config = tiny_config(tmp_path_factory.getbasetemp() / "products")
    run = controls.transcribe_control(config, "permuted", tmp_path / "run")
    assert Ledger(run.teacher_folder, run.teacher).charged(run.id) == 2000


def test_undoing_the_permutation(script, tmp_path_factory, tmp_path):
    """A student that is the teacher with permuted classes is as accurate as the teacher."""
    controls = script("bench_controls")
    run = copy_of(tiny_run(tmp_path_factory), tmp_path / "run")
    state = load_file(run.teacher_folder / "weights.safetensors")
    order = controls.permutation(10)
    state |= {name: state[name][order] for name in ("head.weight", "head.bias")}
    with safe_open(run.release / "student.safetensors", "pt") as old:
        header = old.metadata()
    save_file(state, run.release / "student.safetensors", header)
    found = evaluate(run)
    assert controls.undone_accuracy(run) == pytest.approx(found["teacher"]["accuracy"])
    assert found["student"]["accuracy"] < found["teacher"]["accuracy"] - 0.2


def test_curve_ends_with_the_released_students_accuracy(script, tmp_path_factory):
    run = tiny_run(tmp_path_factory)
    script("bench_cells")
    measure_curve = runpy.run_path(str(SCRIPTS / "bench_accuracy"))["measure_curve"]
    curve = measure_curve("tiny", tiny_config(tmp_path_factory.getbasetemp() / "products"))
    assert len(curve["student_accuracy"]) == run.config.loop.rounds == len(curve["answers"])
    found = evaluate(copy_of(run, tmp_path_factory.mktemp("curve") / "run"), split="holdout")
    assert len(curve["refit_accuracy"]) == run.config.student.refit_epochs > 0
    assert curve["refit_accuracy"][-1] == pytest.approx(found["student"]["accuracy"])
    assert curve["teacher_accuracy"] == found["teacher"]["accuracy"]
