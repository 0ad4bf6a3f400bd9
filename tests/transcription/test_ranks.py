"""Two processes of one run: one ledger, the releases of one process, and no rank that hangs."""

import json

import pytest
import torch
from pair import in_float64, one_round, run_pair, two_rounds
from safetensors.torch import load_file

from dpsd.privacy.ledger import Ledger
from dpsd.runs.folder import Run
from dpsd.transcription.transcribe import transcribe

SCENARIOS = ["plain", "gaussian", "mapped", "whole", "cut", "broken", "crowded", "full", "alone",
             "steps", "breeding"]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """What two ranks left behind, and, as `one-...`, what one process did."""
    folder = tmp_path_factory.mktemp("ranks")
    with in_float64():
        transcribe(one_round(folder), out=folder / "one-plain")
    privacy = {"mechanism": "gaussian", "vector": "gradient"}
    transcribe(one_round(folder, privacy=privacy), out=folder / "one-gaussian")
    assert [p.returncode for p in run_pair(folder, SCENARIOS, timeout=900)] == [0, 0]
    return folder


def notes(root, name):
    return [json.loads((root / f"{name}-rank{r}.json").read_text()) for r in (0, 1)]


def students(root, name):
    return [load_file(root / f"{name}-rank{r}.safetensors") for r in (0, 1)]


def charges(run):
    """The ledger's lines of a run, but for its id, its time and the place of its hashes."""
    own = {"run", "started", "hashes_offset", "checksum", "previous"}
    return [{k: v for k, v in line.items() if k not in own}
            for line in Ledger(run.ledger_folder, run.ledger).entries()
            if line.get("run") == run.id]  # fmt: skip


def kept(run):
    return {p.name: load_file(p) for p in sorted(run.bank.iterdir())}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "gaussian"])
def test_two_ranks_release_what_one_process_does(root, name):
    one, two = Run(root / f"one-{name}"), Run(root / name)
    assert len(charges(one)) == 2 and charges(one) == charges(two)
    hashes = [Ledger(r.ledger_folder, r.ledger).hashes(r.id).tobytes() for r in (one, two)]
    assert hashes[0] == hashes[1] and len(hashes[0]) == 16 * 1000
    releases, shared = kept(one), kept(two)
    assert releases.keys() == shared.keys() and len(releases) == 1
    assert all(same(releases[position], shared[position]) for position in releases)


@pytest.mark.slow
def test_each_candidate_is_drawn_by_one_rank(root):
    """Two candidates for each of 1,000 images."""
    assert [found["drawn"] for found in notes(root, "plain")] == [[512, 512], [512, 464]]


@pytest.mark.slow
def test_each_image_is_asked_by_one_rank(root):
    run = Run(root / "plain")
    charged = [h.tobytes().hex() for h in Ledger(run.ledger_folder, run.ledger).hashes(run.id)]
    first, second = (found["seen"] for found in notes(root, "plain"))
    assert len(first) == 512 and len(second) == 488 and first + second == charged


@pytest.mark.slow
def test_weights_after_a_round_are_those_of_one_process(root):
    """Batches of 99 are shared as 50 and 49, and the last one has 10 rows.

    Logits are rounded to float32, which costs 1e-5 here. AdamW divides a gradient by its size:
    where it is nearly 0, one weight in 100,000 may move by more.
    """
    ranks, one = students(root, "plain"), load_file(root / "one-plain/release/student.safetensors")
    assert same(*ranks) and ranks[0].keys() == one.keys()
    far = 0
    for key in one:
        torch.testing.assert_close(ranks[0][key], one[key], rtol=1e-4, atol=1e-3)
        far += int((~torch.isclose(ranks[0][key], one[key], rtol=1e-4, atol=1e-4)).sum())
    assert far <= sum(weights.numel() for weights in one.values()) // 100_000
    figures = [Run(root / n).metrics()[0] for n in ("plain", "one-plain")]
    for key in ("loss", "gain_nats_per_answer", "agreement_with_answers"):
        assert figures[0].get(key) == pytest.approx(figures[1].get(key), abs=1e-5)


@pytest.mark.slow
def test_a_bank_on_disk_changes_nothing(root):
    assert same(students(root, "plain")[0], students(root, "mapped")[1])
    run = Run(root / "mapped")
    assert same(kept(run)["000000000000.safetensors"], kept(Run(root / "plain")).popitem()[1])
    assert not (run.private / "window").exists()


@pytest.mark.slow
def test_two_ranks_resume_where_they_stopped(root):
    assert [n["error"] for n in notes(root, "cut")] == [None, None]
    run, whole = Run(root / "cut"), Run(root / "whole")
    assert charges(run) == charges(whole) and len(charges(run)) == 3
    assert same(students(root, "cut")[1], students(root, "whole")[0])
    asked = sum(len(n["seen"]) for n in notes(root, "cut"))
    assert two_rounds(root).privacy.answers == 1200 and asked == 600  # the second round


@pytest.mark.slow
def test_each_class_of_a_parent_is_predicted_by_one_rank(root):
    """Two candidates for each of 200 images a round; a quarter are variants in the second one.

    Ranks that predict differently would keep other parents and ask about other images.
    """
    first, second = notes(root, "breeding")
    assert first["error"] is second["error"] is None
    assert first["drawn"][:2] == [400, 300] and second["drawn"] == []
    assert len(first["seen"]) + len(second["seen"]) == 400
    assert same(*students(root, "breeding"))


@pytest.mark.slow
def test_an_error_on_one_rank_stops_all(root):
    first, second = (n["error"] for n in notes(root, "broken"))
    assert first[0] == "RuntimeError" and "rank 1: RuntimeError: this teacher is b" in first[1]
    assert second == ["RuntimeError", "this teacher is broken"]
    run = Run(root / "broken")
    assert Ledger(run.ledger_folder, run.ledger).charged(run.id) == 1000  # before any rank asks
    assert not list(run.bank.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crowded", "torchrun: 2 processes for 1 images a round"),
        ("full", "images and their answers need"),
    ],
)
def test_bad_input_is_refused_on_all_ranks_before_anything_is_written(root, name, message):
    for found in notes(root, name):
        assert found["error"][0] == "UserError" and message in found["error"][1]
        assert found["seen"] == []
    assert not (root / name).exists()


@pytest.mark.slow
def test_another_oracle_is_asked_by_rank_0_alone(root):
    first, second = notes(root, "alone")
    assert first["error"] is second["error"] is None
    assert len(first["seen"]) == 1000 and second["seen"] == []
    assert same(*students(root, "alone"))


@pytest.mark.slow
def test_gradients_and_statistics_are_those_of_the_whole_batch(root):
    for rank in (0, 1):
        gaps = json.loads((root / f"steps-rank{rank}.json").read_text())
        assert len(gaps) == 8 and max(gaps.values()) < 1e-4
