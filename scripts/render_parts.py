"""Parts of docs/results.md beside the main table: speed, smoke test, curve, published figures."""

import json
from pathlib import Path

PUBLISHED = """## Published figures, for comparison

| source | data | eps as published | accuracy |
|---|---|---|---|
| DPSD (Liu et al. 2026, arXiv 2601.19090), the paper that dpsd follows | MNIST | 1, unit not known to us | 96.03 % |
| the same | MNIST | 10, unit not known to us | 97.85 % |
| DP-SGD (TensorFlow Privacy, `tutorials/README.md`) | MNIST | 1.20 at delta 1e-5, unit record | 95.0 % |
| the same | MNIST | 2.92 at delta 1e-5, unit record | 96.6 % |
| the same | MNIST | 9.74 at delta 1e-5, unit record | 97.3 % |
| teacher, student, discriminator (Gao and Zhuo 2020, arXiv 2004.04631) | MNIST | 1.93 at delta 1e-5, unit as that paper defines it | 0.89 points below its teacher |

Whether the DPSD paper counts its eps per answer, per record or over all queries is not known to us,
so its figures are not comparable with ours as guarantees. DP-SGD's eps is for a whole record (one
training example added or removed), over the whole training: a far stronger promise than ours. Ours
are for the unit *answer*: they do not protect a record (see the README, "What epsilon means here").
"""  # noqa: E501


def ensemble_speed(path: Path) -> list[str]:
    """How much faster an ensemble trains together; nothing where the file is missing."""
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    together, loop, vmap = (found[how] for how in ("together", "loop", "vmap"))
    each = together["seconds"] / together["teachers"]
    by_loop, by_vmap = (part["seconds"] / part["teachers"] / each for part in (loop, vmap))
    right = [f"{100 * part['member']:.1f}" for part in (together, loop, vmap)]
    return [
        f"`scripts/bench_ensemble speed --whole`: {together['teachers']} `cnn-tiny` teachers of",
        f"MNIST train together in {together['seconds']:.0f} s on "
        f"{found['machine']['threads']} threads, {by_loop:.2f} times as fast as one after another",
        f"(must: 3) and {by_vmap:.2f} times as fast as under `torch.func.vmap`, both timed on",
        f"{loop['teachers']} teachers. One teacher is right on {right[0]} % of the holdout rows, "
        f"of the others {right[1]} and {right[2]} %.",
        "",
    ]


def speed(path: Path) -> list[str]:
    """The section on speed from speed.json; nothing where it is missing."""
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    large, rate = found["large"], found["large"]["images_per_second"]
    names = {
        "synthesizer": "synthesizer, with choosing what to ask",
        "teacher": "teacher's forward passes",
        "prior": "student's forward passes as a prior",
        "oracle": "oracle without both: noise, accounting, ledger, hashing",
        "student": "student's training in the rounds",
        "refit": "fresh student's passes over all answers",
    }
    ratio, share = found["time_ratio_4N_to_N"], large["share"]
    rows = [(title, rate[name], share[name]) for name, title in names.items()]
    rows += [("pictures, checkpoints and the rest", None, 1 - sum(share.values())),
             ("the run", rate["run"], 1.0)]  # fmt: skip
    small = found["small"]["answers"]
    return [
        "## Speed and memory",
        "",
        f"`scripts/bench_speed` with `configs/{found['config']}` and {large['answers']:,} answers,",
        f"{found['machine']['threads']} threads. Candidates that were drawn and not asked do not "
        "count as images.",
        "",
        "| part | images a second | share of the time |",
        "|---|---|---|",
        *(f"| {name} | {'-' if n is None else f'{n:,.0f}'} | {100 * part:.1f} % |"
          for name, n, part in rows),
        "",
        f"The oracle's share of the rounds, without the passes at the end, is "
        f"{100 * found['oracle_share_of_rounds']:.1f} % (must: at most 5 %). "
        f"{large['answers']:,} answers take {ratio:.2f} times as long as {small:,} (must: 3.4 to "
        f"4.6). Peak memory {found['peak_GiB']:.2f} GiB (must: under 4).",
        "",
    ]  # fmt: skip


def imagenet(path: Path) -> list[str]:
    """The section on the ImageNet-shaped smoke test; nothing where it is missing."""
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    return [
        "## Smoke test at ImageNet shape",
        "",
        f"`scripts/smoke_imagenet`: a random {found['teacher']} transcribed into a "
        f"{found['student']}, {found['classes']:,} classes,",
        f"images of {' x '.join(map(str, found['shape']))}, {found['rounds']} rounds, "
        f"{found['answers']} answers in all, {found['precision']}, {found['machine']['threads']} "
        f"thread(s): {found['seconds']:.0f} s,",
        f"of which {found['processor_seconds']:.0f} s of processor time; peak memory "
        f"{found['peak_GiB']:.2f} GiB. It shows that the shape fits; with a random",
        "teacher there is nothing to learn.",
        "",
    ]


def curve(curves: list[dict], titles: dict[str, str]) -> list[str]:
    """The section on accuracy over rounds, with a table of some of the points."""
    if not curves:
        return []
    parts = [0.1, 0.25, 0.5, 0.75, 1.0]
    lines = [
        "## Accuracy over the rounds",
        "",
        f"Holdout rows ({curves[0]['rows']:,}), one seed, measured by the benchmark on the private "
        "side",
        "after each round; the released student is the one refitted to all answers (the dot).",
        "",
        "![accuracy over rounds](pictures/curve.png)",
        "",
        f"| data, mechanism, eps per answer | {' | '.join(f'{p:.0%} of rounds' for p in parts)} | "
        "released | teacher |",
        "|---|" + "---|" * (len(parts) + 2),
    ]
    for found in curves:
        values = found["student_accuracy"]
        points = [values[max(0, round(p * len(values)) - 1)] for p in parts]
        shown = " | ".join(f"{100 * v:.2f}" for v in points)
        teacher = 100 * found["teacher_accuracy"]
        released = 100 * (found["refit_accuracy"] or values)[-1]
        lines.append(f"| {titles[found['cell']]} | {shown} | {released:.2f} | {teacher:.2f} |")
    return [*lines, ""]


def draw_curve(curves: list[dict], titles: dict[str, str], path: Path) -> None:
    """Write the picture of accuracy over rounds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, found in enumerate(curves):
        values, last = found["student_accuracy"], len(found["student_accuracy"])
        rounds = [100 * (r + 1) / last for r in range(last)]
        label = f"{titles[found['cell']]}, {found['answers'][-1]:,} answers"
        axes.plot(rounds, [100 * v for v in values], color=f"C{i}", label=label)
        axes.plot(100, 100 * (found["refit_accuracy"] or values)[-1], "o", color=f"C{i}")
        axes.axhline(100 * found["teacher_accuracy"], color=f"C{i}", ls=":", lw=0.8)
    axes.set(xlabel="rounds, percent of all", ylabel="accuracy on the holdout rows, percent",
             title="Student (dotted: its teacher); eps is per answer")  # fmt: skip
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})


FLOORS = {
    "draws": "floor: prior alone", "untrained": "floor: untrained",
    "permuted": "floor: permuted labels",
}  # fmt: skip


def judged(rates):
    """Shares of both judges and of both at once, the last with its interval."""
    low, high = rates["both"]["interval"]
    single = " | ".join(f"{rates[judge]['rate']:.2f}" for judge in ("network", "neighbours"))
    return f"{single} | {rates['both']['rate']:.2f} [{low:.2f}, {high:.2f}]"


def wall(report):
    """Seconds of an attack; of one that was stopped and gone on with, those of its parts."""
    costs = [a["cost"] for a in report["attacks"].values()]
    parts = sum(c["prior_seconds"] + c["search_seconds"] for c in costs)
    whole = report["seconds"]["all"]
    return f"{whole:.0f} s" if whole >= parts else f"{parts:.0f} s of searches, in several goes"


def inversion(folder: Path) -> list[str]:
    """The section on inversion attacks from its cells; nothing where there are none."""
    names = {"teacher": "teacher", "student": "student", "noise_free": "noise-free student",
             "control": "control, no defence"}  # fmt: skip
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not found:
        return []
    lines = [
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
    ]
    for cell in found:
        r = cell["report"]
        g, j, b, held = r["guarantee"], r["judges"], r["budget"], r["held_out_likeness"]
        eps = "no guarantee" if g["epsilon"] is None else f"eps {g['epsilon']:g} per {g['unit']}"
        beside = [f"- {name}: {t['what']}" for name, t in r["targets"].items()
                  if name not in names and name not in FLOORS]  # fmt: skip
        lines += [
            f"### {cell['runs'][0]}, {eps}, {cell['answers']:,} answers: budget {r['budget_name']}",
            "",
            f"{b['seeds']} seeds, {r['images_per_target']} images a "
            f"target, {b['steps']} gradient steps; {wall(r)}. Judges on real "
            f"private images ({j['measured_on']}): {100 * j['network']:.1f} % and "
            f"{100 * j['neighbours']:.1f} %, both {100 * j['both']:.1f} %; chance "
            f"{100 * r['chance']:.1f} %. Headline attack: {r['headline_attack']}. "
            f"Held-out real images: PSNR {held['psnr']:.1f}, SSIM {held['ssim']:.2f}.",
            "",
            *([*beside, ""] if beside else []),
            f"Seconds for all targets, on {cell['machine']['threads']} thread(s): "
            + "; ".join(
                f"{name}: prior {a['cost']['prior_seconds']:.0f}"
                f"{' (cached)' if a['cost']['prior_from_cache'] else ''}, search "
                f"{a['cost']['search_seconds']:.0f}"
                for name, a in r["attacks"].items()
            )
            + ".",
            "",
            "| attack | model | accuracy | J1 | J2 | both | advantage | knows | gap p | PSNR | "
            "SSIM | verdict |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for attack, a in r["attacks"].items():
            for target, row in a["targets"].items():
                adv = row["advantage"]["both"]
                low, high = adv["interval"]
                from_, to = row["knowledge"]["interval"]
                lines.append(
                    f"| {attack} | {names.get(target, target)} | "
                    f"{r['targets'][target]['accuracy_holdout']:.3f} | {judged(row['rates'])} | "
                    f"{adv['value']:+.2f} [{low:+.2f}, {high:+.2f}] | "
                    f"{row['knowledge']['accuracy']:.2f} [{from_:.2f}, {to:.2f}] | "
                    f"{row['memorisation']['p_value']:.3f} | {row['likeness']['psnr']:.1f} | "
                    f"{row['likeness']['ssim']:.2f} | {row['verdict']} |"
                )
            for floor, row in a["floors"].items():
                lines.append(
                    f"| {attack} | {FLOORS[floor]} | | {judged(row)} | | | "
                    f"{row['memorisation']['p_value']:.3f} | | | |"
                )
        unlike = [f"- {note}" for note in r["notes"] if "gap p" in note]
        lines += ["", *unlike, *([""] if unlike else [])]
    return lines
