"""The list that numbers the records of an image folder, in an order that says nothing of them."""

import os
from pathlib import Path

from dpsd.errors import UserError
from dpsd.randomness import draw_key, keyed_permutation

_HEAD = "# dpsd manifest: one record a line; never sort it, add new files at the end"


def write_manifest(base: Path, files: list[Path], out: Path) -> None:
    """Write the files, relative to `base`, in a uniformly random order.

    Row numbers must be fixed in advance and independently of content and class. A list is never
    overwritten, because two lists of the same files would tell records apart.

    Raises:
        UserError: no files, a name with a line break, or `out` exists.
    """
    if not files:
        raise UserError(f"data.root: {base} holds no images")
    names = [path.relative_to(base).as_posix() for path in files]
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


def read_manifest(path: Path, base: Path, files: list[Path]) -> list[Path]:
    """The files below `base` in the order of the manifest.

    Raises:
        UserError: the manifest is unreadable, or does not list exactly these files, each once.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"data.rows: {path} cannot be read ({type(e).__name__})") from e
    listed = [base / line for line in lines if line and not line.startswith("# dpsd manifest")]
    if len(set(listed)) != len(listed):
        raise UserError(f"data.rows: {path} lists a file twice; accepted: each file once")
    for extra, what in ((set(listed) - set(files), "lists"), (set(files) - set(listed), "lacks")):
        if extra:
            hint = "is no image there" if what == "lists" else "add new files at its end"
            name = min(extra)
            raise UserError(f"data.rows: {path} {what} {name} ({len(extra)} files); {hint}")
    return listed
