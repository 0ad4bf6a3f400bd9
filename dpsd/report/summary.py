"""The first section: five questions of somebody who has to decide, each with a light and a reason.

The limits are choices of ours. They are named in the reasons and in docs/report.md.
"""

from typing import Any

from dpsd.console import percent, show_epsilon
from dpsd.errors import UserError
from dpsd.privacy.verify import verify_release
from dpsd.report.attacks import student_findings
from dpsd.report.card import ATTACKS, UTILITY, measured_sections
from dpsd.report.guarantee import SURE, unit_words
from dpsd.report.parts import Light, Section, Verdict, Verdicts
from dpsd.report.source import Source

FEW_FOUND, MANY_FOUND = 0.1, 0.5
"""Highest true-positive rates at 1 % false positives: up to the first a light is green, up to the
second amber."""
CLOSE, NEAR = 0.05, 0.15
"""Accuracy that the student may lose against its teacher: green, amber."""

_KINDS = {
    "membership": "membership, of records", "inversion": "reconstruction, of classes",
    "audit": "audit",
}  # fmt: skip


def summary_section(source: Source) -> Section:
    """Protected? Stamped? Accurate? Attacked? In order?"""
    lines = [_protected(source.facts), _stamped(source), _accurate(source),
             _attacked(source), _in_order(source)]  # fmt: skip
    private = source.measured("evaluation.json") is not None or bool(student_findings(source))
    return Section("summary", "Summary", private, [Verdicts(lines)])


def _protected(facts: dict[str, Any]) -> Verdict:
    question, g, unit = "Is a single record protected?", facts["guarantee"], facts["unit"]
    if not facts["private"]:
        return Verdict("problem", question, "Not protected", "The run is stamped not private: "
                       "nothing bounds what its release tells of a record.")  # fmt: skip
    rate = g["record_highest_tpr"]
    epsilon = (
        f"epsilon {show_epsilon(g['composed_epsilon'])} {unit_words(facts)} at delta "
        f"{facts['delta']:.3g}, all runs together"
    )
    if rate > SURE:
        why = (
            f"The guarantee is for single answers ({epsilon}). It does not bound what the release "
            "tells of a record."
            if facts["scope"] == "per_answer"
            else f"The guarantee ({epsilon}) is too weak to bound what anybody finds."
        )
        return Verdict("problem", question, "Not protected", why)
    light: Light = "good" if rate <= FEW_FOUND else "caution" if rate <= MANY_FOUND else "problem"
    answer = {"good": "Yes", "caution": "Somewhat"}.get(light, "Hardly")
    whom = f"{unit}s" if facts["scope"] == "total" else "records, users or clients"
    return Verdict(
        light, question, answer,
        f"No test finds more than {percent(rate, 1)} of the {whom} that took part at 1 % false "
        f"alarms ({epsilon}). Green is up to {FEW_FOUND:.0%}, amber up to {MANY_FOUND:.0%}.",
    )  # fmt: skip


def _stamped(source: Source) -> Verdict:
    question, facts = "Does the guarantee hold as stated?", source.facts
    if facts["private"] and ("audit", "violated") in student_findings(source):
        why = "An audit refuted a claim of this run, which errs in at most one audit of 20."
        return Verdict("problem", question, "In doubt", f"{why} Repeat it with another seed.")
    if facts["private"]:
        open_ = facts["allow_open"] or any(r["seeded_noise"] for r in facts["earlier_runs"])
        if open_:
            return Verdict("caution", question, "With a reservation", "The user allowed an open "
                           "release beside this one, or the noise of an earlier run can be "
                           "predicted. The statement says which.")  # fmt: skip
        return Verdict("good", question, "Yes", "Nothing in this run is stamped not private: the "
                       "noise was fresh, and every answer was charged.")  # fmt: skip
    why = (
        "the noise was seeded and can be predicted" if facts["seeded_noise"]
        else "nothing was privatised"
    )  # fmt: skip
    return Verdict("problem", question, "Does not hold", f"The run is stamped NOT PRIVATE: {why}.")


def _accurate(source: Source) -> Verdict:
    question, measured = "Is the student accurate?", source.measured("evaluation.json")
    released = source.facts.get("accuracy", [])
    if measured is None or measured["student"]["accuracy"] is None:
        if released:
            a = released[-1]
            answer = f"{percent(a['low'], 1)} to {percent(a['high'], 1)}"
            why = f"Released with noise, {a['split']} rows; no teacher's accuracy stands beside it."
            return Verdict("unknown", question, answer, why)
        if source.private is None and set(measured_sections(source.release)) & set(UTILITY):
            why = "The data were declared public: what the card says stands under Utility."
            return Verdict("unknown", question, "See below", why)
        where = "measured" if source.private is not None else "released"
        return Verdict(
            "unknown", question, "Not known", f"No accuracy on labelled rows was {where}."
        )
    student, teacher = measured["student"]["accuracy"], measured["teacher"]["accuracy"]
    lost = teacher - student
    light: Light = "good" if lost <= CLOSE else "caution" if lost <= NEAR else "problem"
    answer = {"good": "Yes", "caution": "Somewhat"}.get(light, "Not accurate")
    return Verdict(
        light, question, answer,
        f"{percent(student, 1)} on {measured['rows']:,} {measured['split']} rows; its teacher has "
        f"{percent(teacher, 1)}. Green is up to {100 * CLOSE:.0f} points less than the teacher, "
        f"amber up to {100 * NEAR:.0f}.",
    )  # fmt: skip


def _attacked(source: Source) -> Verdict:
    question = "Do attacks find something?"
    if source.private is None and set(measured_sections(source.release)) & set(ATTACKS):
        return Verdict("unknown", question, "See below", "The data were declared public: what the "
                       "card says of attacks stands under Attacks.")  # fmt: skip
    if source.private is None:
        return Verdict("unknown", question, "Not shown", "What attacks find is measured on private "
                       "data, so that a public report leaves it out.")  # fmt: skip
    found = student_findings(source)
    if not found and source.measured("attacks", "extraction", "report.json") is not None:
        return Verdict("unknown", question, "Extraction alone was tried", "Membership, inversion "
                       "and audit: not tried (dpsd attack all RUN). Extraction: see Attacks; a "
                       "copy is no leak of a record.")  # fmt: skip
    if not found:
        return Verdict("unknown", question, "Not tried", "No attack was run against this student: "
                       "dpsd attack all RUN.")  # fmt: skip
    verdicts = dict(found)
    told = "; ".join(f"{_KINDS[kind]}: {verdict}" for kind, verdict in found)
    untried = [k for k in ("membership", "inversion", "audit") if k not in verdicts]
    told += f". Not tried: {', '.join(_KINDS[k] for k in untried)}" if untried else ""
    if "violated" in verdicts.values():
        return Verdict("problem", question, "A claim is refuted", f"{told}.")
    if "leaks" in verdicts.values():
        return Verdict("problem", question, "They do", f"Verdicts on the student: {told}.")
    if not {"no leak shown", "consistent"} & set(verdicts.values()):
        why = "These attacks could not have found anything, so that they say nothing."
        return Verdict("caution", question, "Without power", f"{told}. {why}")
    light: Light = "caution" if untried else "good"
    why = f"Verdicts on the student: {told}. That proves no protection."
    return Verdict(light, question, "Nothing found", why)


def _in_order(source: Source) -> Verdict:
    question = "Are the papers in order?"
    try:
        verify_release(source.release)
    except UserError as e:
        return Verdict(
            "problem",
            question,
            "Not in order",
            f"dpsd verify refuses the release: {source.told(e)}",
        )
    fits = "Files, figures and signature fit (dpsd verify)"
    if source.facts["owner"] is None:
        why = f"{fits}, but no owner is stated (set owner in the configuration)."
        return Verdict("caution", question, "Nobody is named", why)
    return Verdict("good", question, "Yes", f"{fits}. Responsible: {source.facts['owner']}.")
