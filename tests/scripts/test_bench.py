"""The benchmarks' jobs, cells, controls and curve."""

import json
import math
import runpy
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from bench_tables import accuracy, cells, clean_labels, controls, downstream, jobs
from products import copy_of, tiny_config, tiny_run
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dpsd.config import Config
from dpsd.evaluation.downstream import fresh_model
from dpsd.evaluation.evaluate import evaluate
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.plan import make_plan

ROOT = Path(__file__).parents[2]
TABLES = runpy.run_path(str(ROOT / "scripts" / "bench"))["TABLES"]


def arguments(tmp_path, **changes):
    return Namespace(
        **{"cell": ["*"], "seed": None, "teachers": tmp_path, "shrink": 1, "again": False,
           "budget": None, "runs": tmp_path, "picture": False} | changes
    )  # fmt: skip


def test_a_job_is_measured_once_and_again_where_the_facts_differ(tmp_path, capsys):
    calls = []

    def job(config_hash, key=None):
        facts = {"cell": "a", "config_hash": config_hash}
        return jobs.Job(tmp_path / "new" / "a.json", facts, lambda: calls.append(1) or {"x": 0.5},
                        key)  # fmt: skip

    jobs.run_jobs([job("one")], keep=False)
    assert not (tmp_path / "new").exists() and "a: x 0.5" in capsys.readouterr().out
    jobs.run_jobs([job("one"), job("one")])
    assert len(calls) == 2 and "a: there already" in capsys.readouterr().out
    kept = json.loads((tmp_path / "new" / "a.json").read_text())
    assert {"cell", "config_hash", "x", "machine", "revision"} == kept.keys()
    assert not job("two").done() and job("two").kept() == {}
    assert job("one", "x").done() and not job("one", "y").done()
    jobs.run_jobs([job("two")])
    jobs.run_jobs([job("two")], again=True)
    assert len(calls) == 4


@pytest.mark.parametrize(
    "table", [t for t in TABLES if t not in ("audit", "membership", "serving")]
)
def test_every_table_lists_jobs_and_knows_what_is_measured(table, tmp_path):
    """Files of docs/results/ that hold no configuration hash, or today's, need no measurement.

    audit, membership and serving measure a run that is named on the command line.
    """
    module, function, _ = TABLES[table]
    listed = list(getattr(import_module(f"bench_tables.{module}"), function)(arguments(tmp_path)))
    assert listed and all(job.path.is_relative_to(jobs.RESULTS) for job in listed)
    assert any(job.done() for job in listed)  # not measured yet
    names = [(job.path, job.key) for job in listed]
    assert len(names) == len(set(names))


def test_every_cell_is_a_valid_plan(tmp_path):
    main, ablations = cells.main_cells(), cells.ablations()
    for name, cell in (main | ablations).items():
        config = cells.configure(cell, 1, tmp_path)
        assert config.seed == 1 and config.privacy.insecure_seeded_noise
        assert make_plan(config).answers == config.privacy.answers, name
        small = cells.configure(cell, 1, tmp_path, shrink=100)
        assert small.privacy.answers <= config.privacy.answers / 90
        changed = {"loop", "privacy"}
        assert small.model_dump(exclude=changed) == config.model_dump(exclude=changed)
    for cell in ablations.values():
        assert cell["group"] in cells.ablation_groups() and "must" not in cell
        whole = cells.configure(main[cell["base"]], 0, tmp_path).privacy.answers
        asked = cells.configure(cell, 0, tmp_path).privacy.answers
        assert asked == pytest.approx(whole * cell["budget"])


def test_every_downstream_cell_trains_another_model_on_a_plan_of_its_own(tmp_path):
    hashes = set()
    for name, cell in downstream.cells().items():
        config = cells.configure(cell, 0, tmp_path)
        assert make_plan(config).unit in (cell["unit"], "none"), name
        assert fresh_model(config.student.model, cell["model"]) == cell["model"]
        changed = cell | {"select": 2}
        hashes |= {downstream.current_hash(c, seed) for c in (cell, changed) for seed in (0, 1)}
        if "inherited" in name:
            assert f"eps{config.teacher.dp.epsilon:g}" == name.rsplit("-", 1)[1]
        elif not name.endswith("none"):
            assert f"eps{config.privacy.epsilon:g}" == name.rsplit("-", 1)[1]
    assert len(hashes) == 4 * len(downstream.cells())


def test_a_downstream_job_keeps_its_run_and_takes_no_other(tmp_path_factory, tmp_path):
    run = copy_of(tiny_run(tmp_path_factory), tmp_path / "run")
    config = tiny_config(tmp_path_factory.getbasetemp() / "products")
    made = {"samples": 40, "balanced": False, "best": 1, "select": 1, "model": "cnn-tiny",
            "passes": 1, "soft": True, "temperature": 1.0}  # fmt: skip
    found = downstream.measure(config, run.path, made)
    assert found["samples"] == 40 and found["split"] == "test" and found["relation"]
    assert found["choice"] == {"balanced": False, "best": 1, "select": 1}
    other = config.model_copy(update={"seed": 1})
    with pytest.raises(SystemExit, match="a run of another configuration"):
        downstream.measure(other, run.path, made)


def test_hash_tells_configurations_controls_and_nothing_else_apart(tmp_path):
    config = Config.model_validate({"privacy": {"epsilon": 1.0, "answers": 100}})
    moved = config.model_copy(
        update={"teacher": config.teacher.model_copy(update={"root": tmp_path})}
    )
    assert cells.config_hash(config) == cells.config_hash(moved)
    other = config.model_copy(update={"seed": 1})
    hashes = {cells.config_hash(config), cells.config_hash(other)}
    hashes |= {cells.config_hash(config, control) for control in ("permuted", "uniform")}
    assert len(hashes) == 4


def test_hash_covers_a_later_key_only_where_it_is_set():
    def hash_of(**generator):
        return cells.config_hash(
            Config.model_validate({"privacy": {"epsilon": 1.0}, "generator": generator})
        )

    known = {"kind": "mixed"}
    assert hash_of(**known) == hash_of(**known, network="decoder", untrained=0, restart=None)
    others = [{"network": "fields"}, {"untrained": 0.5}, {"restart": 1}, {}]
    assert len({hash_of(**known, **other) for other in others}) == 4


def test_share_of_the_trainable_generator(tmp_path):
    cell = cells.ablations()["ablation-synthesizer-both"]
    shares = cells.configure(cell | {"trainable_share": 0.2}, 0, tmp_path).generator.shares
    assert shares["adversarial"] / sum(shares.values()) == pytest.approx(0.2)


def test_controls_permute_or_ignore_the_image():
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


def test_control_run_is_charged_like_any_other(tmp_path_factory, tmp_path):
    tiny_run(tmp_path_factory)  # trains the teacher
    config = tiny_config(tmp_path_factory.getbasetemp() / "products")
    run = controls.transcribe_control(config, "permuted", tmp_path / "run")
    assert Ledger(run.teacher_folder, run.teacher).charged(run.id) == 2000


def test_undoing_the_permutation(tmp_path_factory, tmp_path):
    """A student that is the teacher with permuted classes is as accurate as the teacher."""
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


def test_curve_ends_with_the_released_students_accuracy(tmp_path_factory):
    run = tiny_run(tmp_path_factory)
    curve = accuracy.measure_curve(tiny_config(tmp_path_factory.getbasetemp() / "products"))
    assert len(curve["student_accuracy"]) == run.config.loop.rounds == len(curve["answers"])
    found = evaluate(copy_of(run, tmp_path_factory.mktemp("curve") / "run"), split="holdout")
    assert len(curve["refit_accuracy"]) == run.config.student.refit_epochs > 0
    assert curve["refit_accuracy"][-1] == pytest.approx(found["student"]["accuracy"])
    assert curve["teacher_accuracy"] == found["teacher"]["accuracy"]


def test_noisy_answers_are_worth_so_many_clean_labels(tmp_path):
    """Ten classes, sigma by the plan: (1 - 1/10) / (2 sigma^2) nats each, log 10 for a label."""
    config = cells.configure(cells.main_cells()[clean_labels.BASE], 0, tmp_path)
    found, plan = clean_labels.worth(config), make_plan(config)
    sigma = plan.mechanism.sigma
    rng = torch.Generator().manual_seed(0)
    # The same by simulation: the mean log-likelihood ratio of an answer to its class 0.
    noisy = torch.eye(10)[0] + sigma * torch.randn(400_000, 10, generator=rng)
    ratio = (noisy / sigma**2).double()
    nats = (ratio[:, 0] - ratio.logsumexp(1) + math.log(10)).mean()
    assert found["nats_per_answer"] == pytest.approx(float(nats), rel=0.1)
    assert found["clean_labels"] == pytest.approx(1_550_000 * found["nats_per_answer"] / 2.302585)


def test_a_photograph_is_hashed_by_its_name(tmp_path):
    cell = cells.ablations()["ablation-photographs-one"]
    config = cells.configure(cell, 0, tmp_path)
    (photograph,) = config.generator.photographs
    assert Path(photograph.file).is_file()
    assert cells.hashed_tree(config)["generator"]["photographs"][0]["file"] == "china.jpg"
