"""`dpsd attack extraction` as a whole, on a tiny run."""

import json
import stat

import numpy as np
import pytest
import torch
from products import contents, copy_of, tiny_run
from reachable import reachable

from dpsd.attacks.command import extraction
from dpsd.attacks.extraction import attack as module
from dpsd.attacks.extraction.attack import Choice, ExtractionBudget
from dpsd.attacks.extraction.attacks import ATTACKS, Named
from dpsd.attacks.extraction.clone import Holdings
from dpsd.attacks.extraction.endpoint import Endpoint
from dpsd.attacks.extraction.matrix import Cell, run_cell
from dpsd.attacks.extraction.pools import Ground, ground, load_pool, reshaped
from dpsd.attacks.extraction.victim import Victim
from dpsd.cli import main
from dpsd.config import PublicFacts
from dpsd.config.sections import DataConfig
from dpsd.errors import UserError
from dpsd.hardening.make import make_mark
from dpsd.models.networks import build_model
from dpsd.runs.folder import Run
from dpsd.runs.release import Labeller

TINY = ExtractionBudget("cnn-tiny", (20, 60), 1, 3, 60, ("basic", "distillation"), ("labels",), 80)


@pytest.fixture
def run(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setitem(module.BUDGETS, "fast", TINY)
    return copy_of(tiny_run(tmp_path_factory), tmp_path / "run")


def test_an_attack_resumes_and_can_be_analysed_again(run, monkeypatch, tmp_path):
    before = contents(run.release)
    report = extraction(run, budget="fast", choice=Choice(targets=("student", "teacher")))
    folder = run.private / "attacks" / "extraction"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert json.loads((folder / "report.json").read_text()) == report
    assert (folder / "curves.png").stat().st_size < 300_000
    assert len(report["cells"]) == 2 * 2 * 2
    refused = [c for c in report["cells"] if c["refused"]]
    assert {(c["attack"], c["defence"]) for c in refused} == {("distillation", "labels")}
    for cell in report["cells"]:
        assert cell["refused"] or [c["asked"] for c in cell["curve"]] == [20, 60]
    labels = next(p for p in report["prices"] if p["target"] == "teacher")
    assert labels["flips"] == 0 and labels["accuracy_before"] == labels["accuracy"]

    def no_clone(*_, **__):
        raise AssertionError("a finished cell was attacked again")

    with monkeypatch.context() as patch:
        patch.setattr("dpsd.attacks.extraction.matrix.predict", no_clone)
        assert (
            extraction(run, budget="fast", choice=Choice(targets=("student", "teacher"))) == report
        )
        patch.setattr(module, "score", no_clone)
        assert extraction(run, budget="fast", analyse_only=True) == report
    assert contents(run.release) == before  # private data: nothing reaches the release


def test_the_command_on_other_pools_and_a_model_of_ones_own(run, tmp_path, capsys):
    weights = next(run.release.glob("student.safetensors"))
    words = ["attack", "extraction", str(run.path), "--fast", "--budget", "30", "--attack", "basic"]
    assert main([*words, "--pool", "synthetic", "--weights", str(weights)]) == 2
    own = ["--model", run.config.student.model, "--weights", str(weights)]
    assert main([*words, "--pool", "synthetic", *own, "--data-is-public"]) == 0
    out = capsys.readouterr().out
    assert "own model: agreement of clones after 30 asked images" in out
    assert "30 images asked" in out and "80 images that dpsd's synthesizer made" in out
    assert "## Extraction" in (run.release / "README.md").read_text()


def test_given_rows_are_asked_about_and_measured_on_where_there_are_no_data(run, tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", images=rng.integers(0, 256, (60, 28, 28), dtype=np.uint8),
             labels=np.arange(60) % 10)  # fmt: skip
    none = run.config.model_copy(update={"data": DataConfig(name="none", shape=(1, 28, 28),
                                                            classes=10)})  # fmt: skip
    assert ground(none, 100, held=100) == Ground(None, None)
    words = ["attack", "extraction", str(run.path), "--fast", "--budget", "30", "--attack", "basic"]
    assert main([*words, "--rows", str(tmp_path / "rows.npz")]) == 0
    report = json.loads((run.private / "attacks" / "extraction" / "report.json").read_text())
    assert report["rows"] == 30 and report["labelled"] and "same problem" in report["pool"]
    found = ground(none, 20, tmp_path / "rows.npz", held=100)
    assert len(found.pool) == 30 and len(found.measured) == 20
    assert main([*words, "--rows", str(tmp_path / "lost.npz")]) == 2
    assert "lost.npz: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--budget", "0"], "budget: 0; accepted: from 10"),
        (["--budget", "10,x"], "10,x is not accepted"),
        (["--attack", "magic"], "attack: 'magic'; accepted: basic"),
        (["--defence", "wall"], "defence: 'wall'"),
        (["--target", "server"], "target: 'server'; accepted: student, teacher"),
        (["--pool", "nowhere"], "pool: 'nowhere'; accepted: same"),
        (["--attack", "distillation", "--defence", "labels"], "labels gives labels alone"),
        (
            ["--attack", "equations"],
            "equations solves scatter-linear, scatter-bn, scatter-public; the student is",
        ),
        (["--url", "http://192.0.2.7:80"], "is not an address of this machine"),
        (["--url", "http://127.0.0.1:9", "--defence", "labels"], "the service's own are on"),
    ],
)
def test_bad_input_is_one_line_and_writes_no_report(run, options, text, capsys):
    try:
        code = main(["attack", "extraction", str(run.path), "--fast", *options])
    except SystemExit as e:  # what argparse refuses
        code = e.code
    error = capsys.readouterr().err
    assert code == 2 and text in error
    assert not (run.private / "attacks" / "extraction" / "report.json").exists()


def test_an_attack_on_one_architecture_takes_the_victims_own(tmp_path):
    """`equations` copies a linear model with as many questions as a class has weights, exactly."""
    facts = PublicFacts(shape=(1, 12, 12), classes=3, class_names=("a", "b", "c"))
    torch.manual_seed(0)
    model = build_model("scatter-linear", facts.shape, 3)
    torch.nn.init.normal_(model.head.weight, 0, 0.3)
    victim = Victim("own", Labeller(model.eval(), torch.device("cpu")).predict, facts,
                    "scatter-linear")  # fmt: skip
    pool = torch.randint(0, 256, (1200, 1, 12, 12), dtype=torch.uint8)
    weights = model.head.in_features
    rows = torch.randint(0, 256, (300, 1, 12, 12), dtype=torch.uint8)
    found = run_cell(
        Cell("own", "equations", "none", 0), victim,
        Holdings(pool, (round(1.2 * weights),), "cnn-tiny"), rows, folder=tmp_path,
        identity="", say=lambda text: None,
    )  # fmt: skip
    said = victim.ask(rows).argmax(1).numpy()
    assert (found["predicted"][-1] == said).mean() >= 0.99
    assert int(found["asked"][-1]) == round(1.2 * weights)


def test_what_a_run_passes_to_an_attack_leads_to_no_model(run, monkeypatch):
    found = []

    def attack(endpoint, holdings):
        endpoint.ask(holdings.pool[:20])
        found.extend(reachable(endpoint, holdings))
        raise UserError("seen enough")
        yield

    monkeypatch.setitem(ATTACKS, "basic", Named(attack, "labels", "looks around"))
    choice = Choice(targets=("student", "teacher"), attacks=("basic",), ladder=(20,))
    report = extraction(run, budget="fast", choice=choice)
    assert {c["refused"] for c in report["cells"]} == {"seen enough"}
    assert sum(isinstance(x, Endpoint) for x in found) == len(report["cells"])
    assert not any(isinstance(x, Victim | Labeller | torch.nn.Module | Run) for x in found)


def test_a_hardened_student_is_a_victim_of_its_own(run):
    mark = make_mark(run, "trigger", parameters={"steps": 2, "images": 100})
    report = extraction(run, budget="fast", choice=Choice(targets=("student", mark.name)))
    assert set(report["targets"]) == {"student", "trigger"}
    assert {c["target"] for c in report["cells"]} == {"student", "trigger"}
    accuracy = {name: facts["accuracy"] for name, facts in report["targets"].items()}
    price = report["targets"]["trigger"]["price"]
    assert price["accuracy_before"] == accuracy["student"]
    assert price["accuracy"] == accuracy["trigger"] and price["flips"] <= 1 and price["l1"] > 0


def test_options_of_extraction_are_refused_elsewhere(run, capsys):
    assert main(["attack", "membership", str(run.path), "--pool", "synthetic"]) == 2
    assert "pool: an option of `attack extraction`" in capsys.readouterr().err


def test_pools(run, tmp_path):
    config = run.config
    made = load_pool("synthetic", config, None, 50, seed=3, held=50).images
    assert made.shape == (50, *config.facts.shape) and made.unique(dim=0).shape[0] == 50
    again, other = (
        load_pool("synthetic", config, None, 50, seed=s, held=50).images for s in (3, 4)
    )
    assert np.array_equal(made, again) and not np.array_equal(made, other)
    with pytest.raises(UserError, match=r"pool: same with data\.name none"):
        load_pool("same", config, None, 50, seed=0, held=50)
    colour = reshaped(made, (3, 14, 20))
    assert colour.shape == (50, 3, 14, 20) and np.array_equal(colour[:, 0], colour[:, 2])
