"""Sections on seconds and memory: the loop, ensembles, ImageNet shape."""

from pathlib import Path

from render_tables.common import read, table

PARTS = {
    "synthesizer": "synthesizer, with choosing what to ask",
    "teacher": "teacher's forward passes",
    "prior": "student's forward passes as a prior",
    "oracle": "oracle without both: noise, accounting, ledger, hashing",
    "student": "student's training in the rounds",
    "refit": "fresh student's passes over all answers",
}


def speed(path: Path) -> list[str]:
    """The section on the loop from speed.json; nothing where it is missing."""
    result = read(path)
    if not result:
        return []
    large, rate = result["large"], result["large"]["images_per_second"]
    ratio, share, small = result["time_ratio_4N_to_N"], large["share"], result["small"]["answers"]
    rows = [(title, f"{rate[name]:,.0f}", share[name]) for name, title in PARTS.items()]
    rows += [("pictures, checkpoints and the rest", "-", 1 - sum(share.values())),
             ("the run", f"{rate['run']:,.0f}", 1.0)]  # fmt: skip
    return [
        "## Speed and memory",
        "",
        f"`scripts/bench speed` with `configs/{result['config']}` and "
        f"{large['answers']:,} answers,",
        f"{result['machine']['threads']} threads. Candidates that were drawn and not asked do not "
        "count as images.",
        "",
        *table(
            ("part", "images a second", "share of the time"),
            [(title, rate, f"{100 * part:.1f} %") for title, rate, part in rows],
        ),
        "",
        f"The oracle's share of the rounds, without the passes at the end, is "
        f"{100 * result['oracle_share_of_rounds']:.1f} % (must: at most 5 %). "
        f"{large['answers']:,} answers take {ratio:.2f} times as long as {small:,} (must: 3.4 to "
        f"4.6). Peak memory {result['peak_GiB']:.2f} GiB (must: under 4).",
        "",
    ]


def ensemble_speed(path: Path) -> list[str]:
    """How much faster an ensemble trains together; nothing where the file is missing."""
    result = read(path)
    if not result:
        return []
    together, loop, vmap = (result[how] for how in ("together", "loop", "vmap"))
    each = together["seconds"] / together["teachers"]
    by_loop, by_vmap = (part["seconds"] / part["teachers"] / each for part in (loop, vmap))
    right = [f"{100 * part['member']:.1f}" for part in (together, loop, vmap)]
    return [
        f"`scripts/bench ensemble`: {together['teachers']} `cnn-tiny` teachers of",
        f"MNIST train together in {together['seconds']:.0f} s on "
        f"{result['machine']['threads']} threads, {by_loop:.2f} times as fast as one after another",
        f"(must: 3) and {by_vmap:.2f} times as fast as under `torch.func.vmap`, both timed on",
        f"{loop['teachers']} teachers. One teacher is right on {right[0]} % of the holdout rows, "
        f"of the others {right[1]} and {right[2]} %.",
        "",
    ]


def ledger_speed(path: Path) -> list[str]:
    """What opening a long ledger costs; nothing where the file is missing."""
    result = read(path)
    if not result:
        return []
    rows = [
        (f"{part['charges']:,} of {part['answers'] // part['charges']:,} answers",
         f"{part['seconds']:.2f}", f"{part['ledger_MiB']:.0f}")
        for part in (result["of_2000"], result["of_500"])
    ]  # fmt: skip
    return [
        f"`scripts/bench ledger`: a run that goes on opens a ledger of {result['answers']:,}",
        "answers, with every checksum and every hash verified (must: under 2 s, under 500 MiB):",
        "",
        *table(("charges", "seconds", "MiB beside the imports"), rows),
        "",
    ]


def imagenet(path: Path) -> list[str]:
    """The section on the ImageNet-shaped smoke test; nothing where it is missing."""
    result = read(path)
    if not result:
        return []
    return [
        "## Smoke test at ImageNet shape",
        "",
        f"`scripts/bench imagenet`: a random {result['teacher']} transcribed into a "
        f"{result['student']}, {result['classes']:,} classes,",
        f"images of {' x '.join(map(str, result['shape']))}, {result['rounds']} rounds, "
        f"{result['answers']} answers in all, {result['precision']}, "
        f"{result['machine']['threads']} thread(s): {result['seconds']:.0f} s,",
        f"of which {result['processor_seconds']:.0f} s of processor time; peak memory "
        f"{result['peak_GiB']:.2f} GiB. It shows that the shape fits; with a random",
        "teacher there is nothing to learn.",
        "",
    ]
