import json

import numpy as np
import pytest
import torch
from products import contents, copy_of, tiny_run

from dpsd.cli import main
from dpsd.config.sections import DataConfig
from dpsd.data.load import load_data
from dpsd.errors import UserError
from dpsd.evaluation import downstream as checking
from dpsd.evaluation.downstream import downstream, downstream_table, fresh_model, fresh_recipe
from dpsd.runs.samples import Samples, draw_samples

NAMES = tuple("0123456789")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return copy_of(tiny_run(tmp_path_factory), tmp_path_factory.mktemp("downstream") / "run")


@pytest.fixture(scope="module")
def good(run):
    """Samples as good as can be: real training rows with their labels."""
    rows = load_data(run.config.data).train
    p = torch.nn.functional.one_hot(rows.labels, 10).float()
    return Samples(rows.images, p, NAMES, len(rows), False)


@pytest.fixture(scope="module")
def found(run, good):
    return downstream(run, good, model="cnn-tiny", split="holdout", passes=12)


def test_a_fresh_model_learns_from_samples_and_not_from_shuffled_labels(run, found):
    rows = load_data(run.config.data).holdout
    assert found["rows"] == len(rows) == 143 and found["model"] == "cnn-tiny"
    assert found["fresh"] > 0.9
    assert found["control"] < 0.3 and found["chance"] == int(rows.labels.bincount().max()) / 143
    assert found["student"] == pytest.approx(0.5, abs=0.5) and found["teacher"] > 0.5
    assert found["passes"] == pytest.approx(12) and found["labels"] == "soft"


def test_figures_name_what_they_are_figures_of(run, found):
    assert (found["route"], found["unit"], found["answers"]) == ("single", "answer", 2000)
    assert found["epsilon"] == pytest.approx(8) and found["seeded_noise"]
    assert found["samples"] == len(load_data(run.config.data).train) == sum(found["counts"])
    text = downstream_table(found)
    assert "split holdout, 143 rows; 1,295 samples" in text
    assert "route single, epsilon 8 per answer (seeded noise: NOT PRIVATE), 2,000 answers" in text
    assert f"{100 * found['fresh']:.2f} %" in text and f"{100 * found['control']:.2f} %" in text
    assert "not private" in downstream_table(found | {"epsilon": None})


def test_the_same_samples_give_the_same_figures_whatever_the_global_generator(run, good):
    few = Samples(good.images[:200], good.probabilities[:200], NAMES, 200, False)
    torch.manual_seed(5)
    first = downstream(run, few, model="cnn-tiny", passes=1)
    torch.manual_seed(6)
    again = downstream(run, few, model="cnn-tiny", passes=1)
    assert {**first, "seconds": 0} == {**again, "seconds": 0}


def test_the_check_writes_below_private_alone(tmp_path_factory, tmp_path, capsys):
    run = copy_of(tiny_run(tmp_path_factory), tmp_path / "run")
    before = contents(tmp_path)
    args = ["sample", str(run.path), "--n", "60", "--check", "--model", "cnn-tiny", "--passes", "1"]
    assert main([*args, "--balanced", "--best", "2", "--hard", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    after = contents(tmp_path)
    assert after.keys() - before.keys() == {"run/private/downstream.json"}
    assert all(after[name] == content for name, content in before.items())
    assert json.loads(after["run/private/downstream.json"]) == printed
    assert printed["split"] == "test" and printed["labels"] == "hard"
    samples = draw_samples(run, 60, balanced=True, best=2)
    assert printed["counts"] == samples.counts
    assert printed["choice"] == {"balanced": True, "best": 2, "select": None}
    assert main([*args, "--split", "holdout", "--out", str(tmp_path / "made.npz")]) == 0
    out = capsys.readouterr().out
    assert "split holdout, 143 rows; 60 samples" in out and (tmp_path / "made.npz").is_file()


def test_labelled_pictures_stand_in_for_rows_of_the_run(tmp_path_factory, tmp_path, capsys):
    run = copy_of(tiny_run(tmp_path_factory), tmp_path / "run")
    holdout, path = load_data(run.config.data).holdout, tmp_path / "rows.npz"
    np.savez(path, images=holdout.images[:].numpy(), labels=holdout.labels.numpy())
    args = ["sample", str(run.path), "--n", "30", "--check", "--model", "cnn-tiny", "--passes", "1"]
    found = []
    for rows in (["--split", "holdout"], ["--rows", str(path)]):
        assert main([*args, *rows, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert [x.pop("split") for x in found] == ["holdout", "given"]
    assert all(x.pop("seconds") > 0 for x in found) and found[0] == found[1]


def test_a_run_without_data_is_measured_on_labelled_pictures(tmp_path_factory, tmp_path, good):
    run = copy_of(tiny_run(tmp_path_factory), tmp_path / "run")
    holdout, path = load_data(run.config.data).holdout, tmp_path / "rows.npz"
    np.savez(path, images=holdout.images[:].numpy(), labels=holdout.labels.numpy())
    nothing = DataConfig(name="none", shape=(1, 28, 28), classes=10)
    run.config = run.config.model_copy(update={"data": nothing})
    few = Samples(good.images[:30], good.probabilities[:30], NAMES, 30, False)
    with pytest.raises(UserError, match="none has no test rows to measure on; accepted: --rows"):
        downstream(run, few, model="cnn-tiny")
    found = downstream(run, few, model="cnn-tiny", passes=1, rows=path)
    assert (found["split"], found["rows"]) == ("given", 143)


def test_the_fresh_model_is_another_than_the_students():
    assert fresh_model("cnn-small") == "cnn-lite" and fresh_model("cnn-lite") == "cnn"
    assert fresh_model("scatter-linear", "cnn-tiny") == "cnn-tiny"
    with pytest.raises(UserError, match="--model cnn: the student's architecture"):
        fresh_model("cnn", "cnn")


def test_few_samples_are_seen_more_often():
    many, few = fresh_recipe(60_000), fresh_recipe(1_000)
    assert many.steps == checking.PASSES * 235 and many.augment == "none"
    assert few.steps == 400 and few.augment == "shift" and fresh_recipe(1_000, 2).steps == 8
    assert fresh_recipe(1_000, 2).augment == "none" and fresh_recipe(1_000, 10).augment == "shift"
    assert fresh_recipe(60_000, 16).augment == "none" and fresh_recipe(10).batch_size == 10


def test_the_fresh_model_learns_probabilities_at_a_temperature(run, good, monkeypatch):
    learned = []
    monkeypatch.setattr(checking, "fit", lambda model, images, targets, *a, **k: learned.append(
        targets))  # fmt: skip
    p = torch.tensor([[0.64, 0.04, 0.32, *[0.0] * 7]])
    one = Samples(good.images[:1], p, NAMES, 1, False)
    found = downstream(run, one, model="cnn-tiny", temperature=2.0)
    odds = learned[0][0] / learned[0][0, 0]  # at temperature 2 the roots of the odds
    assert odds[:3].tolist() == pytest.approx([1, 0.25, 0.5**0.5])
    assert 0 < odds[3] < 0.001 and found["temperature"] == 2
    assert torch.allclose(learned[0].sum(1), torch.ones(1))
    for wrong in ({"temperature": 0.0}, {"temperature": 2.0, "soft": False}):
        with pytest.raises(UserError, match=r"temperature: [02]; accepted: a number above 0"):
            downstream(run, one, model="cnn-tiny", **wrong)


def test_no_rows_to_measure_on(run, good, monkeypatch):
    monkeypatch.setattr(checking, "read_rows", lambda run, split, data: (run.config, None))
    with pytest.raises(UserError, match=r"data\.name: digits has no test rows to measure on"):
        downstream(run, good)
