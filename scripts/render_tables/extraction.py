"""The section on extraction: what attacks copy, under which defence, and what the defence costs."""

import statistics
from pathlib import Path

from bench_tables.extraction import cells, current_hash

from dpsd.attacks.extraction.report import BOUNDARY
from dpsd.attacks.statistics import wilson
from render_tables.common import not_measured, not_shown, percent, sift, table


def extraction(folder: Path) -> list[str]:
    """The section; nothing without results."""
    known = cells()
    results, stale = sift(folder.glob("*-seed*.json"), known, current_hash)
    if not results:
        return []
    lines = [
        "## Extraction: copies by asking",
        "",
        "`scripts/bench extraction`: a victim that was trained on the first half of the training",
        "rows is copied through a metered endpoint. Agreement is with the victim's answers before",
        "any defence, on test rows. The number of answers fixes how long a clone is trained, and",
        "nothing chooses among clones. The price is what an honest user pays on the same rows. No",
        "figure here is about privacy.",
        "",
    ]
    for problem in dict.fromkeys(cell["problem"] for cell in known.values()):
        own = {n: c for n, c in known.items() if c["problem"] == problem and n in results}
        if own:
            lines += _problem(own, results)
    return [*lines, *not_measured(known, results), *not_shown(stale)]


def _problem(own: dict[str, dict], results: dict[str, list[dict]]) -> list[str]:
    first = next(iter(own.values()))
    runs = [run for name in own for run in results[name]]
    victim = [run["targets"]["victim"]["accuracy"] for run in results[next(iter(own))]]
    ladder = first["ladder"]
    attacks = list(dict.fromkeys(c["attack"] for run in runs for c in run["cells"]))
    defences = {name: cell["defence"] for name, cell in own.items()}
    best = {name: _best(results[name], attacks) for name in own}
    plain = next((name for name, cell in own.items() if cell["defence"] == "none"), None)
    rows = [
        [attack, *(_ends(results[name], attack) for name in own),
         *(_plain(results[plain], attack) if plain else ())]
        for attack in attacks
    ]  # fmt: skip
    rows.append(
        ["the best attack", *(percent([best[n][1]]) for n in own), *([""] * 3 * bool(plain))]
    )
    price = [
        [defences[name], *(percent([run["prices"][0][key] for run in results[name]])
                           for key in ("accuracy_before", "accuracy", "flips")),
         f"{statistics.fmean(run['prices'][0]['l1'] for run in results[name]):.3f}",
         f"{best[name][0]}, {percent([best[name][1]])}", _taken(best, own, plain, name)]
        for name in own if results[name][0]["prices"]
    ]  # fmt: skip
    minutes = sum(sum(run.get("seconds", {}).values()) for run in runs) / 60
    return [
        f"### {first['title'].removesuffix(', ' + first['defence'])}",
        "",
        f"Victim {first['victim']['model']}, accuracy {percent(victim)} %; clones "
        f"{first['clone']}; agreement in percent after {ladder[-1]:,} asked images, by defence, on "
        f"{runs[0]['rows']:,} test rows."
        + (_of_plain(runs) if plain else "")
        + (f" It took {minutes:.0f} minutes of a core, some beside other work." if minutes else ""),
        "",
        *table(("attack", *defences.values(), *(_PLAIN if plain else ())), rows),
        "",
        *(table(("defence", "accuracy without", "with", "top class changed, %", "mean L1",
                 "best attack, agreement", "points taken from the best"), price) if price else []),
        *([""] if price else []),
    ]  # fmt: skip


def _last(runs: list[dict], attack: str) -> list[dict]:
    return [c["curve"][-1] for run in runs for c in run["cells"]
            if c["attack"] == attack and c["curve"]]  # fmt: skip


def _ends(runs: list[dict], attack: str) -> str:
    return percent([end["agreement"] for end in _last(runs, attack)])


def _best(runs: list[dict], attacks: list[str]) -> tuple[str, float]:
    ends = {a: [e["agreement"] for e in _last(runs, a)] for a in attacks}
    means = {a: statistics.fmean(values) for a, values in ends.items() if values}
    name = max(means, key=lambda a: means[a])
    return name, means[name]


def _taken(
    best: dict[str, tuple[str, float]], own: dict[str, dict], plain: str | None, name: str
) -> str:
    """Points of agreement by which a defence lowers the best attack, where both ran all attacks."""
    if plain is None or own[plain]["attacks"] != own[name]["attacks"]:
        return "-"
    return f"{100 * (best[plain][1] - best[name][1]):.2f}"


_PLAIN = ("near the boundary", "% of the victim", "90 % after at most")


def _of_plain(runs: list[dict]) -> str:
    """What the columns `_PLAIN` are."""
    near = sorted({run["targets"]["victim"]["boundary_rows"] for run in runs})
    rows = " to ".join(str(n) for n in dict.fromkeys((near[0], near[-1])))
    return (
        f" Last columns, without a defence: agreement on the {rows} rows near the boundary (the "
        f"victim's two likeliest probabilities differ by less than {BOUNDARY:g}), of one seed with "
        "its 95 % interval (Wilson); the clone's accuracy in percent of the victim's; and after "
        "how many asked images, at most, it had 90 % of the victim's accuracy: the first step of "
        "the ladder that reached it."
    )


def _plain(runs: list[dict], attack: str) -> list[str]:
    """Boundary agreement, share of the victim's accuracy, images until 90 % of it; undefended."""
    if not _last(runs, attack):
        return ["-", "-", "-"]
    shares = [
        c["curve"][-1]["accuracy"] / run["targets"]["victim"]["accuracy"]
        for run in runs for c in run["cells"] if c["attack"] == attack and c["curve"]
    ]  # fmt: skip
    until = [c["queries_to"]["0.9"] for run in runs for c in run["cells"]
             if c["attack"] == attack]  # fmt: skip
    reached = [n for n in until if n is not None]
    most = f"{max(reached):,}" if len(reached) == len(until) else "not"
    return [_near(runs, attack), percent(shares), most]


def _near(runs: list[dict], attack: str) -> str:
    """Agreement near the boundary; of one seed with its interval."""
    found = [(end["boundary_agreement"], run["targets"]["victim"]["boundary_rows"])
             for run in runs for end in _last([run], attack)]  # fmt: skip
    rates = [rate for rate, rows in found if rows]
    if len(rates) != 1:
        return percent(rates)
    ((rate, rows),) = (pair for pair in found if pair[1])
    low, high = wilson(round(rate * rows), rows)
    return f"{percent(rates)} ({100 * low:.0f} to {100 * high:.0f})"
