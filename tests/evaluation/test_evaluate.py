import hashlib
import itertools
import json
import shutil
import struct

import numpy as np
import pytest
import torch
from products import contents, copy_of, tiny_config, tiny_run
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, recall_score

from dpsd.attacks.context import Attack
from dpsd.config import parse_config
from dpsd.config.sections import DataConfig
from dpsd.data.identity import fingerprint
from dpsd.data.load import load_data
from dpsd.errors import UserError
from dpsd.evaluation.evaluate import evaluate
from dpsd.evaluation.measures import expected_calibration_error
from dpsd.evaluation.table import evaluation_table
from dpsd.models.networks import build_model
from dpsd.privacy.plan import make_plan
from dpsd.privacy.releases import load_release
from dpsd.privacy.verify import verify_release
from dpsd.runs.folder import Run
from dpsd.runs.rounds import is_kept
from dpsd.teachers.teacher import load_teacher
from dpsd.transcription.transcribe import transcribe


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tiny_run(tmp_path_factory)


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory):
    """A copy of the run, its release before `evaluate`, and what `evaluate` found."""
    run = copy_of(finished, tmp_path_factory.mktemp("measured") / "run")
    before = contents(run.release)
    return run, before, evaluate(run)


def _probabilities(model_name, weights, images):
    """The model's own output, by hand."""
    model = build_model(model_name, (1, 28, 28), 10)
    model.load_state_dict(load_file(weights))
    with torch.no_grad():
        return model.eval()(images.float() / 255).softmax(1).numpy()


def _ece_loop(p, y, bins=15):
    confidence, hit, total = p.max(1), p.argmax(1) == y, 0.0
    for i in range(bins):
        inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return total


def test_figures_are_what_other_libraries_find(measured):
    run, _, found = measured
    test = load_data(run.config.data).test
    y = test.labels.numpy()
    t = _probabilities("cnn-small", run.teacher_folder / "weights.safetensors", test.images)
    s = _probabilities("cnn-small", run.release / "student.safetensors", test.images)
    close = {"rel": 1e-6, "abs": 1e-5}
    assert found["split"] == "test" and found["rows"] == len(y)
    assert found["teacher"]["accuracy"] == accuracy_score(y, t.argmax(1))
    assert found["student"]["accuracy"] == accuracy_score(y, s.argmax(1))
    assert found["student"]["agreement"] == accuracy_score(t.argmax(1), s.argmax(1))
    assert found["teacher"]["ece"] == pytest.approx(_ece_loop(t, y), **close)
    assert found["student"]["ece"] == pytest.approx(_ece_loop(s, y), **close)
    table = found["per_class"]
    assert [c["rows"] for c in table] == np.bincount(y).tolist()
    for who, p in (("teacher", t), ("student", s)):
        by_class = recall_score(y, p.argmax(1), average=None, zero_division=0)
        assert [c[who] for c in table] == pytest.approx(by_class)


def test_ece_of_known_cases():
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.0, 1.0]])
    # bins: two at .9 of which one is right, one at .6 and wrong, one at 1 and right
    ece = expected_calibration_error(p, torch.tensor([0, 1, 0, 1]))
    assert ece == pytest.approx((2 * 0.4 + 0.6 + 0.0) / 4)
    rng = torch.Generator().manual_seed(0)
    p = torch.randn(1000, 4, generator=rng).mul(2).softmax(1)
    y = torch.multinomial(p, 1, generator=rng)[:, 0]
    assert expected_calibration_error(p, y) < 0.05
    assert expected_calibration_error(p, y) == pytest.approx(_ece_loop(p.numpy(), y.numpy()))


def test_students_of_rounds_are_measured(measured):
    run, _, found = measured
    first, last = found["over_rounds"]
    assert (first["round"], last["round"]) == (0, 1)
    assert (first["answers"], last["answers"]) == (1000, 2000)
    test = load_data(run.config.data).test
    seen = []
    for point in (first, last):
        weights = run.private / "rounds" / f"{point['round']:06d}.safetensors"
        seen.append(_probabilities("cnn-small", weights, test.images))
        assert point["accuracy"] == accuracy_score(test.labels.numpy(), seen[-1].argmax(1))
    assert not np.allclose(*seen)


@pytest.mark.parametrize("rounds", [1, 2, 7, 8, 9, 40, 41, 1000])
def test_few_students_are_kept_and_the_last_always(rounds):
    kept = [r for r in range(rounds) if is_kept(r, rounds)]
    assert len(kept) == min(rounds, 8) and kept[-1] == rounds - 1
    gaps = {b - a for a, b in itertools.pairwise(kept)}
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_report_is_filled(measured):
    run, _, found = measured
    report = run.report()
    assert report["teacher"]["accuracy"] == found["teacher"]["accuracy"] is not None
    assert report["student"] == found["student"]
    assert report["evaluation"]["split"] == "test"
    assert json.loads((run.private / "evaluation.json").read_text()) == found


def test_evaluate_leaves_the_release_alone(measured):
    run, before, _ = measured
    assert contents(run.release) == before
    verify_release(run.release)


def test_nothing_measured_on_private_data_is_released(measured):
    run, _, found = measured
    released = contents(run.release)
    known = {"README.md", "config.yaml", "env.json", "metrics.jsonl", "statement.json"}
    known |= {"statement.sig"}
    known |= {"statement.txt", "student.safetensors", "generator.safetensors"}
    known |= {"synthetic.png", "curves.png"}
    assert known <= released.keys()
    assert all(n.startswith("tb/events.out.tfevents.") for n in released.keys() - known)
    data, facts = load_data(run.config.data), json.loads(
        (run.teacher_folder / "teacher.json").read_text()
    )  # fmt: skip
    headline = [*found["teacher"].values(), *found["student"].values()]
    figures = [*headline, *facts["accuracy"].values()]
    figures += [c[who] for c in found["per_class"] for who in ("teacher", "student")]
    secrets = [str(run.teacher_folder), run.teacher_folder.name, str(run.path), fingerprint(data)]
    secrets += [hashlib.sha256(x.numpy().tobytes()).hexdigest() for x in data.train.images[:5]]
    needles = [s.encode() for s in secrets]
    for x in {x for x in figures if x not in (0, 1)}:
        # as text, as a share or in percent, and as binary floats
        needles += [f"{x:.6f}".encode()[:-1], f"{100 * x:.4f}".encode()[:-1]]
        needles += [struct.pack("<d", x)]
    needles += [f"{x:.4f}".encode() for x in headline]  # as the card shows figures
    # four bytes turn up by chance among the weights, which are checked bit for bit above
    needles_in_logs = [struct.pack("<f", x) for x in figures if x not in (0, 1)]
    assert len(needles) > 20
    for name, raw in released.items():
        for needle in needles + (needles_in_logs if name.startswith("tb/") else []):
            assert needle not in raw, (name, needle)
    rows = {image.numpy().tobytes() for image in data.train.images}
    for path in run.bank.glob("*.safetensors"):
        images, _ = load_release(run.bank, int(path.stem))
        assert not rows & {image.numpy().tobytes() for image in images}


def test_figures_reach_the_card_when_the_data_are_public(finished, tmp_path):
    run = copy_of(finished, tmp_path / "run")
    facts = json.loads((run.private / "run.json").read_text())
    (run.private / "run.json").write_text(json.dumps(facts | {"data_is_public": True}))
    run, before = Run(run.path), contents(run.release)
    found = evaluate(run)
    after = contents(run.release)
    changed = {name for name in before if before[name] != after[name]}
    assert (
        changed == {"README.md", "statement.json", "statement.sig"}
        and before.keys() == after.keys()
    )
    card = after["README.md"].decode()
    assert "declared the data public" in card
    assert f"| {found['teacher']['accuracy']:.4f} |" in card
    assert f"| {found['student']['accuracy']:.4f} |" in card
    verify_release(run.release)


@pytest.mark.parametrize("split", ["holdout", "train"])
def test_other_splits(finished, tmp_path, split):
    run = copy_of(finished, tmp_path / "run")
    found = evaluate(run, split)
    assert found["rows"] == len(getattr(load_data(run.config.data), split))
    facts = json.loads((run.teacher_folder / "teacher.json").read_text())
    if split == "holdout":
        assert found["teacher"]["accuracy"] == facts["accuracy"]["holdout"]


def test_without_test_data(finished, tmp_path):
    run = copy_of(finished, tmp_path / "run")
    train = load_data(run.config.data).train
    np.savez(tmp_path / "rows.npz", images=train.images, labels=train.labels)
    data = DataConfig(name="npz", root=tmp_path / "rows.npz", shape=(1, 28, 28), classes=10)
    run.config = run.config.model_copy(update={"data": data})
    with pytest.raises(UserError, match="--split test: the data have no such rows"):
        evaluate(run)
    none = DataConfig(name="none", shape=(1, 28, 28), classes=10)
    run.config = run.config.model_copy(update={"data": none})
    found = evaluate(run)
    assert found["split"] is found["teacher"]["accuracy"] is found["student"]["accuracy"] is None
    assert "held-out paid answers" in found["agreement_with"] and found["rows"] == 100
    # randomised response: the most likely class is the label that was released
    images, answers = load_release(run.bank, 1000)
    s = _probabilities("cnn-small", run.release / "student.safetensors", images[:100])
    labels = answers.values.flatten().numpy()[:100]
    assert found["student"]["agreement"] == accuracy_score(labels, s.argmax(1))
    likelihood = make_plan(run.config).mechanism.log_likelihood(answers)[:100].double().exp()
    gains = np.log((s * likelihood.numpy()).sum(1)) - np.log(likelihood.numpy().mean(1))
    assert found["student"]["gain_nats_per_answer"] == pytest.approx(gains.mean(), abs=1e-4)
    text = evaluation_table(found)
    assert "None" not in text and "nats per answer" in text
    assert "no labelled rows (dpsd evaluate RUN --rows PATH)" in text
    with pytest.raises(UserError, match=r"--data: accepted where data\.name is not none"):
        evaluate(run, data=tmp_path)
    given = evaluate(run, rows=tmp_path / "rows.npz")
    assert given["split"] == "given" and given["rows"] == len(train)


def test_without_test_data_and_with_answers_that_name_no_class(tmp_path_factory, tmp_path):
    """Yes or no to a group of classes: no agreement, but the gain counts."""
    tree = tiny_config(tmp_path_factory.getbasetemp() / "products").model_dump(mode="json")
    tree["privacy"]["ask"] = "group"
    run = transcribe(parse_config(tree), out=tmp_path / "run")
    assert all("gain_nats_per_answer" in m for m in run.metrics())
    run.config = run.config.model_copy(
        update={"data": DataConfig(name="none", shape=(1, 28, 28), classes=10)}
    )
    _, answers = load_release(run.bank, 1000)
    named = (answers.size[:100] == 1) & (answers.values[:100] == 1)  # "yes, this one"
    named |= (answers.size[:100] == 9) & (answers.values[:100] == 0)  # "no, so that one"
    found = evaluate(run)
    assert (found["student"]["agreement"] is None) == (not bool(named.any()))
    assert ("nothing" in found["agreement_with"]) == (not bool(named.any()))
    assert abs(found["student"]["gain_nats_per_answer"]) < 0.7  # a yes or no holds ln 2
    assert "None" not in evaluation_table(found)


def test_a_teacher_that_was_moved(finished, measured, tmp_path):
    run, folder = copy_of(finished, tmp_path / "run"), tmp_path / "moved"
    shutil.copytree(run.teacher_folder, folder)
    run.teacher_folder = tmp_path / "gone"
    with pytest.raises(UserError, match="gone holds no readable"):
        evaluate(run)
    assert evaluate(run, teacher=folder) == measured[2]
    located, home = Attack(run, teacher=folder).find_teacher()  # the attacks find it the same way
    assert home.path == folder
    load_teacher(located, home)


def test_weights_of_ones_own_that_were_moved(finished, measured, tmp_path):
    own, tree = tmp_path / "own.safetensors", finished.config.model_dump(mode="json")
    shutil.copy(finished.teacher_folder / "weights.safetensors", own)
    tree["teacher"] |= {"weights": str(own), "root": str(tmp_path / "root")}
    run = transcribe(parse_config(tree), out=tmp_path / "run")
    expected = evaluate(run)
    assert expected["teacher"] == measured[2]["teacher"]
    moved = own.rename(tmp_path / "moved.safetensors")
    with pytest.raises(UserError, match=r"own\.safetensors"):
        evaluate(run)
    assert evaluate(run, teacher=moved) == expected
    located, home = Attack(run, teacher=moved).find_teacher()
    assert home.path == run.teacher_folder and located.teacher.weights == moved
    load_teacher(located, home)


def test_table(measured):
    _, _, found = measured
    text = evaluation_table(found)
    assert f"{100 * found['student']['accuracy']:.2f} %" in text
    assert len(text.splitlines()) == 5 + 2 + 10


def test_refusals(finished, tmp_path):
    with pytest.raises(UserError, match="split: 'dev'; accepted: test, holdout, train"):
        evaluate(finished, "dev")
    run = copy_of(finished, tmp_path / "run")
    other = tmp_path / "teacher"
    other.mkdir()
    (other / "teacher.json").write_text('{"uuid": "another"}')
    with pytest.raises(UserError, match="is teacher another, the run transcribed"):
        evaluate(run, teacher=other)
    (run.private / "report.json").unlink()
    with pytest.raises(UserError, match=r"report\.json: cannot be read"):
        evaluate(run)
    assert not (run.private / "evaluation.json").exists()


def test_given_rows_are_measured_whatever_the_run_s_data_are(finished, tmp_path):
    """The test rows in a file give the figures of the split, also for a run without data."""
    run = copy_of(finished, tmp_path / "run")
    test = load_data(run.config.data).test
    np.savez(tmp_path / "rows.npz", images=test.images[:].numpy(), labels=test.labels.numpy())
    split, given = evaluate(run), evaluate(run, rows=tmp_path / "rows.npz")
    assert given["split"] == "given" and run.report()["evaluation"]["split"] == "given"
    assert given | {"split": "test"} == split
    assert f"{len(test):,} given rows" in evaluation_table(given)
