"""Whole federated runs in process, through `federate` and the command line."""

import csv
import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
from federated.doors import Relay
from products import contents

from dpsd.cli import main
from dpsd.config import load_config
from dpsd.data.load import load_data
from dpsd.errors import UserError
from dpsd.evaluation.evaluate import evaluate
from dpsd.federated import messages
from dpsd.federated.federate import federate
from dpsd.federated.home import client_rows, federation_folder
from dpsd.federated.table import federation_facts
from dpsd.files import read_lines
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.oracle import ReplayOracle
from dpsd.privacy.verify import verify_release
from dpsd.transcription.transcribe import transcribe

YAML = """
device: cpu
precision: float32
teacher: {model: cnn-small, epochs: 2, batch_size: 32, root: %s}
student: {refit_epochs: 1}
loop: {rounds: 2}
privacy: {route: federated, unit: answer, epsilon: 8, answers: 600, insecure_seeded_noise: true}
federated: {clients: 3}
"""
UNITS = {
    "answer": ["privacy.ask=group", "federated.aggregate=learned"],
    "record": ["privacy.unit=record", "privacy.mechanism=noisy_votes", "teacher.shards=4",
               "teacher.model=scatter-linear", "teacher.copies=1", "federated.aggregate=labels"],
    "client": ["privacy.unit=client", "privacy.mechanism=noisy_votes", "federated.clients=12",
               "federated.nodes=3", "teacher.model=scatter-linear", "teacher.copies=1",
               "federated.partition=iid"],
    "none": ["privacy.mechanism=none", "privacy.epsilon=null", "generator.kind=mixed",
             "generator.shares={strokes: 0.8, adversarial: 0.2}", "generator.steps=1"],
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    root = tmp_path_factory.mktemp("federated")
    (root / "f.yaml").write_text(YAML % (root / "teachers"))
    return root / "f.yaml"


def watched():
    relays = []
    return relays, lambda grid: relays.append(Relay(grid)) or relays[-1]


@pytest.mark.parametrize("unit", UNITS)
def test_a_run_of_each_unit(file, unit, tmp_path):
    relays, wrap = watched()
    config = load_config(file, UNITS[unit])
    run = federate(config, out=tmp_path / "run", wrap_grid=wrap)
    facts = verify_release(run.release)
    assert facts["unit"] == unit and facts["route"] == "federated"
    text = (run.release / "statement.txt").read_text()
    assert ("NOT PRIVATE" in text and "over all rounds" in text) or unit == "none"
    f = config.federated
    sent = read_every_message(relays[0], unit)
    with (run.release / "clients.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 2 * (f.nodes or f.clients)
    kept = read_lines(run.private / "rounds.jsonl")
    assert [r.pop("seconds") >= 0 for r in kept] == [True] * len(rows)  # private; not released
    assert [{k: str(v) for k, v in r.items()} for r in kept] == rows
    with (run.release / "rounds.csv").open() as lines:
        summed = list(csv.DictReader(lines))
    assert list(summed[0]) == ["round", "clients", "answered", "bytes_down", "bytes_up", "failures"]
    assert not any("second" in key for record in run.metrics() for key in record)
    for r in summed:
        of_round = [row for row in rows if row["round"] == r["round"]]
        assert int(r["bytes_up"]) == sum(int(row["bytes_up"]) for row in of_round)
        assert (int(r["clients"]), int(r["answered"]), r["failures"]) == (f.clients, f.clients, "0")
    assert sum(int(r["answers"]) for r in rows) == 600 * f.clients
    answers = [m for m in relays[0].received if m.metadata.message_type == messages.ANSWER]
    assert sum(int(r["bytes_up"]) for r in rows) == sum(
        messages.size_of(m.content) for m in answers
    )
    # The trainable generator's weights are more than 300 images: there the images travel.
    assert ("seed" in sent, "images" in sent) == (
        (False, True) if unit == "none" else (True, False)
    )
    assert ("prior" in sent) == (unit == "answer")
    result = evaluate(run, split="holdout")
    assert 0 <= result["student"]["accuracy"] <= 1 and result["teacher"]["accuracy"] > 0.5
    if unit == "record":
        assert facts["labels"]["cells"] == 2 and facts["guarantee"]["epsilon"] <= 8
        total = facts["guarantee"]["rho"]
        assert total == pytest.approx(600 / facts["release"]["sigma"] ** 2
                                      + 1 / facts["labels"]["sigma"] ** 2)  # fmt: skip


def read_every_message(relay, unit):
    """Checks the fields of all messages of a run against the list; returns the names down."""
    down = set()
    for m in relay.sent:
        messages.check_fields(m.content, m.metadata.message_type, "down")
        down |= {field for record in m.content.values() for field in record}
    types = set()
    for m in relay.received:
        kind = m.metadata.message_type
        messages.check_fields(m.content, kind, "up")
        types.add(kind)
        assert messages.WEIGHTS not in m.content  # a teacher's weights have no way up
        for array in messages.arrays_of(m.content).values():
            assert len(array) in (300, 4, 10)  # images of a round, clients of a node, classes
    assert (messages.LABELS in types) == (unit == "record")
    return down


def test_seeded_runs_are_the_same_bit_for_bit_and_replay_without_clients(file, tmp_path):
    runs = [federate(load_config(file), out=tmp_path / name) for name in ("a", "b")]
    for name in ("student.safetensors", "synthetic.png"):
        a, b = ((r.release / name).read_bytes() for r in runs)
        assert a == b
    replay = transcribe(
        load_config(file), out=tmp_path / "replay", home=home_of(runs[0]),
        open_oracle=lambda plan, run, _: opened(run, runs[0], plan),
    )  # fmt: skip
    expected = (runs[0].release / "student.safetensors").read_bytes()
    assert (replay.release / "student.safetensors").read_bytes() == expected


def home_of(run):
    from dpsd.teachers.folder import TeacherFolder

    return TeacherFolder(run.teacher_folder, run.teacher, "federation", {})


def opened(run, first, plan):
    ledger = Ledger(run.ledger_folder, run.ledger)
    ledger.open_run(plan.record(run.id))
    shutil.copy(first.private / "rounds.jsonl", run.private)

    class Replay(ReplayOracle):
        def federation(self):
            return federation_facts(run, plan)

    return Replay(first.bank, plan)


def test_a_killed_server_goes_on_and_ends_at_the_same_student(file, tmp_path):
    whole = federate(load_config(file), out=tmp_path / "whole")

    class Killed(Exception):
        pass

    def killing(record):
        if record["round"] == 0:
            raise Killed

    with pytest.raises(Killed):
        federate(load_config(file), out=tmp_path / "cut", progress=killing)
    run = federate(load_config(file), out=tmp_path / "cut", resume=True)
    assert (
        contents(run.release)["student.safetensors"]
        == (contents(whole.release)["student.safetensors"])
    )
    assert verify_release(run.release)["answers_made"] == 600


def test_a_client_lost_for_good_is_left_out_of_the_rest_by_another_quorum(file, tmp_path):
    """What a client charged and never gave is lost; the others go on, and the statement says so."""

    class Lost(Relay):
        def pull_messages(self, message_ids):
            found = list(super().pull_messages(message_ids))
            kinds = {m.metadata.message_type for m in self.sent}
            if messages.ANSWER not in kinds:
                return found
            return [m for m in found if m.metadata.src_node_id != self.get_node_ids()[0]]

    config = load_config(file, ["federated.deadline_s=1.5"])
    with pytest.raises(UserError, match=r"federated.quorum: 2 of 3 clients answered in round 0"):
        federate(config, out=tmp_path / "run", wrap_grid=Lost)
    begun = contents(tmp_path / "run")
    with pytest.raises(UserError, match=r"another configuration: seed \(0 -> 3\)$"):
        other = load_config(file, ["seed=3", "federated.quorum=2"])
        federate(other, out=tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == begun
    fewer = load_config(file, ["federated.deadline_s=2", "federated.quorum=2"])
    run = federate(fewer, out=tmp_path / "run", resume=True, wrap_grid=Lost)
    assert run.config.federated.quorum == 2
    facts = verify_release(run.release)
    assert facts["federation"]["quorum"] == 2 and facts["federation"]["fewest"] == 2
    assert load_config(run.release / "config.yaml").federated.quorum == 2
    before = contents(run.path)
    for overrides, differs in ((["seed=3"], "federated.deadline_s"), ([], "federated.quorum")):
        with pytest.raises(UserError, match=f"another configuration: .*{differs}"):
            federate(load_config(file, overrides), out=tmp_path / "run", resume=True)
    assert contents(run.path) == before  # a finished run is not changed, nor by a refusal


def test_releases_about_records_compose_over_partitions_and_with_ensembles(file, tmp_path):
    """Another partition deals the same records: what is known of them is known already."""
    overrides = [*UNITS["record"], "privacy.answers=40", f"teacher.root={tmp_path}",
                 "privacy.insecure_seeded_noise=false"]  # fmt: skip
    statements = []
    for seed in (0, 1):
        config = load_config(file, [*overrides, f"federated.seed={seed}"])
        run = federate(config, out=tmp_path / f"run-{seed}")
        statements.append(verify_release(run.release))
    names = [r["run"] for r in statements[1]["earlier_runs"]]
    assert names == [f"{statements[0]['run']}", f"{statements[0]['run']} labels"]
    first, second = (s["guarantee"] for s in statements)
    assert second["composed_epsilon"] > first["composed_epsilon"] == first["epsilon"]
    text = (run.release / "statement.txt").read_text()
    assert "Earlier runs on the same data: 1 in the server's ledger" in text
    alone = load_config(file, ["privacy.route=ensemble", *overrides, "federated.aggregate=plain"])
    ensemble = verify_release(transcribe(alone, out=tmp_path / "alone").release)
    assert len(ensemble["earlier_runs"]) == 4
    assert ensemble["guarantee"]["composed_epsilon"] > second["composed_epsilon"]


def test_a_partition_of_other_data_is_not_taken(tmp_path, capsys):
    (tmp_path / "f.yaml").write_text(YAML % (tmp_path / "teachers"))
    whole = federation_folder(load_config(tmp_path / "f.yaml"))
    assert whole != federation_folder(load_config(tmp_path / "f.yaml", ["data.split=digits"]))
    shape = ["data.name=npz", "data.shape=[1,8,8]", "data.classes=4"]
    config = load_config(tmp_path / "f.yaml", [*shape, f"data.root={tmp_path / 'data.npz'}"])

    def rows(n):
        made = {"x": np.arange(n * 64, dtype=np.int64).reshape(n, 8, 8).astype(np.uint8),
                "y": np.arange(n) % 4}  # fmt: skip
        np.savez(tmp_path / "data.npz", **made)
        return client_rows(config, load_data(config.data))

    first = rows(200)
    assert all(torch.equal(a, b) for a, b in zip(first, rows(200), strict=True))
    with pytest.raises(UserError, match="rows of other data"):
        rows(240)
    other = load_config(tmp_path / "f.yaml", [*shape, f"data.root={tmp_path / 'other.npz'}"])
    assert federation_folder(other) != federation_folder(config)


def test_each_client_has_its_own_ledger_and_teacher(file, tmp_path):
    config = load_config(file)
    run = federate(config, out=tmp_path / "run")
    homes = [federation_folder(config) / "clients" / str(i) for i in range(3)]
    ids = set()
    for home in homes:
        mine = {}
        for path in home.glob("*/teacher.json"):
            uuid = json.loads(path.read_text())["uuid"]
            if (path.parent / "ledger.jsonl").exists():
                runs = Ledger(path.parent, uuid).runs()
                mine |= {r.run: r.answers for r in runs if r.run == run.id}
                ids.add(uuid if runs[-1].run == run.id else None)
        assert list(mine.values()) == [600]
    assert len(ids - {None}) == 3
    assert (federation_folder(config) / "partition.png").exists()
    names = {p.name for p in run.release.rglob("*")}
    assert not names & {"partition.png", "partition.npz"}


def test_command_line(file, tmp_path, capsys):
    assert main(["federate", str(file), "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "Each client, over 2 rounds" in out and "bytes_up" in out
    assert main(["plan", str(file)]) == 0
    assert "one client" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["federated.runtime=simulation"], "needs ray"),
        (["privacy.route=single"], "privacy.route: single"),
        (["federated.aggregate=labels"], "unit answer does not cover"),
        (["federated.quorum=4"], "federated.quorum: 4"),
        (["federated.nodes=2"], "federated.nodes: 2"),
        (["privacy.unit=user"], "privacy.unit: user"),
        (["privacy.unit=record"], "privacy.mechanism: randomized_response"),
        (["federated.partition=own"], "federated.partition: own"),
        (["federated.partition=users"], "data.user_ids: null"),
        (["federated.rounds=3"], "federated.rounds: 3, but loop.rounds is 2"),
        (
            ["federated.alpha=0.0001", "federated.tries=2", "federated.clients=12"],
            "none of 2 draws",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    file, overrides, message, tmp_path, capsys, monkeypatch
):
    if "simulation" in overrides[0]:  # ray may be there or not
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    argv = ["federate", str(file), "--out", str(tmp_path / "run"), "--set", *overrides]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_transcribe_sends_federated_configurations_to_federate(file, tmp_path):
    with pytest.raises(UserError, match="federate"):
        transcribe(load_config(file), out=tmp_path / "run")
