"""Flower's simulation, where ray is installed (`dpsd[simulation]`)."""

from pathlib import Path

import pytest
from products import contents

from dpsd.cli import main
from dpsd.runs.folder import open_run

YAML = """
device: cpu
precision: float32
teacher: {model: cnn-tiny, epochs: 1, batch_size: 64, root: %s}
student: {model: cnn-tiny, batch_size: 100}
loop: {rounds: 2}
federated: {clients: 3, partition: iid}
privacy: {route: federated, epsilon: 8, answers: 400, insecure_seeded_noise: true}
"""


@pytest.mark.slow
def test_the_simulation_gives_the_answers_of_one_process_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "f.yaml").write_text(YAML % (tmp_path / "teachers"))
    runs = []
    for runtime in ("simulation", "in-process"):
        out = tmp_path / runtime
        argv = ["federate", str(tmp_path / "f.yaml"), "--runtime", runtime, "--out", str(out)]
        assert main([*argv, "--no-evaluate"]) == 0
        runs.append(open_run(out))
    banks = [contents(run.private / "bank") for run in runs]
    assert banks[0] and banks[0] == banks[1]
    for name in ("student.safetensors", "generator.safetensors"):
        assert (runs[0].release / name).read_bytes() == (runs[1].release / name).read_bytes()
