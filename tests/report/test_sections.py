"""Single sections, from facts made by hand."""

import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_curve

from dpsd.config import parse_config
from dpsd.privacy.accounting import gaussian_epsilon
from dpsd.privacy.composition import OPEN
from dpsd.privacy.events import GaussianRelease
from dpsd.privacy.plan import make_plan
from dpsd.privacy.record import RunRecord
from dpsd.privacy.statement import by_day, guarantee, plan_facts
from dpsd.report.attacks import roc
from dpsd.report.board import board_rounds
from dpsd.report.card import card_parts
from dpsd.report.guarantee import guarantee_section
from dpsd.report.parts import Drawing, Facts, Grid, Row, Slider, Text
from dpsd.report.pixels import strip, tiles
from dpsd.report.source import Source
from dpsd.report.summary import summary_section
from dpsd.report.svg import GOOD, drawn
from dpsd.report.utility import utility_section
from dpsd.runs.pictures import Board, grid

VERSIONS = {"dpsd": "0", "dp-accounting": "0"}


def facts_of(privacy, earlier=(), budgets=(), **made):
    """The facts of a statement without files."""
    sections = {"data": {"name": "digits", "units": 1295}} if "unit" in privacy else {}
    if privacy.get("route") == "ensemble":
        sections["teacher"] = {"shards": 100}
    config = parse_config(sections | {"privacy": privacy, "loop": {"rounds": 2}})
    facts = plan_facts(config, make_plan(config), VERSIONS) | {
        "run": "r", "teacher": "t", "grouping": "", "answers_made": 100, "started": "2024-01-01",
        "finished": "2024-01-02", "earlier_runs": [by_day(r) for r in earlier], "other_runs": 0,
        "budgets": list(budgets), "near_duplicates": None,
        "ledger": {"owner": "t", "entries": 3, "checksum": "c"},
    }  # fmt: skip
    facts |= made
    return facts | {"guarantee": guarantee(facts)}


def section_of(facts, tmp_path):
    return guarantee_section(Source("run", tmp_path, None, facts))


def drawings(section):
    rows = [d for p in section.parts if isinstance(p, Row) for d in p.drawings]
    return rows + [p for p in section.parts if isinstance(p, Drawing)]


def words(section):
    told = [p.text for p in section.parts if isinstance(p, Text)]
    told += [f"{n} {v}" for p in section.parts if isinstance(p, Facts) for n, v in p.rows]
    return " ".join(told)


RECORD = {"route": "ensemble", "unit": "record", "mechanism": "noisy_votes", "epsilon": 2.0,
          "answers": 100}  # fmt: skip


@pytest.fixture(scope="module")
def votes():
    return facts_of(RECORD)


def test_a_record_is_protected_up_to_groups(votes, tmp_path):
    section = section_of(votes, tmp_path)
    curve, groups = drawings(section)
    rate = 100 * votes["guarantee"]["highest_tpr"]
    assert f"{rate:.3g} % at 1 % false alarms" in curve.svg and "one record" in curve.caption
    for group in votes["guarantee"]["groups"]:
        assert f"{group['k']}: {group['epsilon']:.6g}" in groups.caption
    assert "this run alone takes epsilon 1.99" in words(section)
    slider = next(p for p in section.parts if isinstance(p, Slider))
    assert slider.deltas[slider.start] == "1e-5" and all(e.endswith("for one record")
                                                         for e in slider.epsilons)  # fmt: skip
    found = [float(e.split()[0]) for e in slider.epsilons]
    assert found == sorted(found) and found[slider.start] == pytest.approx(2, rel=0.01)


def test_earlier_runs_stack_up_to_their_composition(tmp_path):
    """Gaussians compose by the sum of mu squared: mu 1 and mu 2 beside this run's own."""
    earlier = [
        RunRecord("a", GaussianRelease(1.0, 1.0), 10, started="2023-05-06T00:00"),
        RunRecord("b", GaussianRelease(2.0, 1.0), 10, started="2023-07-08T00:00"),
    ]
    facts = facts_of({"epsilon": 2.0, "answers": 40, "mechanism": "gaussian"}, earlier)
    bar = drawings(section_of(facts, tmp_path))[-1]
    composed = gaussian_epsilon(math.sqrt(facts["guarantee"]["mu"] ** 2 + 1 + 4), facts["delta"])
    assert f"epsilon {composed:.6g} per answer" in bar.caption
    assert "run of 2023-05-06" in bar.svg and "run of 2023-07-08" in bar.svg


def test_a_budget_is_drawn_and_an_open_run_is_not(votes, tmp_path):
    budget = {"unit": "record", "epsilon": 5.0, "delta": 1e-5, "set": "2024-01-01"}
    section = section_of(votes | {"budgets": [budget]}, tmp_path)
    assert "budget 5" in drawings(section)[-1].svg
    section = section_of(facts_of(RECORD, [RunRecord("a", OPEN[0], 10, unit="none")]), tmp_path)
    assert "no finite epsilon holds for one record" in words(section)
    assert len(drawings(section)) == 1  # the curve, at 100 %


def test_not_private_is_drawn_as_nothing(tmp_path):
    facts = facts_of({"epsilon": 2.0, "answers": 40, "insecure_seeded_noise": True})
    section = section_of(facts, tmp_path)
    assert not drawings(section) and "stamped not private" in words(section)


@pytest.mark.parametrize(
    "change, light, answer",
    [
        ({"record_highest_tpr": 0.03}, "good", "Yes"),
        ({"record_highest_tpr": 0.3}, "caution", "Somewhat"),
        ({"record_highest_tpr": 0.7}, "problem", "Hardly"),
        ({"record_highest_tpr": 1.0}, "problem", "Not protected"),
    ],
)
def test_light_of_a_record(votes, tmp_path, change, light, answer):
    facts = votes | {"guarantee": votes["guarantee"] | change}
    first = summary_section(Source("run", tmp_path, None, facts)).parts[0].lines[0]
    assert (first.light, first.answer) == (light, answer)
    assert "for one record" in first.reason


def test_board_gives_back_what_was_written(tmp_path):
    class Run:
        release = tmp_path

    generator = torch.Generator().manual_seed(0)
    board = Board(Run())
    images, labels = [], []
    for n in range(3):
        x = torch.randint(0, 256, (50, 3, 8, 6), dtype=torch.uint8, generator=generator)
        p = torch.rand(50, 7, generator=generator)
        board.round({"round": n, "answers": 50, "loss": 1.0}, x, p)
        images.append(x)
        labels.append(p.argmax(1))
    board.close()
    path = next((tmp_path / "tb").iterdir())
    path.write_bytes(path.read_bytes()[:-3])  # cut off: the last record is lost
    rounds = board_rounds(tmp_path)
    assert list(rounds) == [0, 1, 2]
    for n in range(2):
        assert np.array_equal(tiles(rounds[n].sheet, (3, 8, 6)), images[n].numpy())
        counts = np.zeros(7)
        counts[: len(rounds[n].classes)] = rounds[n].classes
        assert counts.tolist() == torch.bincount(labels[n], minlength=7).tolist()
    assert not sum(rounds[2].classes)


def test_strips_keep_pixels_and_leave_places_clear():
    images = np.arange(2 * 1 * 4 * 5, dtype=np.uint8).reshape(2, 1, 4, 5)
    pixels = np.asarray(Image.open(io.BytesIO(strip(images, 3))))
    assert pixels.shape == (4, 17, 4)
    assert np.array_equal(pixels[:, 6:11, 1], images[1, 0])
    assert pixels[:, 12:, 3].max() == 0 and pixels[:, :5, 3].min() == 255


def test_empty_places_of_a_sheet_are_no_images():
    sheet = grid(torch.zeros(3, 1, 5, 5, dtype=torch.uint8), 2)[0].numpy()
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "PNG")
    assert tiles(file.getvalue(), (1, 5, 5)).shape == (3, 1, 5, 5)


def test_drawings_take_their_colours_from_the_page_and_are_the_same_twice():
    def draw(axes):
        axes.plot([0, 1], [0, 1], color=GOOD, label="<b>")
        axes.legend()

    first, second = drawn(draw, 'a "quoted" word'), drawn(draw, 'a "quoted" word')
    assert first == second and "var(--good)" in first and "<metadata" not in first
    assert "&lt;b&gt;" in first and 'aria-label="a &quot;quoted&quot; word"' in first
    other = drawn(lambda axes: axes.plot([0, 1], [1, 0]), "other")
    ids = [set(part.split('"')[0] for part in svg.split(' id="')[1:]) for svg in (first, other)]
    assert ids[0] and not ids[0] & ids[1]


def test_a_table_of_the_card():
    text, table = card_parts("Audit", ["Some **bold**", "words.", "", "| a \\| b | n |",
                                       "|---|---:|", "| x | 1 |", ""])  # fmt: skip
    assert text == Text("Some bold words.")
    assert isinstance(table, Grid) and table.table.columns == ["a | b", "n"]
    assert table.table.rows == [["x", "1"]] and table.table.align == "lr"


def test_roc_is_that_of_scikit_learn():
    generator = np.random.default_rng(1)
    scores, member = generator.integers(0, 9, 60).astype(float), generator.random(60) < 0.4
    fpr, tpr, _ = roc_curve(member, scores, drop_intermediate=False)
    assert np.allclose(roc(scores, member), (fpr, tpr))


def test_accuracy_over_answers_is_private(votes, tmp_path):
    private, release = tmp_path / "private", tmp_path / "release"
    private.mkdir()
    release.mkdir()
    model = {"accuracy": 0.95, "agreement": 0.9, "ece": 0.01}
    rounds = [{"round": i, "answers": 100 * (i + 1), "accuracy": a}
              for i, a in enumerate((0.5, 0.8, 0.9))]  # fmt: skip
    (private / "evaluation.json").write_text(json.dumps({
        "split": "test", "rows": 50, "agreement_with": "x", "teacher": model, "student": model,
        "per_class": [], "reliability": {}, "confusion": [], "over_rounds": rounds,
    }))  # fmt: skip
    shown = utility_section(Source("run", release, private, votes))
    assert shown.private
    (drawing,) = drawings(shown)
    assert "over 3 rounds: first 50.0 %, last 90.0 %; the released" in drawing.svg
    assert not drawings(utility_section(Source("run", release, None, votes)))
