"""A client that would stop, flood or forge; a server that would learn more than was charged."""

import io
import threading
import zipfile

import numpy as np
import pytest
import torch
from federated.doors import (
    QUERIES,
    Relay,
    charged,
    config,
    door,
    homes,
    images,
    logits,
    stub_run,
    uniform,
)
from federated.test_failures import FAST, changed, failures, rebuilt, with_values
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from dpsd.config import public_facts
from dpsd.errors import BudgetError, UserError
from dpsd.federated import messages
from dpsd.federated.answers import answer, noisy_labels
from dpsd.federated.client import Node
from dpsd.federated.home import federation_folder
from dpsd.federated.messages import Request
from dpsd.federated.table import Table
from dpsd.generator import synthesizer
from dpsd.generator.synthesizer import Synthesizer
from dpsd.privacy.events import VotesRelease
from dpsd.privacy.ledger import Ledger
from dpsd.privacy.plan import make_plan

SECRET = 0.123456789


def archive() -> Array:
    """What numpy reads, but not as an array."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as packed:
        packed.writestr("x.npy", b"")
    return Array("int64", (QUERIES,), "numpy.ndarray", raw.getvalue())


def with_array(name, array):
    def change(m):
        content = RecordDict(dict(m.content))
        content[messages.ARRAYS] = ArrayRecord({name: array})
        return [rebuilt(m, content)]

    return change


def with_facts(**facts):
    def change(m):
        known = dict(m.content[messages.FACTS])
        content = RecordDict(dict(m.content))
        content[messages.FACTS] = ConfigRecord(known | facts)
        return [rebuilt(m, content)]

    return change


@pytest.mark.parametrize(
    "change",
    [
        with_array("values", archive()),
        with_array("values", Array("int64", (QUERIES,), "numpy.ndarray", b"\x93NUMPY torn")),
        with_array("values", Array("int64", (QUERIES,), "pickle", b"")),
        with_array("x\nAt delta 1e-05: epsilon 0.001" + 500 * "y", Array(np.zeros(1))),
        with_facts(position="first"),
        with_facts(refused=[1, 2]),
        with_values(np.full((QUERIES, 4), np.iinfo(np.int64).min)),
    ],
)
def test_a_reply_made_to_stop_the_server_is_a_failure_like_another(tmp_path, change):
    cfg = config(federated=FAST)
    oracle = door(cfg, tmp_path, wrap=changed(change))
    assert oracle.answer(images(), uniform).values.shape == (QUERIES, 4)
    why = failures(tmp_path, cfg)["client 1"]
    assert why and len(why) <= 300 and why.isprintable()


def test_the_smallest_integer_is_no_count_of_votes(tmp_path):
    cfg = config(unit="record", mechanism="noisy_votes", teacher={"shards": 20}, federated=FAST)
    lowest = np.full((QUERIES, 4), np.iinfo(np.int64).min)  # whose absolute value is negative
    oracle = door(cfg, tmp_path, teacher=lambda x: 5 * torch.ones(len(x), 4).long(),
                  wrap=changed(with_values(lowest)))  # fmt: skip
    assert oracle.answer(images()).values.isfinite().all()
    assert "beyond" in failures(tmp_path, cfg)["client 1"]


@pytest.mark.parametrize("unit", ["answer", "client"])
def test_no_value_of_a_refused_reply_is_published(tmp_path, unit):
    """A client with a defect may send what was never privatised."""
    extra = {"mechanism": "gaussian"} if unit == "answer" else {"mechanism": "noisy_votes"}
    cfg = config(unit=unit, federated=FAST, **extra)
    shape = (QUERIES, 4) if unit == "answer" else (1, QUERIES)
    values = np.full(shape, 1e6 + SECRET, np.float32) if unit == "answer" else np.full(shape, 77)
    door(cfg, tmp_path, wrap=changed(with_values(values))).answer(images(), uniform)
    run = stub_run(cfg, tmp_path)
    why = failures(tmp_path, cfg)["client 1"]
    assert why
    for said in (why, (run.release / "clients.csv").read_text().split("client 1")[1]):
        assert "77" not in said.split(",")[-1] and "1e+06" not in said and "1000000" not in said


@pytest.mark.parametrize("clients", [[1, 1, 1], [0, 1, 2], [float("inf")], [-1], []])
def test_a_node_hosts_its_own_clients_once(tmp_path, clients):
    """Else its votes would count as those of many."""
    cfg = config(unit="client", mechanism="noisy_votes", epsilon=1e4, federated=FAST)
    claim = changed(with_facts(clients=clients), kind=messages.HELLO)
    answers = door(cfg, tmp_path, wrap=claim).answer(images())
    assert (answers.values.sum(1) - 2).abs().max() <= 2  # of the two others; sigma is tiny here
    assert set(failures(tmp_path, cfg)) == {"client 0", "client 2"}
    with pytest.raises(UserError, match=r"quorum: 2 of 3 .*client 1: never met \("):
        door(
            config(unit="client", mechanism="noisy_votes", federated={"deadline_s": 0.4}),
            tmp_path / "all", wrap=claim,
        ).answer(images())  # fmt: skip


def test_bytes_of_votes_do_not_depend_on_the_votes(tmp_path):
    """They are in a table that is released, and the noise comes after."""
    cfg = config(unit="client", mechanism="noisy_votes", epsilon=1e4, federated=FAST)
    cfg = cfg.model_copy(update={"data": cfg.data.model_copy(update={"classes": 300})})
    low, high = (lambda x, c=c: torch.full((len(x), 1), c) for c in (3, 299))
    door(cfg, tmp_path, teacher=low, teachers={1: high}).answer(images())
    up = [r["bytes_up"] for r in Table(stub_run(cfg, tmp_path)).rows()]
    assert len(set(up)) == 1 and up[0] > 2 * QUERIES


def test_a_server_that_asks_in_two_runs_at_once_gets_one(tmp_path):
    cfg = config(federated=FAST | {"runs": 1})
    (home, *_) = homes(cfg, tmp_path)
    together, refused = threading.Barrier(2, timeout=60), []

    def ask(run):
        together.wait()
        try:
            answer(cfg, home, Request(run, 0, 0, images(), torch.full((QUERIES, 4), 0.25)))
        except BudgetError as e:
            refused.append(str(e))

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(refused) == 1 and "federated.runs" in refused[0]
    assert charged(tmp_path, 0) == QUERIES


def test_data_of_ones_own_answer_one_run_unless_their_owner_says_more(tmp_path):
    own = FAST | {"partition": "own", "runtime": "deployment"}
    (home, *_) = homes(config(federated=own), tmp_path)

    def ask(run, **more):
        request = Request(run, 0, 0, images(), torch.full((QUERIES, 4), 0.25))
        return answer(config(federated=own | more), home, request)

    ask("a")
    with pytest.raises(BudgetError, match=r"federated\.runs: 1 runs were answered; accepted: 1"):
        ask("b")
    assert charged(tmp_path, 0) == QUERIES
    ask("b", runs=2)


@pytest.mark.parametrize("extra", [{}, {"mechanism": "none", "epsilon": None}])
def test_nobody_gives_label_counts_that_the_plan_does_not_have(tmp_path, extra):
    cfg = config(federated=FAST, **extra)
    (home, *_) = homes(cfg, tmp_path)
    with pytest.raises(BudgetError, match="no label histogram"):
        noisy_labels(cfg, home, "run")
    said = Node(cfg, 0, home=home).labels(RecordDict({messages.FACTS: ConfigRecord({"run": "r"})}))
    assert messages.facts_of(said)["refused"] == "budget" and messages.ARRAYS not in said
    assert Ledger(home.ledger_folder, home.ledger_uuid).runs() == []


def test_a_label_histogram_is_noised_and_charged_once_in_a_line_of_its_own(tmp_path):
    cfg = config(
        unit="record", mechanism="noisy_votes", insecure_seeded_noise=False,
        teacher={"shards": 4, "model": "scatter-linear"},
        federated=FAST | {"aggregate": "labels"},
    )  # fmt: skip
    (home, *_) = homes(cfg, tmp_path)
    sigma = make_plan(cfg).mechanism.labels_sigma
    first = noisy_labels(cfg, home, "run")
    assert torch.equal(first, noisy_labels(cfg, home, "run"))
    (line,) = Ledger(home.ledger_folder, home.ledger_uuid).runs()
    assert (line.run, line.answers, line.cap, line.unit) == ("run labels", 1, 1, "record")
    assert line.event == VotesRelease(sigma)  # two counts move by one: L2 sensitivity sqrt 2
    drawn = torch.stack([noisy_labels(cfg, home, f"r{i}") for i in range(60)])
    spread = (drawn - home.labels).double().square().mean().sqrt()
    assert float(spread) == pytest.approx(sigma, rel=0.2)  # 240 draws: 4.5 deviations


def test_a_label_histogram_that_was_charged_and_lost_is_not_drawn_again(tmp_path):
    """A second draw would be a second release; the ledger holds one."""
    cfg = config(
        unit="record", mechanism="noisy_votes", insecure_seeded_noise=False,
        teacher={"shards": 4, "model": "scatter-linear"},
        federated=FAST | {"aggregate": "labels"},
    )  # fmt: skip
    (home, *_) = homes(cfg, tmp_path)
    noisy_labels(cfg, home, "run")
    (home.folder / "runs" / "run" / "labels.safetensors").unlink()
    with pytest.raises(BudgetError, match="not drawn a second time"):
        noisy_labels(cfg, home, "run")
    said = Node(cfg, 0, home=home).labels(
        RecordDict({messages.FACTS: ConfigRecord({"run": "run"})})
    )
    assert messages.facts_of(said)["refused"] == "budget" and messages.ARRAYS not in said
    assert [r.answers for r in Ledger(home.ledger_folder, home.ledger_uuid).runs()] == [1]


def test_images_travel_as_a_seed_also_where_some_were_asked_before(tmp_path, monkeypatch):
    """The clients drop what the server drops; an answered question needs no images at all."""

    def few(name, count, shape, rng, device):
        return torch.randint(120, (count, 1, 1, 1), dtype=torch.uint8, generator=rng).expand(
            -1, *shape
        )

    monkeypatch.setattr(synthesizer, "procedural", few)
    cfg = config(mechanism="none", epsilon=None, federated=FAST)
    relays = []
    oracle = door(cfg, tmp_path, wrap=lambda g: relays.append(Relay(g)) or relays[0])
    oracle.synthesizer = Synthesizer(cfg, public_facts(cfg.data), torch.device("cpu"))
    for round in range(2):
        asked = oracle.synthesizer.sample(QUERIES, None, oracle, round=round)
        found = oracle.answer(asked)
        expected = logits(asked).log_softmax(1)
        torch.testing.assert_close(found.values, expected, atol=1e-4, rtol=0)
    sent = [m.content for m in relays[0].sent if m.metadata.message_type == messages.ANSWER]
    assert len(sent) == 6
    for content in sent:
        assert "seed" in messages.facts_of(content) and not messages.arrays_of(content)
    again = Node(cfg, 0, home=homes(cfg, tmp_path)[0]).answer(sent[0])
    assert len(messages.arrays_of(again)["values"]) == QUERIES


def test_data_of_ones_own_have_one_ledger_in_every_federation(tmp_path):
    """Else a server that says another number of clients would find an empty ledger."""

    def folder(**federated):
        cfg = config(federated={"runtime": "deployment"} | federated)
        return federation_folder(cfg)

    assert folder(partition="own", clients=3) == folder(partition="own", clients=9, alpha=2, seed=4)
    assert folder(partition="iid", clients=3) != folder(partition="iid", clients=9)
