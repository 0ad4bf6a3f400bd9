"""The section on inversion attacks in docs/results.md, from docs/results/inversion/."""

import json
from pathlib import Path

from render_tables.common import table

NAMES = {"teacher": "teacher", "student": "student", "noise_free": "noise-free student",
         "control": "control, no defence"}  # fmt: skip
FLOORS = {
    "draws": "floor: prior alone", "untrained": "floor: untrained",
    "permuted": "floor: permuted labels",
}  # fmt: skip
COLUMNS = ("attack", "model", "accuracy", "J1", "J2", "both", "advantage", "knows", "gap p",
           "PSNR", "SSIM", "verdict")  # fmt: skip


def inversion(folder: Path) -> list[str]:
    """The section on inversion attacks from its cells; nothing where there are none."""
    cells = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not cells:
        return []
    return [
        "## Inversion attacks",
        "",
        "Shares of reconstructions that both judges take for the private class asked for, and the",
        "advantage over the best of three floors (95 %, bootstrap over classes and seeds);",
        "`knows` is the accuracy on real private images of a network that saw the reconstructions",
        "alone; `gap p` the permutation p-value that they lie nearer to training than to held-out",
        "images; PSNR (dB) and SSIM are to the nearest training image. An advantage speaks of",
        "classes; a small `gap p` would speak of records, but only where the floors that know no",
        "private image (prior alone, untrained) have none. Every eps names its unit; one answer's",
        "eps protects no record.",
        "",
        *(line for cell in cells for line in _cell(cell)),
    ]


def _cell(cell: dict) -> list[str]:
    """One attacked run: its setting, its seconds, its findings."""
    r = cell["report"]
    g, j, b, held = r["guarantee"], r["judges"], r["budget"], r["held_out_likeness"]
    eps = "no guarantee" if g["epsilon"] is None else f"eps {g['epsilon']:g} per {g['unit']}"
    beside = [f"- {name}: {t['what']}" for name, t in r["targets"].items()
              if name not in NAMES and name not in FLOORS]  # fmt: skip
    costs = [
        f"{name}: prior {a['cost']['prior_seconds']:.0f}"
        f"{' (cached)' if a['cost']['prior_from_cache'] else ''}, search "
        f"{a['cost']['search_seconds']:.0f}"
        for name, a in r["attacks"].items()
    ]
    rows = [row for attack, a in r["attacks"].items() for row in _rows(attack, a, r["targets"])]
    unlike = [f"- {note}" for note in r["notes"] if "gap p" in note]
    return [
        f"### {cell['runs'][0]}, {eps}, {cell['answers']:,} answers: budget {r['budget_name']}",
        "",
        f"{b['seeds']} seeds, {r['images_per_target']} images a "
        f"target, {b['steps']} gradient steps; {_wall(r)}. Judges on real "
        f"private images ({j['measured_on']}): {100 * j['network']:.1f} % and "
        f"{100 * j['neighbours']:.1f} %, both {100 * j['both']:.1f} %; chance "
        f"{100 * r['chance']:.1f} %. Headline attack: {r['headline_attack']}. "
        f"Held-out real images: PSNR {held['psnr']:.1f}, SSIM {held['ssim']:.2f}.",
        "",
        *([*beside, ""] if beside else []),
        f"Seconds for all targets, on {cell['machine']['threads']} thread(s): {'; '.join(costs)}.",
        "",
        *table(COLUMNS, rows),
        "",
        *([*unlike, ""] if unlike else []),
    ]


def _rows(attack: str, found: dict, targets: dict) -> list[list[str]]:
    """The rows of one attack: the models, then the baselines."""
    rows = []
    for target, row in found["targets"].items():
        advantage, knows, likeness = row["advantage"]["both"], row["knowledge"], row["likeness"]
        low, high = advantage["interval"]
        least, most = knows["interval"]
        rows.append([
            attack, NAMES.get(target, target), f"{targets[target]['accuracy_holdout']:.3f}",
            *_judged(row["rates"]), f"{advantage['value']:+.2f} [{low:+.2f}, {high:+.2f}]",
            f"{knows['accuracy']:.2f} [{least:.2f}, {most:.2f}]",
            f"{row['memorisation']['p_value']:.3f}", f"{likeness['psnr']:.1f}",
            f"{likeness['ssim']:.2f}", row["verdict"],
        ])  # fmt: skip
    for floor, row in found["floors"].items():
        gap = f"{row['memorisation']['p_value']:.3f}"
        rows.append([attack, FLOORS[floor], "", *_judged(row), "", "", gap, "", "", ""])
    return rows


def _judged(rates: dict) -> list[str]:
    """Shares of both judges and of both at once, the last with its interval."""
    low, high = rates["both"]["interval"]
    single = [f"{rates[judge]['rate']:.2f}" for judge in ("network", "neighbours")]
    return [*single, f"{rates['both']['rate']:.2f} [{low:.2f}, {high:.2f}]"]


def _wall(report: dict) -> str:
    """Seconds of an attack; of an attack that was resumed, the seconds of its parts."""
    costs = [a["cost"] for a in report["attacks"].values()]
    parts = sum(c["prior_seconds"] + c["search_seconds"] for c in costs)
    whole = report["seconds"]["all"]
    return f"{whole:.0f} s" if whole >= parts else f"{parts:.0f} s of searches, in several goes"
