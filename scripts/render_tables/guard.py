"""The section on the guard: false alarms of honest accounts, attacks that are noticed."""

import json
import statistics
from pathlib import Path

from scipy.stats import beta

from render_tables.common import read, table
from render_tables.guard_many import memory, scans, split, value

_POOLS = {
    "fashion": "Fashion-MNIST", "strokes": "dpsd's strokes",
    "honest": "MNIST rows like those of honest users",
}  # fmt: skip


def guard(folder: Path) -> list[str]:
    """The section from guard/*.json; nothing where nothing was measured."""
    honest = read(folder / "honest.json")
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("attacks-*.json"))]
    if not honest and not found:
        return []
    lines = [
        "## The guard: who asks (simulated traffic about MNIST)",
        "",
        "`scripts/bench guard` replays questions through the detectors of `dpsd serve`. Traffic is "
        "simulated: kinds of honest accounts and the strengths of alterations are those of "
        "`dpsd/guard/detection/traffic.py` and `dpsd/serving/calibration.py`, the same kinds in "
        "calibration and test, about disjoint rows.",
        "",
    ]
    served = read(folder / "serving.json")
    return [
        *lines, *(_honest(honest) if honest else []), *(_attacks(found) if found else []),
        *split(folder), *value(folder), *memory(folder), *scans(folder),
        *(_serving(served) if served else []),
    ]  # fmt: skip


def _serving(found: dict) -> list[str]:
    """What the guard costs: latency at fixed rates, and the most requests a second."""
    bare = found["services"]["bare"]["throughput"]
    rows = [
        (name, *(" / ".join(f"{s[rate][p]:.1f}" for p in ("p50", "p95", "p99"))
                 for rate in ("50", "200")),
         f"{s['throughput']:,.0f}", f"{100 * s['throughput'] / bare:.0f}")
        for name, s in found["services"].items()
    ]  # fmt: skip
    return [
        "`scripts/bench serving`: one image a request, service and client on "
        f"{found['machine']['cores']} cores, {found['seconds_each']} seconds each, twice in turn.",
        "",
        *table(("service", "ms at 50 a second, p50 / p95 / p99", "ms at 200 a second",
                "requests a second at most", "% of bare"), rows),
        "",
    ]  # fmt: skip


def _honest(found: dict) -> list[str]:
    rows = [
        (name, f"{r['accounts']:,}", f"{r['alarms']:,}", f"{100 * r['rate']:.3f}",
         f"{100 * r['upper']:.3f}")
        for name, r in ({"all": found["all"]} | found["groups"]).items()
    ]  # fmt: skip
    return [
        f"False alarms of held-out honest accounts in a month, {found['questions']:,} questions; "
        f"calibrated on {found['calibration']:,} other accounts for a rate of "
        f"{100 * found['alpha']:g} %.",
        "",
        *table(("honest accounts", "accounts", "alarms", "% of accounts",
                "upper bound, % (Clopper-Pearson, 97.5 %)"), rows),
        "",
    ]  # fmt: skip


def _attacks(found: list[dict]) -> list[str]:
    lines = [
        "One account asks what an attack asks, with the guard in a dry run; the clone is the one "
        "that the undefended attack makes. Noticed: the alarm comes before the clone reaches 90 % "
        "of the victim's accuracy, at a budget that was measured and still below. Too close to "
        "tell: the alarm comes before the first measured budget at which it has 90 %, and after "
        "the last at which it had not. Runs whose clone never reaches 90 % are not counted.",
        "",
    ]
    rows, totals = [], {}
    for pool in _POOLS:
        runs = [r for f in found if f["pool"] == pool for r in f["runs"] if "steps" in r]
        for attack in dict.fromkeys(r["attack"] for r in runs):
            mine = [r for r in runs if r["attack"] == attack]
            counted = [r for r in mine if r["reached_90"]]
            noticed = [r for r in counted if noticed_before(r)]
            close = [r for r in counted if r not in noticed and _before(r, "reached_90")]
            totals.setdefault(pool, [0, 0, 0])
            for i, some in enumerate((noticed, close, counted)):
                totals[pool][i] += len(some)
            alarms = sorted(r["alarm_at"] for r in mine if r["alarm_at"])
            rows.append((
                _POOLS[pool], attack, f"{len(noticed)} of {len(counted)}", str(len(close)),
                str(len(mine)),
                f"{statistics.median(alarms):,.0f}" if alarms else "-",
                f"{alarms[int(0.9 * (len(alarms) - 1) + 0.5)]:,}" if alarms else "-",
                _reached(counted),
            ))  # fmt: skip
    columns = ("asked about", "attack", "noticed", "too close to tell", "runs",
               "questions until the alarm, median", "90th percentile",
               "clone at 90 % after")  # fmt: skip
    lines += [*table(columns, rows), ""]
    for pool, (k, close, n) in totals.items():
        if n:
            lower = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
            lines += [f"{_POOLS[pool]}: {k} of {n} noticed, at least {100 * lower:.1f} % "
                      f"(Clopper-Pearson, 97.5 %), {close} too close to tell.", ""]  # fmt: skip
    return lines


def noticed_before(run: dict) -> bool:
    """Whether the alarm came while the clone was still below 90 %."""
    return _before(run, "last_below_90")


def _before(run: dict, key: str) -> bool:
    return run["alarm_at"] is not None and run["alarm_at"] <= run[key]


def _reached(runs: list[dict]) -> str:
    values = sorted(r["reached_90"] for r in runs)
    if not values:
        return "not"
    return f"{values[0]:,}" if values[0] == values[-1] else f"{values[0]:,} to {values[-1]:,}"
