"""Sections on seconds and memory: the loop, ensembles, ImageNet shape."""

import math
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
BANK = {
    "written": "release written to disk and synced",
    "mapped": "bank: map a release, write its scores",
    "read_cold": "bank: random batches from disk",
    "read_warm": "bank: random batches from the system's cache",
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


def source_speed(path: Path) -> list[str]:
    """How fast each source draws, beside the student; nothing where the file is missing."""
    result = read(path)
    if not result:
        return []
    names, rates = result["configs"], result["rates"]
    sources = [source for source in rates[names[0]] if source != "student"]
    rows = [("the student learns from", *(f"{rates[n]['student']:,.0f}" for n in names))]
    rows += [(s, *(_beside(rates[n][s], rates[n]["student"]) for n in names)) for s in sources]
    return [
        f"Images a second that each source draws (`scripts/bench sources`, "
        f"{result['machine']['threads']} thread), and how many times as many as the student learns "
        "from in the same run, augmentation included.",
        "",
        *table(("source", *(f"`configs/{n}`" for n in names)), rows),
        "",
    ]


def _beside(rate: float, learned: float) -> str:
    return f"{rate:,.0f} ({rate / learned:.1f} times)"


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


def reading_speed(path: Path) -> list[str]:
    """What private images that stay on disk cost; nothing where the file is missing."""
    result = read(path)
    if not result:
        return []
    base, index = result["imports"]["peak_MiB"], result["index"]
    rows = [
        (f"{name} ({part['mean_KiB']:.0f} KiB)", str(threads), f"{run['images_per_second']:,.0f}",
         f"{run['processor_ms_per_image']:.2f}", f"{run['peak_MiB'] - base:.0f}")
        for name in result["files"] for part in (result[name],)
        for threads, run in ((1, part["threads_1"]), (2, part["threads_2"]))
    ]  # fmt: skip
    many, first = result["indexed"], next(iter(result["files"]))
    shape = " x ".join(map(str, result["shape"]))
    pixels = math.prod(result["shape"])
    each = result[first]["threads_1"]["processor_ms_per_image"]
    shards = result["shards"]
    return [
        "## Private images on disk",
        "",
        f"`scripts/bench reading`: one pass over JPEG files in random order, decoded to {shape} in "
        f"batches of {result['batch']}. Other",
        f"work shared the {result['machine']['cores']} cores (load {result['load_average']:.1f}), "
        "so that the processor's time says more than the clock.",
        "",
        *table(
            ("files", "threads", "images a second", "processor ms an image",
             "peak MiB beside the imports"), rows,
        ),
        "",
        f"{many:,} files: the index takes {index['seconds_to_index']:.0f} s and "
        f"{index['peak_MiB'] - base:.0f} MiB at its peak, their fingerprint "
        f"{index['seconds_to_fingerprint']:.0f} s. Decoded they would take "
        f"{many * pixels / 2**30:.0f} GiB; one pass costs {many * each / 3.6e6:.1f} "
        f"core hours at {each:.2f} ms each. An index of {result['samples']:,} WebDataset samples "
        f"takes {shards['seconds_to_index']:.0f} s and {shards['peak_MiB'] - base:.0f} MiB.",
        "",
    ]  # fmt: skip


def imagenet(path: Path) -> list[str]:
    """The section on the loop's parts at ImageNet shape; nothing where it is missing or older."""
    result = read(path)
    if "planned" not in result:
        return []
    p, bank = result["planned"], result["mapped"]
    hours = p["images"] / 3600
    rows = [
        (PARTS[name], f"{rate:,.1f}", f"{hours / rate:,.0f}")
        for name, rate in result["images_per_processor_second"].items()
    ]
    rows += [
        (title, f"{bank['images_per_second'][name]:,.0f}", f"{hours / rate:,.1f}")
        for name, title in BANK.items()
        for rate in [bank["images_per_second"][name]]
    ]
    gib = {name: size / 2**30 for name, size in p.items() if name.endswith("_bytes")}
    return [
        "## ImageNet shape",
        "",
        f"`scripts/bench imagenet`: a random {result['teacher']} transcribed into a "
        f"{result['student']}, {result['classes']:,} classes,",
        f"images of {' x '.join(map(str, result['shape']))}, {result['rounds']} rounds, "
        f"{result['answers']} answers in all, {result['precision']}, "
        f"{result['machine']['threads']} thread(s): {result['seconds']:.0f} s,",
        f"of which {result['processor_seconds']:.0f} s of processor time; peak memory "
        f"{result['peak_GiB']:.2f} GiB, pages of mapped files included. It shows that the shape "
        "fits; with a random teacher there is nothing to learn. Networks and images are timed by "
        "the processor's seconds, the bank by the clock.",
        "",
        *table(("part", "images a second", f"hours for {p['images']:,} images"), rows),
        "",
        f"Planned for {p['images']:,} images in {p['rounds']:,} rounds, {p['select']} candidate(s) "
        f"an image: a bank of {gib['bank_bytes']:.0f} GiB; at most {gib['disk_bytes']:.0f} GiB on "
        f"disk in all, since the bank is read from the releases that the run keeps; beside the "
        f"networks {gib['memory_bytes']:.2f} GiB of memory for a round's images and "
        f"{p['hash_bytes'] / 2**20:.0f} MiB for hashes (must: under {p['memory_GiB']} GiB). A bank "
        f"of {bank['bytes'] / 2**20:,.0f} MiB on disk, read twice, took "
        f"{bank['memory_grew_bytes'] / 2**20:.0f} MiB of memory beside the system's cache.",
        "",
    ]


def ranks(path: Path) -> list[str]:
    """What two processes share of a round; nothing where the file is missing."""
    result = read(path)
    if not result:
        return []
    one, two = (result["processes"][n] for n in ("1", "2"))
    totals = {
        "all, images a second of processor time": "images_per_processor_second",
        "all, images a second by the clock": "images_per_second",
    }
    rows = [
        (PARTS[name], f"{one['processor_seconds'][name]:.1f}", f"{seconds:.1f}")
        for name, seconds in two["processor_seconds"].items()
    ]
    rows += [(title, f"{one[key]:,.0f}", f"{two[key]:,.0f}") for title, key in totals.items()]
    return [
        "## Several processes",
        "",
        f"`scripts/bench ranks`: one round of {result['answers']:,} images of "
        f"{' x '.join(map(str, result['shape']))}, {result['teacher']} into "
        f"{result['student']}, by one and by two processes with a thread each on "
        f"{result['machine']['cores']} cores that were shared with other work; processor seconds "
        "of rank 0. All parts but the oracle's are shared.",
        "",
        *table(("part", "one process", "each of two"), rows),
        "",
    ]
