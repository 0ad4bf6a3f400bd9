"""What `dpsd attack KIND RUN` and `dpsd audit RUN` do: attack, analyse, draw, publish."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dpsd.attacks.audit.attack import audit as audit_run
from dpsd.attacks.audit.report import card_section as audit_section
from dpsd.attacks.inversion.attack import attack
from dpsd.attacks.inversion.report import analyse
from dpsd.attacks.inversion.text import card_section, write_pictures
from dpsd.attacks.membership.attack import attack as attack_membership
from dpsd.attacks.membership.report import card_section as membership_section
from dpsd.attacks.store import attack_folder
from dpsd.console import Say
from dpsd.runs.finish import publish_attack
from dpsd.runs.folder import Run
from dpsd.runs.release import release_folder


def inversion(
    run: Run,
    *,
    budget: str | None = None,
    seed: int = 0,
    profile: str | None = None,
    teacher: Path | None = None,
    data: Path | None = None,
    beside: Sequence[Run] = (),
    analyse_only: bool = False,
    data_is_public: bool = False,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Attack a run, write `private/attacks/inversion`, and return the report.

    Args:
        run: finished.
        budget: fast | standard | full; default: the run's `attacks.budget`.
        seed: of the first of the budget's seeds.
        profile: the split that the run must have been made with.
        teacher: the teacher's folder where it has been moved.
        data: another `data.root`.
        beside: other runs of the same split, whose students stand in the same table.
        analyse_only: no model is touched; the figures are computed anew from `scores.npz`.
        data_is_public: put a section on the run's card (so does a run whose data were declared
            public).
        say: receives lines for the user.

    Raises:
        UserError: bad input, in one line.
    """
    release_folder(run)
    folder = attack_folder(run, "inversion")
    if not analyse_only:
        attack(run, budget=budget, seed=seed, profile=profile, teacher=teacher, data=data,
               beside=beside, say=say)  # fmt: skip
    report = analyse(folder)
    write_pictures(folder)
    return _published(run, "inversion", report, card_section, data_is_public)


def membership(run: Run, *, data_is_public: bool = False, **options: Any) -> dict[str, Any]:
    """Attack a run, write `private/attacks/membership`, and return the report.

    Args:
        run: finished.
        data_is_public: as for `inversion`.
        options: of `dpsd.attacks.membership.attack.attack`.

    Raises:
        UserError: bad input, in one line.
    """
    release_folder(run)
    report = attack_membership(run, **options)
    return _published(run, "membership", report, membership_section, data_is_public)


def audit(run: Run, *, data_is_public: bool = False, **options: Any) -> dict[str, Any]:
    """Audit a run, write `private/attacks/audit`, and return the report.

    Args:
        run: finished.
        data_is_public: as for `inversion`.
        options: of `dpsd.attacks.audit.attack.audit`.

    Raises:
        UserError: bad input, in one line.
    """
    release_folder(run)
    report = audit_run(run, **options)
    return _published(run, "audit", report, audit_section, data_is_public)


def _published(
    run: Run,
    kind: str,
    report: dict[str, Any],
    section: Callable[[dict[str, Any]], str],
    data_is_public: bool,
) -> dict[str, Any]:
    """The report; its section is put on the card where the data may be spoken of."""
    if data_is_public or run.data_is_public:
        publish_attack(run, kind, section(report))
    return report
