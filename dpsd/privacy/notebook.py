"""Plan and statement as a notebook shows them: small tables, every cell escaped."""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsd.console import show_epsilon as show
from dpsd.errors import UserError
from dpsd.files import read_json
from dpsd.privacy.statement_text import statement_text
from dpsd.tables import Table

if TYPE_CHECKING:
    from dpsd.privacy.plan import Plan


@dataclass(frozen=True)
class Statement:
    """What a release says of itself. `str` gives its text; a notebook shows both.

    Attributes:
        facts: all figures and fixed sentences, as `statement.json` holds them.
    """

    facts: dict[str, Any]

    def __str__(self) -> str:
        return statement_text(self.facts)

    def _repr_html_(self) -> str:
        text = html.escape(str(self))
        return f"{page('Statement', statement_rows(self.facts))}<pre>{text}</pre>"


def read_statement(release: Path) -> Statement:
    """The statement in a release folder.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = release / "statement.json"
    if not path.is_file():
        raise UserError(f"{path}: missing; accepted: the release folder of a finished run")
    return Statement(read_json(path))


def statement_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """What a reader looks for first: unit, epsilon, delta, answers."""
    g, unit = facts["guarantee"], facts["unit"]
    per = f"for one {unit}" if facts["scope"] == "total" else "per answer"
    rows = [("route", facts["route"]), ("unit", f"one {unit}"),
            ("epsilon", f"{show(g['epsilon'])} {per} at delta {facts['delta']:g}")]  # fmt: skip
    if facts["scope"] != "total":
        worst = f"{show(g['worst_case_epsilon'])} for one record, user or client"
        rows.append(("worst case", f"{worst} at delta {facts['delta']:g}"))
    rows.append(("answers", f"{facts['answers_made']:,}"))
    return rows if facts["private"] else [("NOT PRIVATE", "no guarantee, for any unit"), *rows]


def plan_html(plan: "Plan") -> str:
    """A plan as a table; the epsilon of each delta stands beside its unit."""
    whole = plan.scope == "total"
    rows = [
        ("route", plan.route), ("unit", f"one {plan.unit}"),
        ("neighbouring worlds", plan.relation), ("mechanism", plan.mechanism.name),
        ("answers", f"{plan.answers:,} at most, {plan.rounds} rounds"),
    ]  # fmt: skip
    unread = plan.route == "inherited" and plan.training is None
    for delta in () if unread else plan.deltas():
        e, worst = plan.unit_epsilon(delta), plan.worst_case_epsilon(delta)
        text = f"{show(_finite(e))} {f'for one {plan.unit}' if whole else 'per answer'}"
        if not whole:
            text += f"; {show(_finite(worst))} for one record, user or client in the worst case"
        rows.append((f"epsilon at delta {delta:.3g}", text))
    if unread:
        rows.append(("epsilon", "for one record: the teacher's own, read when the run starts"))
    elif not plan.private:
        rows.insert(0, ("NOT PRIVATE", "no guarantee, for any unit"))
    return page("Plan", rows)


def page(title: str, rows: list[tuple[str, str]]) -> str:
    """A titled table of names and values, escaped."""
    return Table(("", ""), rows, align="ll", title=title).html()


def _finite(x: float) -> float | None:
    return None if x == float("inf") else x
