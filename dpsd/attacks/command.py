"""What `dpsd attack KIND RUN` does: attack, analyse, draw, and tell where data are public."""

import json
from pathlib import Path
from typing import Any

from dpsd.attacks.inversion import attack, private_folder
from dpsd.attacks.inversion_text import card_section, write_pictures
from dpsd.attacks.membership import attack as attack_membership
from dpsd.attacks.membership_report import card_section as membership_section
from dpsd.attacks.report import analyse
from dpsd.attacks.targets import Say
from dpsd.card import write_card
from dpsd.finish import seal
from dpsd.release import release_folder
from dpsd.run import Run


def inversion(
    run: Run,
    *,
    budget: str | None = None,
    seed: int = 0,
    profile: str | None = None,
    teacher: Path | None = None,
    data: Path | None = None,
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
        analyse_only: no model is touched; the figures are computed anew from `scores.npz`.
        data_is_public: put a section on the run's card (so does a run whose data were declared
            public).
        say: receives lines for the user.

    Raises:
        UserError: bad input, in one line.
    """
    release_folder(run)
    folder = private_folder(run, None)
    if not analyse_only:
        attack(run, budget=budget, seed=seed, profile=profile, teacher=teacher, data=data, say=say)
    report = analyse(folder)
    write_pictures(folder)
    if data_is_public or run.data_is_public:
        publish(run, "inversion", card_section(report))
    return report


def membership(run: Run, *, data_is_public: bool = False, **options: Any) -> dict[str, Any]:
    """Attack a run, write `private/attacks/membership`, and return the report.

    Args:
        run: finished.
        data_is_public: as for `inversion`.
        options: of `dpsd.attacks.membership.attack`.

    Raises:
        UserError: bad input, in one line.
    """
    release_folder(run)
    report = attack_membership(run, **options)
    if data_is_public or run.data_is_public:
        publish(run, "membership", membership_section(report))
    return report


def publish(run: Run, attack_name: str, section: str) -> None:
    """Put a section on the card of a run whose data are public, and seal its release again.

    The section is kept as `private/attacks/<name>/card.md`, so that a card that is written anew
    (by `dpsd evaluate`) has it too.
    """
    (run.private / "attacks" / attack_name / "card.md").write_text(section + "\n")
    measured = run.private / "evaluation.json"
    evaluation = json.loads(measured.read_text()) if measured.is_file() else None
    write_card(run, json.loads((run.release / "statement.json").read_text()), evaluation)
    seal(run)
