"""The list that numbers records on disk, in an order that says nothing of them."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpsd.errors import UserError
from dpsd.randomness import draw_key, keyed_permutation

_HEAD = "# dpsd manifest: one record a line; never sort it, add new files at the end"


def write_manifest(base: Path, names: Sequence[str], out: Path) -> None:
    """Write the names of records below `base` in a uniformly random order.

    Row numbers must be fixed in advance and independently of content and class. A list is never
    overwritten, because two lists of the same files would tell records apart.

    Raises:
        UserError: no names, a name with a line break, or `out` exists.
    """
    if not names:
        raise UserError(f"data.root: {base} holds no images")
    broken = [name for name in names if len(name.splitlines()) != 1 or name != name.strip()]
    if broken:
        raise UserError(f"data.root: {broken[0]!r} cannot be listed; rename it")
    lines = [_HEAD, *(names[i] for i in keyed_permutation(len(names), draw_key()).tolist())]
    try:
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as e:
        raise UserError(f"--out {out}: exists; rows are numbered once and for all") from e
    with os.fdopen(handle, "w") as file:
        file.write("\n".join(lines) + "\n")


def read_manifest(path: Path, base: Path, names: Sequence[str]) -> NDArray[np.int64]:
    """The places in `names` of the records below `base`, in the order of the manifest, int64 [N].

    Raises:
        UserError: the manifest is unreadable, or does not list exactly these names, each once.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"data.rows: {path} cannot be read ({type(e).__name__})") from e
    listed = [line for line in lines if line and not line.startswith("# dpsd manifest")]
    place = {name: i for i, name in enumerate(names)}
    known = set(listed)
    if len(known) != len(listed):
        raise UserError(f"data.rows: {path} lists a file twice; accepted: each file once")
    for extra, what in ((known - place.keys(), "lists"), (place.keys() - known, "lacks")):
        if extra:
            hint = "is no image there" if what == "lists" else "add new files at its end"
            name = base / min(extra)
            raise UserError(f"data.rows: {path} {what} {name} ({len(extra)} files); {hint}")
    return np.fromiter((place[name] for name in listed), np.int64, len(listed))
