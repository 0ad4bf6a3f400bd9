"""The section on data: what the teacher was asked about, and what each client gave."""

from pathlib import Path
from typing import Any

import numpy as np

from dpsd.console import percent
from dpsd.errors import UserError
from dpsd.report.board import BoardRound, board_rounds
from dpsd.report.parts import Facts, Grid, Heading, Part, Picture, Row, Section, Strips, Text
from dpsd.report.pixels import Images, strip, tiles
from dpsd.report.plots import areas, bars, whole
from dpsd.report.source import Source
from dpsd.tables import Table

_ROUNDS = 6  # of which images are shown
_PLACES = 10  # images in a row
_SHEETS = 4  # newest rounds from which images of each class are taken
_MOST_CLASSES = 40
_MOST_CLIENTS = 40


def data_section(source: Source) -> Section:
    """Synthetic images by round and class, near-duplicates, clients."""
    rounds = board_rounds(source.release)
    parts: list[Part] = [Facts(_made(source.facts)), *_images(source, rounds)]
    clients, private = _clients(source)
    return Section("data", "Data", private, [*parts, *clients])


def _made(facts: dict[str, Any]) -> list[tuple[str, str]]:
    public = facts["declared_public"]
    channels, height, width = public["image_shape"]
    rows = [
        ("Query images", str(public["query_images"])),
        ("Size", f"{height} x {width} pixels, {channels} channel(s), {public['classes']} classes"),
        ("Answers", f"{facts['answers_made']:,} made, at most {facts['answers_cap']:,} planned"),
        ("Asks of one image", f"at most {facts['asks_per_image']}"),
    ]  # fmt: skip
    for photograph in public.get("photographs", []):
        rows.append(("Public photograph", f"{photograph['file']}, {photograph['sha256'][:16]}..."))
    near = facts["near_duplicates"]
    if near is not None and near["share"] is not None:
        text = (
            f"{percent(near['share'])} of {near['sampled']:,} sampled queries look like an earlier "
            f"one (root mean square of {near['distance']:g} of 255 grey levels). An epsilon per "
            "answer does not cover what answers to look-alikes say."
        )
        rows.append(("Near-duplicates", text))
    return rows


def _images(source: Source, rounds: dict[int, BoardRound]) -> list[Part]:
    shape = source.facts["declared_public"]["image_shape"]
    sheets = {n: found.sheet for n, found in rounds.items() if found.sheet}
    if not sheets:
        return [Text("No images by round: the run's records hold none.", "missing")]
    chosen = sorted({list(sheets)[i] for i in np.linspace(0, len(sheets) - 1, _ROUNDS).astype(int)})
    rows = []
    for n in chosen:
        shown = tiles(sheets[n], shape)
        alt = f"{min(_PLACES, len(shown))} synthetic images of round {n + 1}"
        rows.append(Picture(strip(shown, _PLACES), alt, f"Round {n + 1}"))
    parts: list[Part] = [
        Heading("Synthetic images, round by round"),
        Strips(rows, "What the teacher was asked about. No private image went into them."),
    ]
    newest = [tiles(sheets[n], shape) for n in list(sheets)[-_SHEETS:]]
    return [*parts, *_by_class(source, np.concatenate(newest[::-1])), *_counts(source, rounds)]


def _by_class(source: Source, images: Images) -> list[Part]:
    """Images of the last rounds by the class that the released student names."""
    names, title = source.classes, Heading("By the class that the student names")
    shape = source.facts["declared_public"]["image_shape"]
    model = str(source.config()["student"]["model"])
    if (
        shape[0] not in (1, 3)
        or len(names) > _MOST_CLASSES
        or (":" in model and not source.private)
    ):
        return []
    try:
        named = _student_classes(source, images)
    except UserError as e:
        return [Text(f"No images by class: {source.told(e)}.", "missing")]
    rows = []
    for c, name in enumerate(names):
        mine = images[named == c]
        n = min(_PLACES, len(mine))
        alt = f"{n or 'no'} synthetic images that the student takes for {name}"
        rows.append(Picture(strip(mine, _PLACES), alt, name if n else f"{name} (none)"))
    text = "Images of the last rounds. They need not look like the class to people."
    return [title, Strips(rows, text)]


def _student_classes(source: Source, images: Images) -> Any:
    import torch

    from dpsd.runs.release import Labeller, load_student

    student = Labeller(load_student(source.release), torch.device("cpu"))
    return student.predict(torch.from_numpy(images.copy())).argmax(1).numpy()


def _counts(source: Source, rounds: dict[int, BoardRound]) -> list[Part]:
    """Shares of the classes that the student named in each round."""
    names = source.classes
    counted = {n: found.classes for n, found in rounds.items() if sum(found.classes)}
    if len(counted) < 2 or len(names) > _MOST_CLASSES:
        return []
    table = np.zeros((len(counted), len(names)))
    for i, counts in enumerate(counted.values()):
        table[i, : len(counts)] = counts[: len(names)]
    shares = table / table.sum(1, keepdims=True)
    last = shares[-1]
    rarest, commonest = names[int(last.argmin())], names[int(last.argmax())]
    return [Row([areas(
        [n + 1 for n in counted], [(names[c], shares[:, c].tolist()) for c in range(len(names))],
        x_name="round", y_name="share of the round's images",
        alt=f"Bands of the share of each class by round. In the last round the most frequent is "
        f"{commonest} ({percent(float(last.max()), 0)}), the rarest {rarest} "
        f"({percent(float(last.min()), 0)}).",
        caption="How the student classes the images of each round, from class "
        f"{names[0]} at the bottom to {names[-1]} at the top.",
    )])]  # fmt: skip


def _clients(source: Source) -> tuple[list[Part], bool]:
    """Who gave what, and whether any of it is private."""
    federation = source.facts.get("federation")
    if federation is None:
        return [], False
    answered = federation.get("answered", {})
    rows = [
        (name, f"{a['clients']:,}", f"{a['rounds']:,} of {federation['rounds']:,}",
         f"{a['answers']:,}", _bytes(a["bytes_down"]), _bytes(a["bytes_up"]),
         "; ".join(a["failures"]) or "none")
        for name, a in list(answered.items())[:_MOST_CLIENTS]
    ]  # fmt: skip
    columns = ("node", "clients", "rounds answered", "answers", "received", "sent", "failures")
    table = Table(columns, rows, align="lrrrrrl", title="What each client gave")
    parts: list[Part] = [
        Heading("Clients"),
        Facts([
            ("Clients", f"{federation['clients']:,}, of which at least {federation['quorum']:,} "
             f"must answer in a round; fewest that did: {federation.get('fewest', '-')}"),
            ("Partition of the data", str(federation["partition"])),
        ]),
        Grid(table),
    ]  # fmt: skip
    if len(answered) > _MOST_CLIENTS:
        more = len(answered) - _MOST_CLIENTS
        parts.append(Text(f"{more:,} more nodes are in release/clients.csv.", "note"))
    held = _held(source)
    return [*parts, *held], bool(source.private) and any(
        not (isinstance(p, Text) and p.kind == "missing") for p in held
    )


def _held(source: Source) -> list[Part]:
    """Rows of each client; only who dealt them in this process knows."""
    run = source.measured("run.json")
    if run is None:
        return []
    folder = Path(run["teacher_folder"])
    file, picture = folder / "partition.npz", folder / "partition.png"
    if not file.is_file():
        return [Text("Who holds what is not shown: the clients' data are not dealt here.",
                     "missing")]  # fmt: skip
    with np.load(file, allow_pickle=False) as archive:
        sizes = [int(n) for n in archive["sizes"]]
    if picture.is_file():
        alt = "Bars of the rows of each class at each client"
        return [Picture(picture.read_bytes(), alt, "Rows of each class at each client.")]
    told = f"Training rows of each client: from {min(sizes):,} to {max(sizes):,}."
    if len(sizes) > _MOST_CLIENTS:
        return [Text(told)]
    names = [f"client {i}" for i in range(len(sizes))]
    return [bars(names, [("rows", sizes)], x="training rows", x_format=whole, most=None,
                 alt=f"Bars. {told}", caption=told)]  # fmt: skip


def _bytes(n: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n} B"
