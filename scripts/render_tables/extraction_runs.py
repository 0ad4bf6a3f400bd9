"""The section on teacher or student as the victim, and on what copies leak."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from bench_tables.extraction_runs import CELLS, QUESTIONS, current_hash

from render_tables.common import not_shown, percent, sift, table

_MODELS = ("teacher", "student", "clone of teacher", "clone of student")


def extraction_runs(folder: Path) -> list[str]:
    """From extraction-runs/*.json; nothing without results."""
    results, stale = sift(folder.glob("*-seed*.json"), CELLS, current_hash)
    if not results:
        return []
    runs = {name: results[name] for name in CELLS if name in results}
    copies = [(found[0]["title"], victim, *_copied(found, victim))
              for found in runs.values() for victim in found[0]["copies"]]  # fmt: skip
    leaks = [(found[0]["title"], model, *_leaks(found, model))
             for found in runs.values() if "membership" in found[0]
             for model in _MODELS]  # fmt: skip
    seeds = max(len(found) for found in runs.values())
    asked = next(iter(runs.values()))[0]["ladder"][-1]
    return [
        "### Teacher or student as the victim, and what copies leak (digits 5 to 9)",
        "",
        f"`scripts/bench extraction-runs`, at most {seeds} seeds, budget fast: {asked} questions "
        "about other rows of the same problem, without a defence; 101 test rows. The best attack "
        "is the one with the highest mean agreement. An epsilon is the claim of the run.",
        "",
        *table(("run", "victim", "its accuracy, %", "best attack", "agreement, %",
                "accuracy of the copy, %"), copies),
        "",
        f"Membership and inversion on the models and on copies of them by {QUESTIONS:,} questions, "
        "none of them about a private row. Membership: AUC of the strongest attack on ordinary "
        "rows (50 is chance, unit one record; the strongest of several is above it by chance). "
        "Inversion: share of reconstructions that two judges take for the private class, the "
        "strongest attack; floor: images that were drawn without the model.",
        "",
        *table(("run", "model", "membership, AUC in %", "inversion, %", "floor, %"), leaks),
        "",
        *not_shown(stale),
    ]  # fmt: skip


def _copied(found: Sequence[dict], victim: str) -> tuple[str, str, str, str]:
    """The victim's accuracy, the best attack, its agreement and accuracy."""
    own = [f["copies"][victim] for f in found]
    names = [a for a in own[0]["attacks"] if all(a in o["attacks"] for o in own)]
    best = max(names, key=lambda a: statistics.fmean(o["attacks"][a]["agreement"] for o in own))
    return (
        percent([o["accuracy"] for o in own]), best,
        *(percent([o["attacks"][best][key] for o in own]) for key in ("agreement", "accuracy")),
    )  # fmt: skip


def _leaks(found: Sequence[dict], model: str) -> tuple[str, str, str]:
    """AUC of membership, the strongest inversion, and its floor."""
    known = f"run {model}, ordinary", f"{model}, ordinary"
    auc = [f["membership"][key]["auc"] for f in found for key in known if key in f["membership"]]
    attacks = {name: [f["inversion"][name] for f in found] for name in found[0]["inversion"]}
    rates = {name: [o[model]["rate"] for o in own] for name, own in attacks.items()
             if all(model in o for o in own)}  # fmt: skip
    best = max(rates, key=lambda name: statistics.fmean(rates[name]))
    return percent(auc), percent(rates[best]), percent([o["floor"]["rate"] for o in attacks[best]])
