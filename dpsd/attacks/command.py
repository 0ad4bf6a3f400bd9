"""What `dpsd attack KIND RUN` and `dpsd audit RUN` do: attack, analyse, draw, publish."""

from collections.abc import Callable, Sequence
from typing import Any

from dpsd.attacks.audit.attack import audit as audit_run
from dpsd.attacks.audit.text import audit_card
from dpsd.attacks.context import Attack
from dpsd.attacks.extraction.attack import Choice
from dpsd.attacks.extraction.attack import attack as attack_extraction
from dpsd.attacks.extraction.text import extraction_card
from dpsd.attacks.inversion.attack import attack as attack_inversion
from dpsd.attacks.inversion.text import inversion_card
from dpsd.attacks.membership.attack import attack as attack_membership
from dpsd.attacks.membership.text import membership_card
from dpsd.runs.finish import publish_attack
from dpsd.runs.folder import Run
from dpsd.runs.release import release_folder


def inversion(
    run: Run,
    *,
    profile: str | None = None,
    beside: Sequence[Run] = (),
    clones: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Search for images of private classes, write `private/attacks/inversion`, return the report.

    Args:
        run: finished.
        profile: the split that the run must have been made with.
        beside: other runs of the same split, whose students are attacked too.
        clones: attack copies of teacher and student too, made by so many questions.
        options: fields of `dpsd.attacks.context.Attack`.

    Raises:
        UserError: bad input, in one line.
    """
    context = _context(run, options)
    report = attack_inversion(context, profile=profile, beside=beside, clones=clones)
    return _published(context, "inversion", report, inversion_card)


def membership(
    run: Run, *, fpr: float | None = None, clones: int | None = None, **options: Any
) -> dict[str, Any]:
    """Infer membership, write `private/attacks/membership`, return the report.

    Args:
        run: finished.
        fpr: the false-positive rate that the table is for; default 1 %.
        clones: attack copies too, made by so many questions.
        options: as for `inversion`.

    Raises:
        UserError: bad input, in one line.
    """
    context = _context(run, options)
    report = attack_membership(context, fpr=fpr, clones=clones)
    return _published(context, "membership", report, membership_card)


def extraction(run: Run, *, choice: Choice | None = None, **options: Any) -> dict[str, Any]:
    """Copy the models by asking, write `private/attacks/extraction`, return the report.

    Args:
        run: finished.
        choice: targets, attacks, defences, images asked; default: as the budget says.
        options: as for `inversion`.

    Raises:
        UserError: bad input, in one line.
    """
    context = _context(run, options)
    report = attack_extraction(context, choice)
    return _published(context, "extraction", report, extraction_card)


def audit(run: Run, **options: Any) -> dict[str, Any]:
    """Bound epsilon from below, write `private/attacks/audit`, return the report.

    Args:
        run: finished.
        options: as for `inversion`.

    Raises:
        UserError: bad input, in one line.
    """
    context = _context(run, options)
    return _published(context, "audit", audit_run(context), audit_card)


def _context(run: Run, options: dict[str, Any]) -> Attack:
    """The context of an attack on a run, which must be finished."""
    release_folder(run)
    return Attack(run, **options)


def _published(
    context: Attack, name: str, report: dict[str, Any], section: Callable[[dict[str, Any]], str]
) -> dict[str, Any]:
    """The report; its section goes on the card where the data are public."""
    if context.data_is_public or context.run.data_is_public:
        publish_attack(context.run, name, section(report))
    return report
