"""The federated benchmark: its cells are valid plans, and FedAvg is no straw man."""

import json
from argparse import Namespace

from bench_tables import federated as bench
from bench_tables.fedavg import fedavg
from bench_tables.jobs import run_jobs
from render_tables.federated import federated as render

from dpsd.config import parse_config
from dpsd.data.load import load_data
from dpsd.federated.partition import partition
from dpsd.models.networks import as_input
from dpsd.privacy.plan import make_plan
from dpsd.teachers.teacher import accuracy


def test_every_cell_is_a_valid_plan(tmp_path):
    cells = bench.cells()
    for name, cell in cells.items():
        config = bench.configure(cell, 1, tmp_path)
        plan = make_plan(config)
        assert plan.route == "federated" and plan.answers == config.privacy.answers, name
        assert config.seed == config.federated.seed == 1 and plan.seeded_noise
        small = bench.configure(cell, 1, tmp_path, shrink=100)
        assert small.privacy.answers <= config.privacy.answers / 20
    assert cells["mnist-none-alpha0.1-plain"]["alpha"] == 0.1
    plain = bench.configure(cells["mnist-none-alpha0.1-plain"], 0, tmp_path)
    assert plain.federated.aggregate == "plain" and plain.federated.alpha == 0.1


def test_results_and_baselines_stand_side_by_side(tmp_path):
    assert render(tmp_path) == []
    run = {
        "student_accuracy": 0.96, "answers": 1000, "seconds": 9.0, "aggregate": "plain",
        "bytes_down_per_client_and_round": 10.0, "bytes_up_per_client_and_round": 20.0,
        "bytes_of_the_student": 3000,
    }  # fmt: skip

    def keep(name, seed, **changes):
        found = bench.current_hash(bench.cells()[name], seed)
        result = run | {"cell": name, "seed": seed, "config_hash": found} | changes
        (tmp_path / f"{name}-seed{seed}.json").write_text(json.dumps(result))

    keep("mnist-none-alpha0.5", 0)
    keep("mnist-none-alpha0.5-plain", 0)
    keep("mnist-none-alpha0.5", 1, student_accuracy=0.98)
    keep("mnist-none-alpha0.5", 2, student_accuracy=0.1, config_hash="of another configuration")
    beside = {"local-only": {"accuracy": 0.9}, "fedavg-20": {"accuracy": 0.975}}
    for seed, change in ((0, {}), (1, {"config_hash": "of other teachers"})):
        config = bench.configure(bench.cells()["mnist-none-alpha0.5"], seed, tmp_path)
        found = beside | bench.baseline_facts(config) | change
        (tmp_path / f"baselines-mnist-alpha0.5-seed{seed}.json").write_text(json.dumps(found))
    text = "\n".join(render(tmp_path))
    assert "| 97.00 ± 1.41 | 95.8 | 97.2 | 90.00 | - | - | 97.50 | 1,000 | 9 | 2 |" in text
    assert "| 10 | 20 | 3,000 |" in text and "96.00 | mnist-none-alpha0.5 |" in text
    assert "earlier configuration, not shown: mnist-none-alpha0.5-seed2." in text


def test_baselines_of_a_partition_share_a_file_and_add_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "FEDERATED", tmp_path)
    measured = []
    monkeypatch.setattr(bench, "measure_baseline",
                        lambda key, *rest: measured.append(key) or {"accuracy": 0.5})  # fmt: skip
    args = Namespace(cell=["mnist-none-alpha0.5*"], seed=[0], teachers=tmp_path, shrink=1)
    run_jobs(list(bench.baseline_jobs(args))[:2])
    run_jobs(bench.baseline_jobs(args))
    assert measured == list(bench.BASELINES)
    (path,) = tmp_path.iterdir()
    assert {*bench.BASELINES, "facts", "machine"} <= json.loads(path.read_text()).keys()


def test_flowers_fedavg_learns_and_more_rounds_are_better():
    config = parse_config(
        {
            "device": "cpu",
            "privacy": {"route": "federated", "unit": "answer", "epsilon": 1},
            "federated": {"clients": 3, "alpha": 0.5},
        }
    )
    data = load_data(config.data)
    rows, found = partition(config, data), []
    for rounds in (1, 4):
        model, size = fedavg(config, data, rows, rounds, 1.0)
        assert size > 4 * sum(p.numel() for p in model.parameters())
        found.append(accuracy(lambda x, m=model: m(as_input(x)), data.holdout))
    assert found[1] > found[0] and found[1] > 0.5
