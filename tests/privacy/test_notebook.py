"""Plan, run and statement in a notebook: figures with their unit, and nothing unescaped."""

import math
from html.parser import HTMLParser

import pytest
from products import copy_of, tiny_run

import dpsd
from dpsd.errors import UserError
from dpsd.privacy.notebook import Statement, read_statement

EVIL = "<script>alert('x')</script>"


class _Text(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data + " "


def _read(shown):
    parser = _Text()
    parser.feed(shown._repr_html_())
    assert parser.tags <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "pre"}
    return " ".join(parser.text.split())


@pytest.mark.parametrize(
    ("privacy", "said"),
    [
        ({"epsilon": 2, "answers": 100}, "2 per answer;"),
        ({"mechanism": "none", "answers": 100}, "NOT PRIVATE no guarantee, for any unit"),
        ({"route": "inherited", "unit": "record", "mechanism": "none", "answers": 100},
         "for one record: the teacher's own"),
    ],
)  # fmt: skip
def test_a_plan_shows_its_unit_and_epsilon(privacy, said):
    plan = dpsd.plan({"privacy": privacy})
    text = _read(plan)
    assert text.startswith("Plan") and f"unit one {plan.unit}" in text and said in text
    if plan.private:
        worst = f"{plan.worst_case_epsilon(plan.delta):,.6g} for one record, user or client"
        assert worst in text


def test_a_plan_for_records_has_one_epsilon(tmp_path):
    plan = dpsd.plan({"data": {"name": "mnist"}, "teacher": {"shards": 100}, "privacy": {
        "route": "ensemble", "unit": "record", "mechanism": "noisy_votes", "epsilon": 3,
        "answers": 100}})  # fmt: skip
    assert math.isfinite(plan.epsilon)
    assert f"{plan.unit_epsilon(1e-5):,.6g} for one record" in _read(plan)


def test_run_and_statement(tmp_path_factory):
    run = tiny_run(tmp_path_factory)
    statement = dpsd.load_statement(run)
    assert isinstance(statement, Statement) and statement == run.statement
    assert str(statement) == (run.release / "statement.txt").read_text()
    for shown in (run, statement):
        text = _read(shown)
        assert "NOT PRIVATE" in text and "per answer" in text and "2,000" in text
    assert run.id in _read(run)


def test_what_users_write_is_escaped(tmp_path_factory, tmp_path):
    run = copy_of(tiny_run(tmp_path_factory), tmp_path / EVIL.replace("/", "-"))
    facts = run.statement.facts | {"not_covered": EVIL, "route": f"single{EVIL}"}
    for shown in (run, Statement(facts)):
        assert "<script" not in shown._repr_html_() and "&lt;script" in shown._repr_html_()


def test_an_unfinished_run_says_so(tmp_path_factory, tmp_path):
    run = copy_of(tiny_run(tmp_path_factory), tmp_path / "run")
    (run.release / "statement.json").unlink()
    assert "not finished" in _read(run)
    with pytest.raises(UserError, match=r"statement\.json: missing"):
        read_statement(run.release)
