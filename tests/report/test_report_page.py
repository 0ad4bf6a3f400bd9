"""The report as a file: what it shows, what it keeps private, and what it refuses."""

import itertools
import json
import re
import shutil
from html import escape

import pytest
from products import contents, copy_of, few_config
from report_runs import add_attacks, plant

from dpsd.cli import main
from dpsd.errors import UserError
from dpsd.evaluation.evaluate import evaluate
from dpsd.privacy.verify import verify_release
from dpsd.report.page import write_report
from dpsd.report.svg import drawn
from dpsd.runs.folder import Run
from dpsd.transcription.transcribe import transcribe

MARKER = "k7marker7k"


@pytest.fixture(scope="module", autouse=True)
def blank_drawings():
    """Drawings by their descriptions alone: they take most of the time, and have own tests."""
    with pytest.MonkeyPatch.context() as patch:
        blank = '<svg class="plot" role="img" aria-label="{}"></svg>'
        patch.setattr("dpsd.report.plots.drawn", lambda _, alt, **rest: blank.format(escape(alt)))
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A seeded run (not private) and a private one, evaluated and attacked."""
    root = tmp_path_factory.mktemp("report")
    private = few_config(root, {"answers": 40, "epsilon": 2.0})
    transcribe(private, out=root / "few")
    seeded = transcribe(few_config(root, {"insecure_seeded_noise": True}), out=root / "seeded")
    evaluate(seeded)
    add_attacks(seeded)
    return root


@pytest.fixture(scope="module")
def page(root):
    return write_report(root / "seeded").read_text()


def text_of(page):
    """What a reader sees: no styles, scripts, drawings' insides or tags."""
    page = re.sub(r"<(style|script)>.*?</\1>", " ", page, flags=re.S)
    page = re.sub(r'aria-label="([^"]*)"', r">\1<", page)
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def sections(page):
    return dict(re.findall(r'<section id="(\w+)"(.*?)</section>', page, re.S))


def test_all_sections_and_what_is_private(page):
    found = sections(page)
    assert list(found) == ["summary", "guarantee", "utility", "data", "attacks", "reproduce"]
    private = [name for name, body in found.items() if ">PRIVATE</span>" in body]
    assert private == ["summary", "utility", "attacks"]
    assert '<p class="mark">PRIVATE</p>' in page and "NOT PRIVATE: this run" in page
    assert 'content: "PRIVATE' in page  # on each printed page
    assert "AUC: rmia 0." in found["attacks"] and "Reconstruction of classes: not tried" in page
    assert "one_run: skipped: there are no data" in found["attacks"]


def test_no_light_reads_as_its_opposite(page):
    """As text alone an answer and its light stay what is meant: no bare "No", no "No problem"."""
    summary = text_of(sections(page)["summary"])
    assert "Is a single record protected? Not protected (red: alarm) The run is" in summary
    assert "guarantee hold as stated? Does not hold (red: alarm)" in summary
    assert "find something? They do (red: alarm)" in summary
    answers = re.findall(r"<strong>(.*?)</strong> <span class=\"word\">\((\w+): ", page)
    assert len(answers) == 5 and {colour for _, colour in answers} <= {"red", "amber", "green"}
    assert not any(re.match(r"No\b", answer) for answer, _ in answers)


def test_extraction_alone_is_not_called_no_attack(root, tmp_path):
    run = copy_of(Run(root / "seeded"), tmp_path / "run")
    for kind in ("membership", "audit"):
        shutil.rmtree(run.private / "attacks" / kind)
    summary = text_of(sections(write_report(run.path).read_text())["summary"])
    assert "Extraction alone was tried (grey: unknown)" in summary
    assert "Membership, inversion and audit: not tried" in summary and "No attack" not in summary


def test_nothing_outside_is_needed(page):
    without = page.replace("http://www.w3.org/2000/svg", "").replace(
        "http://www.w3.org/1999/xlink", ""
    )
    assert not re.search(r"(https?:)?//\w+\.\w+", without)
    assert "default-src 'none'" in page
    assert len(page) < 5_000_000
    assert page.count("<h1") == 1 and 'lang="en"' in page
    headings = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert all(b <= a + 1 for a, b in itertools.pairwise(headings))
    assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img[^>]*>", page))


def test_no_epsilon_without_its_unit(root):
    text = text_of(write_report(root / "few").read_text())
    found = list(re.finditer(r"\bepsilon (?:is )?\d[\d.,]*", text))
    assert len(found) > 5
    for match in found:
        rest = text[match.end() :][:40]
        assert re.match(r"[.,]? (per answer|for one|, ?delta)", rest), text[match.start() :][:90]


def test_the_same_run_gives_the_same_page(root, page):
    assert write_report(root / "seeded").read_text() == page


def test_public_page_holds_nothing_private(root, tmp_path, monkeypatch):
    monkeypatch.setattr("dpsd.report.plots.drawn", drawn)
    run = copy_of(Run(root / "seeded"), tmp_path / "secret-name")
    planted = plant(run.private, MARKER)
    assert len(planted) > 6
    page = write_report(run.path, public=True)
    assert page == run.path / "report-public.html"
    text = page.read_text()
    assert MARKER not in text and "secret-name" not in text and "PRIVATE: contains" not in text
    assert MARKER in write_report(run.path).read_text()  # it reaches a private page
    shown = sections(text)
    assert "measured on private data" in shown["utility"] and "AUC" not in shown["attacks"]
    assert "Not shown" in shown["summary"] and '<p class="mark">PUBLIC</p>' in text
    shutil.rmtree(run.private)
    assert write_report(run.path, public=True, out=tmp_path / "b.html").read_text() == text
    alone = tmp_path / "release-alone"
    shutil.copytree(run.release, alone)
    assert write_report(alone, public=True, out=tmp_path / "c.html").read_text() == text


def test_names_of_users_are_escaped(root, tmp_path):
    run = copy_of(Run(root / "few"), tmp_path / "run")
    facts = json.loads((run.release / "statement.json").read_text())
    named = facts | {"owner": "<script>alert(1)</script>", "dataset": "<b>"}
    (run.release / "statement.json").write_text(json.dumps(named))
    page = write_report(run.path).read_text()
    assert "<script>alert" not in page and "<b>" not in page and "&lt;script&gt;alert" in page


def test_refusals(root, tmp_path):
    with pytest.raises(UserError, match="no finished run or release folder"):
        write_report(tmp_path)
    release = root / "few" / "release"
    with pytest.raises(UserError, match="has no private part; accepted: --public"):
        write_report(release)
    with pytest.raises(UserError, match="--out: missing"):
        write_report(release, public=True)
    with pytest.raises(UserError, match="lies in the release"):
        write_report(root / "few", public=True, out=release / "report.html")


def test_private_figures_on_a_card_are_no_public_page(root, tmp_path):
    run = copy_of(Run(root / "few"), tmp_path / "run")
    card = run.release / "README.md"
    table = "| figure | value |\n|---|---:|\n| student's \\| accuracy | 0.8125 |"
    card.write_text(card.read_text() + f"\n## Measured figures\n\nOn test rows.\n\n{table}\n")
    for target in (run.path, run.release):
        with pytest.raises(UserError, match=r"private figures \(Measured figures\)"):
            write_report(target, public=True, out=tmp_path / "x.html")
    facts = json.loads((run.private / "run.json").read_text())
    (run.private / "run.json").write_text(json.dumps(facts | {"data_is_public": True}))
    page = write_report(run.path, public=True).read_text()
    assert "student&#x27;s | accuracy" in page and "0.8125" in sections(page)["utility"]
    assert "The data were declared public" in sections(page)["summary"]


def test_beside(root):
    page = write_report(root / "seeded", beside=[root / "few", root / "few"]).read_text()
    table = text_of(sections(page)["beside"])
    assert "few (1)" in table and "few (2)" in table and "one answer, NOT PRIVATE" in table
    assert "2 per answer, delta 1e-05" in table and "AUC up to 0.760 on the student: leaks" in table
    public = write_report(root / "seeded", beside=[root / "few"], public=True).read_text()
    assert "AUC" not in sections(public)["beside"]


def test_the_command_leaves_the_release_as_it_was(root, tmp_path, capsys):
    run, seeded = Run(root / "few"), str(root / "seeded")
    before = contents(run.release)
    few = str(run.path)
    assert main(["report", few, "--beside", seeded, "--out", str(tmp_path / "r.html")]) == 0
    assert "report in" in capsys.readouterr().out and (tmp_path / "r.html").is_file()
    assert main(["report", few, "--public"]) == 0 and (run.path / "report-public.html").is_file()
    assert contents(run.release) == before
    verify_release(run.release)
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_commands_refresh_the_report_and_survive_it(root, capsys, monkeypatch):
    monkeypatch.setattr("dpsd.cli.report.REFRESHED", True)
    run = root / "few"
    (run / "private" / "report.html").unlink(missing_ok=True)
    assert main(["evaluate", str(run), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["split"] == "test" and not err
    page = (run / "private" / "report.html").read_text()
    assert "Confusion matrix" in page
    (run / "report-public.html").write_text("stale")
    assert main(["evaluate", str(run)]) == 0
    assert f"report: {run / 'report-public.html'}" in capsys.readouterr().out
    assert "stale" not in (run / "report-public.html").read_text()
    (run / "report-public.html").unlink()

    def broken(*args, **kwargs):
        raise ZeroDivisionError("no\nreport")

    monkeypatch.setattr("dpsd.report.page.write_report", broken)
    assert main(["evaluate", str(run)]) == 0
    assert capsys.readouterr().err == "dpsd: warning: no report: ZeroDivisionError: no report\n"
