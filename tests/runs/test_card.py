import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from products import copy_of, tiny_run

from dpsd.attacks.extraction.attacks import ATTACKS
from dpsd.privacy.releases import load_release
from dpsd.privacy.verify import verify_release
from dpsd.runs.card import LINEAR, write_card
from dpsd.runs.pictures import Board, curves, newest_images, synthetic_grid
from dpsd.runs.release import load_student
from dpsd.student.bank import Bank


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tiny_run(tmp_path_factory)


@pytest.fixture(scope="module")
def card(finished):
    return (finished.release / "README.md").read_text()


def test_front_matter(card):
    _, front, body = card.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["library_name"] == "dpsd" and facts["license"] == "unknown"
    assert facts["pipeline_tag"] == "image-classification"
    assert "datasets" not in facts
    assert body.strip().startswith("# ")


def test_card_holds_the_statement_and_the_public_figures(finished, card):
    assert (finished.release / "statement.txt").read_text() in card
    last = finished.metrics()[-1]
    assert f"| {last['agreement_with_answers']:.4f} |" in card and "| 2,000 |" in card
    assert "NOT PRIVATE" in card.split("##")[0]
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", card):
        assert (finished.release / picture).is_file()
    verify_release(finished.release)


def test_no_epsilon_without_its_unit(card):
    for found in re.finditer(r"\beps(?:ilon)? \d[\d.,]*", card):
        rest = card[found.end() :][:40]
        assert re.match(r"[.,]? (per answer|for one record)", rest), card[found.start() :][:80]
    assert len(re.findall(r"epsilon [\d.,]+ per answer", card)) >= 2


def _code(card, title):
    return re.search(rf"{title}:\n\n```python\n(.*?)```", card, re.S).group(1)


def test_plain_torch_code_on_the_card_gives_the_student(finished, card, monkeypatch):
    monkeypatch.chdir(finished.release)
    code = _code(card, "With plain torch")
    assert "dpsd" not in code
    names = {"images": torch.rand(3, 1, 28, 28)}
    exec(code, names)
    assert torch.allclose(names["logits"], load_student(finished)(names["images"]), atol=1e-5)


@pytest.mark.parametrize(
    "name", ["cnn", "cnn-lite", "resnet20", *LINEAR, "resnet18", "package.module:net"]
)
def test_every_model_says_how_to_load_it(finished, tmp_path, name):
    run = copy_of(finished, tmp_path / "run")
    student = run.config.student.model_copy(update={"model": name})
    run.config = run.config.model_copy(update={"student": student})
    write_card(run, json.loads((run.release / "statement.json").read_text()), None)
    card = (run.release / "README.md").read_text()
    if name in ("cnn", "cnn-lite", "resnet18"):
        compile(_code(card, "With plain torch"), "card", "exec")
    else:
        assert "dpsd export" in card
    assert ("## Before you serve it" in card) == name.startswith("scatter")
    # What the card says about such a student can be measured.
    assert ("`dpsd attack extraction` measures it" in card) == (name in ATTACKS["equations"].of)


@pytest.mark.parametrize("name", ["squeezenet1_1", "cnn-lite"])
def test_code_on_the_card_of_other_models(finished, tmp_path, monkeypatch, name):
    from dpsd.models.networks import build_model

    run = copy_of(finished, tmp_path / "run")
    student = run.config.student.model_copy(update={"model": name})
    run.config = run.config.model_copy(update={"student": student})
    model = build_model(name, (1, 28, 28), 10).eval()
    facts = {"model": name, "shape": [1, 28, 28], "classes": 10}
    run.save_weights("student", model.state_dict(), facts)
    write_card(run, json.loads((run.release / "statement.json").read_text()), None)
    monkeypatch.chdir(run.release)
    names = {"images": torch.rand(2, 1, 28, 28)}
    exec(_code((run.release / "README.md").read_text(), "With plain torch"), names)
    assert torch.allclose(names["logits"], load_student(run)(names["images"]), atol=1e-5)


def test_figures_stay_off_the_card_of_private_data(finished, tmp_path):
    run = copy_of(finished, tmp_path / "run")
    before = (run.release / "README.md").read_text()
    figures = {"accuracy": 0.123456, "ece": 0.2, "agreement": 0.3}
    found = {"split": "test", "rows": 9, "agreement_with": "x", "teacher": figures,
             "student": figures}  # fmt: skip
    statement = json.loads((run.release / "statement.json").read_text())
    write_card(run, statement, found)
    assert (run.release / "README.md").read_text() == before
    run.data_is_public = True
    write_card(run, statement, found)
    assert "0.1235" in (run.release / "README.md").read_text()


def test_grid_shows_the_newest_images(finished):
    sheet = torch.from_numpy(np.array(Image.open(finished.release / "synthetic.png")))
    images, _ = load_release(finished.bank, 1000)  # the last round
    assert sheet.shape == (291, 291)
    first, last = sheet[1:29, 1:29], sheet[-29:-1, -29:-1]
    assert torch.equal(first, images[-1, 0]) and torch.equal(last, images[-100, 0])


def test_pictures_of_odd_input(tmp_path):
    bank = Bank(4, (3, 8, 6), 2)
    assert len(newest_images(bank, 100)) == 0
    for shape in ((0, 1, 8, 6), (3, 3, 8, 6), (200, 2, 8, 6)):
        synthetic_grid(torch.randint(256, shape, dtype=torch.uint8), tmp_path / "x.png")
        assert Image.open(tmp_path / "x.png").size == (71, 91)
    for i in range(6):
        bank.add(torch.full((1, 3, 8, 6), i, dtype=torch.uint8), torch.zeros(1, 2))
    assert newest_images(bank, 3)[:, 0, 0, 0].tolist() == [5, 4, 3]
    curves([], tmp_path / "c.png")
    curves([{"answers": 5, "loss": 0.3, "agreement_with_answers": 0.1}], tmp_path / "c.png")
    assert Image.open(tmp_path / "c.png").size == (960, 360)


def events(run):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for file in (run.release / "tb").iterdir():
        yield from EventFileLoader(str(file)).Load()


def test_board_can_be_read_and_resumed(finished, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("socket.gethostname", lambda: "secret-host")
    run = copy_of(finished, tmp_path / "run")
    images = torch.randint(256, (50, 1, 28, 28), dtype=torch.uint8)
    p = torch.nn.functional.one_hot(torch.arange(50) % 4, 10).float()

    def write(board, rounds, loss):
        for i in rounds:
            board.round({"round": i, "answers": 50 * (i + 1), "loss": loss, "x": None}, images, p)

    shutil.rmtree(run.release / "tb", ignore_errors=True)
    board = Board(run)
    write(board, range(5), 1.0)  # interrupted: never closed
    for start in (4, 3):
        board = Board(run, start)
        write(board, range(start, 6), 2.0 + start)
    board.round({"round": 6, "answers": 300}, images[:0], p[:0])
    board.close()
    names = sorted(f.name for f in (run.release / "tb").iterdir())
    assert names == [f"events.out.tfevents.{i:010d}.dpsd" for i in (0, 3)]
    assert not any(b"secret" in f.read_bytes() for f in (run.release / "tb").iterdir())
    times = {event.wall_time - event.step for event in events(run) if not event.file_version}
    assert times == {0}  # rounds, and no times
    assert {event.wall_time for event in events(run)} == set(range(7))
    found = EventAccumulator(str(run.release / "tb"), {"images": 0, "scalars": 0, "histograms": 0})
    found.Reload()
    loss = {e.step: e.value for e in found.Scalars("loss")}
    assert loss == {0: 1, 1: 1, 2: 1, 3: 5, 4: 5, 5: 5} and len(found.Scalars("loss")) == 6
    assert [e.step for e in found.Scalars("answers")] == list(range(7))
    assert [e.step for e in found.Images("synthetic")] == list(range(6))
    counts = found.Histograms("student_classes")[0].histogram_value
    by_class = dict(zip(counts.bucket_limit, counts.bucket, strict=True))
    assert [by_class.get(c + 0.5, 0) for c in range(4)] == [13, 13, 12, 12]
    assert sum(counts.bucket) == 50
