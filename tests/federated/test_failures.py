"""Clients that fail: each kind has a rule, and the noise fits the answers that were used."""

import json
import threading
from dataclasses import replace

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
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from PIL import Image

from dpsd.errors import BudgetError, UserError
from dpsd.federated import answers as paid
from dpsd.federated import messages
from dpsd.federated import server_oracle as server
from dpsd.federated.table import Table
from dpsd.generator.synthesizer import Synthesizer, Undecided
from dpsd.privacy.ledger import image_hashes

FAST = {"quorum": 2, "deadline_s": 0.4}


def changed(change, client=1, kind=messages.ANSWER):
    """A relay that changes one client's replies: `change(message)` gives a list of messages."""

    class Changed(Relay):
        def pull_messages(self, message_ids):
            out = []
            for m in super().pull_messages(message_ids):
                hit = m.metadata.message_type == kind and m.metadata.src_node_id == 100 + client
                out += change(m) if hit else [m]
            return out

    return Changed


def with_values(values):
    """A reply that holds other values."""

    def change(m):
        content = RecordDict(dict(m.content))
        content[messages.ARRAYS] = ArrayRecord({"values": Array(values)})
        return [rebuilt(m, content)]

    return change


def rebuilt(m, content):
    return Message(content, metadata=m.metadata)


def failures(folder, cfg):
    return {r["node"]: r["failure"] for r in Table(stub_run(cfg, folder)).rows()}


def test_a_silent_client_is_left_out_and_named(tmp_path, clock):
    cfg = config(mechanism="none", epsilon=None, federated=FAST)
    awake, woken = threading.Event(), []

    def asleep(x):
        with clock.away():
            woken.append(awake.wait(60))
        return logits(x)

    oracle = door(cfg, tmp_path, teachers={1: asleep})
    answers = oracle.answer(images())
    assert woken == []  # the server did not wait for it
    awake.set()
    assert answers.values.shape == (QUERIES, 4)
    assert failures(tmp_path, cfg)["client 1"] == "silent for 0.4 s"
    torch.testing.assert_close(answers.values, logits(images()).log_softmax(1), atol=1e-4, rtol=0)


def test_a_client_that_dies_in_the_middle_is_left_out(tmp_path):
    cfg = config(mechanism="none", epsilon=None, federated=FAST)

    def broken(x):
        raise RuntimeError("secret words about private data")

    oracle = door(cfg, tmp_path, teachers={1: broken})
    oracle.answer(images())
    assert failures(tmp_path, cfg)["client 1"] == "refused: failed"
    assert "secret" not in (tmp_path / "run" / "private" / "rounds.jsonl").read_text()


def test_an_error_of_the_node_itself_counts_as_dead(tmp_path):
    cfg = config(mechanism="none", epsilon=None, federated=FAST)
    dead = changed(lambda m: [Message(error=Error(2, "private words"), metadata=m.metadata)])
    door(cfg, tmp_path, wrap=dead).answer(images())
    assert failures(tmp_path, cfg)["client 1"] == "died"


def test_of_two_answers_the_first_counts_and_the_client_is_named(tmp_path):
    cfg = config(unit="client", mechanism="noisy_votes", federated=FAST)
    once = door(cfg, tmp_path / "once").answer(images())
    oracle = door(cfg, tmp_path / "twice", wrap=changed(lambda m: [m, m]))
    assert torch.equal(oracle.answer(images()).values, once.values)
    assert failures(tmp_path / "twice", cfg)["client 1"] == "answered twice; the first counts"


def test_an_answer_to_an_earlier_question_is_refused(tmp_path):
    cfg = config(mechanism="none", epsilon=None, federated=FAST)

    def late(m):
        content = RecordDict(dict(m.content))
        content[messages.FACTS] = ConfigRecord({"clients": [1], "position": 999})
        return [rebuilt(m, content)]

    door(cfg, tmp_path, wrap=changed(late)).answer(images())
    assert failures(tmp_path, cfg)["client 1"] == "answered another question, late"


def test_a_late_answer_is_not_taken_for_the_next_one(tmp_path, clock):
    cfg = config(mechanism="none", epsilon=None, federated=FAST)
    awake = threading.Event()

    def slow_once(x):
        with clock.away():
            awake.wait(60)
        return logits(x)

    oracle = door(cfg, tmp_path, teachers={1: slow_once})
    oracle.answer(images())
    assert failures(tmp_path, cfg)["client 1"] == "silent for 0.4 s"
    awake.set()  # its first answer comes before its second
    answers = oracle.answer(images(seed=1))
    torch.testing.assert_close(
        answers.values, logits(images(seed=1)).log_softmax(1), atol=1e-4, rtol=0
    )
    assert failures(tmp_path, cfg)["client 1"] == ""


@pytest.mark.parametrize(
    ("mechanism", "values", "why"),
    [
        ("gaussian", np.full((QUERIES, 4), np.nan, np.float32), "not finite"),
        ("gaussian", np.full((QUERIES, 4), np.inf, np.float32), "not finite"),
        ("gaussian", np.zeros((QUERIES, 5), np.float32), "[40, 5], expected [40, 4]"),
        ("gaussian", np.zeros((QUERIES - 1, 4), np.float32), "[39, 4], expected [40, 4]"),
        ("gaussian", np.full((QUERIES, 4), 1e4, np.float32), "beyond"),
        ("gaussian", np.zeros((QUERIES, 4), np.int64), "int64"),
        ("randomized_response", np.full(QUERIES, 4, np.int64), "labels that the question"),
        ("randomized_response", np.full(QUERIES, -1, np.int64), "labels that the question"),
        ("none", np.zeros((QUERIES, 4), np.float32), "log-probabilities that are none"),
    ],
)
def test_values_that_no_honest_client_sends_are_refused_by_name(tmp_path, mechanism, values, why):
    extra = {"epsilon": None} if mechanism == "none" else {}
    cfg = config(mechanism=mechanism, federated=FAST | {"deadline_s": 1.5}, **extra)
    clean = door(cfg, tmp_path / "clean", wrap=changed(lambda m: []))
    oracle = door(cfg, tmp_path / "bad", wrap=changed(with_values(values)))
    expected = clean.answer(images(), uniform).values
    assert torch.equal(oracle.answer(images(), uniform).values, expected)  # client 1 left out
    assert why in failures(tmp_path / "bad", cfg)["client 1"]


def test_a_vote_outside_of_the_classes_is_refused_and_the_noise_fits_the_rest(tmp_path):
    cfg = config(unit="client", mechanism="noisy_votes", epsilon=1e4, federated=FAST)
    oracle = door(cfg, tmp_path, wrap=changed(with_values(np.full((1, QUERIES), 7))))
    answers = oracle.answer(images())
    assert "votes that are not 0 to 3" in failures(tmp_path, cfg)["client 1"]
    assert (answers.values.sum(1) - 2).abs().max() <= 2  # two votes; sigma is tiny here
    assert oracle._ledger.runs()[0].answers == QUERIES


def test_a_clients_own_nan_is_a_fixed_answer_inside_its_oracle(tmp_path):
    cfg = config(unit="client", mechanism="noisy_votes", epsilon=1e6, federated=FAST)
    from dpsd.federated.home import chosen

    nan = chosen(lambda x: torch.full((len(x), 4), torch.nan))
    vote = chosen(logits)
    relay = []
    oracle = door(
        cfg, tmp_path, teacher=vote, teachers={1: nan},
        wrap=lambda g: relay.append(Relay(g)) or relay[0],
    )  # fmt: skip
    oracle.answer(images())
    said = [m for m in relay[0].received if m.metadata.src_node_id == 101]
    assert (messages.arrays_of(said[-1].content)["values"] == 0).all()
    assert failures(tmp_path, cfg)["client 1"] == ""


def test_fewer_clients_than_the_quorum_stop_the_run_before_anything_is_released(tmp_path):
    cfg = config(unit="client", mechanism="noisy_votes", federated={"deadline_s": 0.4})
    oracle = door(cfg, tmp_path, wrap=changed(lambda m: []))
    with pytest.raises(UserError, match=r"quorum: 2 of 3 clients .*client 1: silent.*from 3"):
        oracle.answer(images())
    assert oracle._ledger.charged(oracle._run) == 0
    assert not list(stub_run(cfg, tmp_path).bank.iterdir())


@pytest.mark.parametrize("unit", ["answer", "client"])
def test_a_stopped_server_asks_the_same_again_and_nobody_pays_twice(tmp_path, unit):
    votes = {"unit": "client", "mechanism": "noisy_votes"} if unit == "client" else {}
    cfg = config(federated={"deadline_s": 0.4}, **votes)
    whole = door(cfg, tmp_path / "whole").answer(images(), uniform)
    with pytest.raises(UserError, match="quorum"):
        door(cfg, tmp_path / "cut", wrap=changed(lambda m: [])).answer(images(), uniform)
    assert [charged(tmp_path / "cut", i) for i in range(3)] == [QUERIES] * 3
    again = door(cfg, tmp_path / "cut")
    assert again.position == QUERIES
    assert failures(tmp_path / "cut", cfg)["client 1"] == "silent for 0.4 s"
    found, answers = again.recall(0)
    assert torch.equal(found, images()) and torch.equal(answers.values, whole.values)
    assert [charged(tmp_path / "cut", i) for i in range(3)] == [QUERIES] * 3
    assert again._ledger.charged(again._run) == QUERIES
    assert again.position == QUERIES
    rows = Table(stub_run(cfg, tmp_path / "cut")).rows()
    assert [r["failure"] for r in rows] == ["", "", ""]  # of the last attempt


@pytest.mark.parametrize("unit", ["answer", "client"])
def test_a_server_killed_between_charge_and_keep_draws_no_second_answer(
    tmp_path, monkeypatch, unit
):
    """With fresh noise, so that an answer drawn anew would be another one."""
    votes = {"unit": "client", "mechanism": "noisy_votes"} if unit == "client" else {}
    cfg = config(insecure_seeded_noise=False, federated=FAST, **votes)
    with monkeypatch.context() as patch:
        patch.setattr(server, "keep_release", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            door(cfg, tmp_path).answer(images(), uniform)
    given = {p: p.read_bytes() for p in tmp_path.glob("clients/*/runs/*/*.safetensors")}
    assert len(given) == 3 and not list(stub_run(cfg, tmp_path).bank.iterdir())
    again = door(cfg, tmp_path)
    (found, answers), (_, once_more) = again.recall(0), again.recall(0)
    assert torch.equal(found, images()) and torch.equal(answers.values, once_more.values)
    assert {p: p.read_bytes() for p in given} == given  # what the clients gave stayed as it was
    assert [charged(tmp_path, i) for i in range(3)] == [QUERIES] * 3
    assert again._ledger.charged(again._run) == QUERIES


def test_clients_stopped_between_charge_and_keep_go_on_and_pay_once(tmp_path, monkeypatch):
    """Ctrl-C while they compute. What was never given is made; what was given is not made anew."""
    cfg = config(insecure_seeded_noise=False, federated={"quorum": 3, "deadline_s": 5.0})
    with monkeypatch.context() as patch:
        patch.setattr(paid, "keep_release", lambda *a: 1 / 0)
        with pytest.raises(UserError, match="0 of 3 clients"):
            door(cfg, tmp_path).answer(images(), uniform)
    assert [charged(tmp_path, i) for i in range(3)] == [QUERIES] * 3
    assert not list(tmp_path.glob("clients/*/runs/*/*.safetensors"))
    again = door(cfg, tmp_path)
    assert torch.equal(again.recall(0)[0], images())
    assert [charged(tmp_path, i) for i in range(3)] == [QUERIES] * 3
    assert not list(tmp_path.glob("clients/*/begun-*.json"))


@pytest.mark.parametrize("torn", [False, True])
def test_what_was_kept_is_given_again_and_never_made_again(tmp_path, monkeypatch, torn):
    """Stopped between keeping and forgetting the mark; then the kept answers are lost."""
    cfg = config(insecure_seeded_noise=False, federated=FAST)
    with monkeypatch.context() as patch:
        patch.setattr(paid, "_forget", lambda *a: 1 / 0)
        with pytest.raises(UserError, match="0 of 3 clients"):
            door(cfg, tmp_path).answer(images(), uniform)
    marks, kept = (list(tmp_path.glob(f"clients/*/{name}"))
                   for name in ("begun-*.json", "runs/*/*.safetensors"))  # fmt: skip
    assert len(marks) == len(kept) == 3
    if torn:  # and the answers lost at once: without a mark nothing is made
        for path in marks:
            path.write_text('{"posi')
    else:
        door(cfg, tmp_path).recall(0)
        assert not any(path.exists() for path in marks)
    for path in [*kept, *stub_run(cfg, tmp_path).bank.iterdir()]:
        path.unlink()
    again = door(cfg, tmp_path)
    again._budget.admit = image_hashes
    request = replace(again._request(images(), uniform(images())), position=0)
    with pytest.raises(UserError, match=r"client 0: refused: budget"):
        again._finish(request)
    assert [charged(tmp_path, i) for i in range(3)] == [QUERIES] * 3


def test_two_clients_of_one_teacher_pay_for_one_answer_and_give_one(tmp_path):
    cfg = config(insecure_seeded_noise=False, federated=FAST | {"clients": 2})
    home = homes(cfg, tmp_path)[0]
    other = replace(home, clients=[1], folder=tmp_path / "other")
    ask = messages.Request("run", 0, 0, images(), uniform(images()), {}, None)
    begun = paid._mark(ask, 0)
    paid.answer(cfg, home, ask)
    (home.ledger_folder / "begun-run.json").write_text(json.dumps(begun | {"charged_before": 40}))
    for _ in range(2):
        with pytest.raises(BudgetError):
            paid.answer(cfg, other, ask)


def test_a_mark_of_a_stop_gives_no_second_answer(tmp_path):
    """A server that asks paid images under another position, after a refusal, is refused again."""
    cfg = config(asks_per_image=1, federated=FAST)
    oracle = door(cfg, tmp_path)
    oracle.answer(images(), uniform)
    oracle._budget.admit = image_hashes
    for position in (QUERIES, QUERIES, 7, 7):
        request = replace(oracle._request(images(), uniform(images())), position=position)
        with pytest.raises(UserError, match=r"0 of 3 clients .*client 0: refused: budget"):
            oracle._finish(request)
    assert [charged(tmp_path, i) for i in range(3)] == [QUERIES] * 3


def test_a_client_refuses_an_image_that_it_answered_before_in_the_run(tmp_path):
    cfg = config(federated=FAST)
    oracle = door(cfg, tmp_path)
    oracle.answer(images(), uniform)
    with pytest.raises(BudgetError, match="asked 2 times"):
        oracle.answer(images(), uniform)
    # A server that does not keep to its own rule meets the clients' oracles.
    oracle._budget.admit = image_hashes
    with pytest.raises(UserError, match=r"0 of 3 clients .*client 0: refused: budget"):
        oracle.answer(images(), uniform)
    assert [charged(tmp_path, i) for i in range(3)] == [QUERIES] * 3


@pytest.mark.parametrize("bad", [torch.nan, 2.0, -1.0])
def test_a_client_refuses_a_prior_that_is_none(tmp_path, bad):
    cfg = config(federated=FAST)
    oracle = door(cfg, tmp_path)
    with pytest.raises(UserError, match=r"0 of 3 clients .*client 0: refused: request"):
        oracle._finish(oracle._request(images(), torch.full((QUERIES, 4), bad)))
    assert [charged(tmp_path, i) for i in range(3)] == [0] * 3


def test_a_client_without_the_photographs_gets_the_images(tmp_path):
    """The clients make the first round's images from the seed; then the file is gone."""
    photograph = tmp_path / "public.png"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photograph)
    shares = {"shares": {"photographs": 1}, "photographs": [str(photograph)]}
    cfg = config(mechanism="none", epsilon=None, federated={"deadline_s": 60}, generator=shares)
    relays = []
    oracle = door(cfg, tmp_path, wrap=lambda grid: relays.append(Relay(grid)) or relays[0])
    oracle.synthesizer = Synthesizer(cfg, cfg.facts, torch.device("cpu"))
    with_pixels = []
    for round in (0, 1):
        asked = oracle.synthesizer.sample(QUERIES, Undecided(4), oracle, round=round)
        assert torch.equal(oracle.answer(asked).values.argmax(1), logits(asked).argmax(1))
        questions = [m.content for m in relays[0].sent
                     if m.metadata.message_type == messages.ANSWER]  # fmt: skip
        with_pixels.append(["images" in c[messages.ARRAYS] for c in questions])
        photograph.unlink(missing_ok=True)
    assert with_pixels == [[False] * 3, [False] * 6 + [True] * 3]
    assert {row["failure"] for row in Table(stub_run(cfg, tmp_path)).rows()} == {""}
    assert [charged(tmp_path, i) for i in range(3)] == [2 * QUERIES] * 3


def test_a_client_that_answers_one_run_only_refuses_the_next(tmp_path):
    cfg = config(federated=FAST | {"runs": 1})
    door(cfg, tmp_path).answer(images(), uniform)
    (tmp_path / "run").rename(tmp_path / "first")
    with pytest.raises(UserError, match="refused: budget"):
        door(cfg, tmp_path).answer(images(seed=1), uniform)


def test_a_client_with_other_classes_or_settings_stops_the_run(tmp_path):
    def other(**facts):
        def change(m):
            content = RecordDict(
                {messages.FACTS: ConfigRecord(dict(m.content[messages.FACTS]) | facts)}
            )
            return [rebuilt(m, content)]

        return changed(change, kind=messages.HELLO)

    cfg = config(federated=FAST)
    with pytest.raises(UserError, match=r"client 1: data.classes 7 .* accepted: .* 4 and"):
        door(cfg, tmp_path / "a", wrap=other(classes=7)).answer(images(), uniform)
    with pytest.raises(UserError, match="client 1: other privacy"):
        door(cfg, tmp_path / "b", wrap=other(settings="else")).answer(images(), uniform)
    with pytest.raises(UserError, match="client 0: two nodes claim it"):
        door(cfg, tmp_path / "c", wrap=other(clients=[0])).answer(images(), uniform)
