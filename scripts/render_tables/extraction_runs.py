"""The section on teacher or student as the victim, and on what copies leak."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from bench_tables.extraction_runs import CELLS, QUESTIONS, current_hash

from render_tables.common import not_shown, percent, sift, table

_MODELS = (
    ("teacher", "run teacher, ordinary", "teacher"),
    ("student", "run student, ordinary", "student"),
    ("copy of the teacher", "clone of run teacher, ordinary", "clone of teacher"),
    ("copy of the student", "clone of run student, ordinary", "clone of student"),
    ("overfit teacher, mislabelled rows", "profile teacher, canaries", ""),
    ("its student, mislabelled rows", "profile student, canaries", ""),
    ("its copy, mislabelled rows", "clone of profile teacher, canaries", ""),
)
"""Title, name among the targets of membership, and name among those of inversion."""


def extraction_runs(folder: Path) -> list[str]:
    """From extraction-runs/*.json; nothing without results."""
    results, stale = sift(folder.glob("*-seed*.json"), CELLS, current_hash)
    if not results:
        return []
    runs = {name: results[name] for name in CELLS if name in results}
    copies = [(_short(found), victim, *_copied(found, victim))
              for found in runs.values() for victim in found[0]["copies"]]  # fmt: skip
    leaks = [(_short(found), title, *_leaks(found, member, inverted))
             for found in runs.values() if "membership" in found[0]
             for title, member, inverted in _MODELS]  # fmt: skip
    seeds = max(len(found) for found in runs.values())
    asked = next(iter(runs.values()))[0]["ladder"][-1]
    return [
        "### Teacher or student as the victim, and what copies leak (digits 5 to 9)",
        "",
        f"`scripts/bench extraction-runs`, {'one seed' if seeds == 1 else f'{seeds} seeds'}, "
        f"budget fast: {asked} questions about other rows of the same problem, without a defence; "
        "101 test rows. The best attack is the one with the highest mean agreement. An epsilon is "
        "the claim of the run.",
        "",
        *table(("run", "victim", "its accuracy, %", "best attack", "agreement, %",
                "accuracy of the copy, %"), copies),
        "",
        f"Membership and inversion on the models and on copies of them by {QUESTIONS:,} questions, "
        "none of them about a private row. Membership: AUC of the strongest attack on ordinary "
        "rows (50 is chance, unit one record; the strongest of several is above it by chance), and "
        "on mislabelled rows that were planted in a teacher which was trained for long. "
        "Inversion: share of reconstructions that two judges take for the private class, the "
        "strongest attack; floor: images that were drawn without the model. Where the teacher was "
        "trained by DP-SGD, inversion attacks an undefended model of the same rows in its place.",
        "",
        *table(("run", "model", "membership, AUC in %", "inversion, %", "floor, %"), leaks),
        "",
        *not_shown(stale),
    ]  # fmt: skip


def _short(found: Sequence[dict]) -> str:
    """The route and what it claims."""
    return str(found[0]["title"]).partition("), ")[2]


def _copied(found: Sequence[dict], victim: str) -> tuple[str, str, str, str]:
    """The victim's accuracy, the best attack, its agreement and accuracy."""
    own = [f["copies"][victim] for f in found]
    names = [a for a in own[0]["attacks"] if all(a in o["attacks"] for o in own)]
    best = max(names, key=lambda a: statistics.fmean(o["attacks"][a]["agreement"] for o in own))
    return (
        percent([o["accuracy"] for o in own]), best,
        *(percent([o["attacks"][best][key] for o in own]) for key in ("agreement", "accuracy")),
    )  # fmt: skip


def _leaks(found: Sequence[dict], member: str, inverted: str) -> tuple[str, str, str]:
    """AUC of membership, the strongest inversion, and its floor."""
    auc = percent([f["membership"][member]["auc"] for f in found if member in f["membership"]])
    if not inverted:
        return auc, "-", "-"
    attacks = {name: [f["inversion"][name] for f in found] for name in found[0]["inversion"]}
    rates = {name: [o[inverted]["rate"] for o in own] for name, own in attacks.items()}
    best = max(rates, key=lambda name: statistics.fmean(rates[name]))
    return auc, percent(rates[best]), percent([o["floor"]["rate"] for o in attacks[best]])
