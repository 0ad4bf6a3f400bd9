"""Put the sections of a report into one HTML file that needs no other file."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import dpsd
from dpsd.errors import UserError
from dpsd.files import whole_file
from dpsd.report.attacks import attacks_section
from dpsd.report.beside import beside_section
from dpsd.report.data import data_section
from dpsd.report.guarantee import guarantee_section
from dpsd.report.parts import Section, kind_of
from dpsd.report.reproduce import reproduce_section
from dpsd.report.source import Source, open_source
from dpsd.report.summary import summary_section
from dpsd.report.utility import utility_section

PRIVATE_NAME, PUBLIC_NAME = "report.html", "report-public.html"


def write_report(
    target: Path, *, beside: Sequence[Path] = (), public: bool = False, out: Path | None = None
) -> Path:
    """Write the report of a finished run as one HTML file.

    Args:
        target: the run's folder; for a public report also a release folder by itself.
        beside: folders of other runs, whose key figures stand in a table.
        public: show only what lies in the release; nothing below `private/` is read.
        out: the file; default `RUN/private/report.html`, of a public report
            `RUN/report-public.html`. A release folder itself takes no other file: its statement
            names all of its files.

    Returns:
        The file.

    Raises:
        UserError: no finished run; a public report of a release that shows private figures; a file
            of the run that cannot be read; `out` in a release; or a bare release without `out`.
    """
    source = open_source(target, public=public)
    out = _place(target, source, public) if out is None else out
    releases = [source.release, *([target / "release"] if (target / "release").is_dir() else [])]
    if any(out.resolve().is_relative_to(release.resolve()) for release in releases):
        raise UserError(
            f"--out {out}: lies in the release, whose statement names all of its files; accepted: "
            "another place"
        )
    others = [open_source(path, public=public) for path in beside]
    text = render(source, sections(source, others))
    with whole_file(out) as partial:
        partial.write_text(text)
    return out


def sections(source: Source, others: Sequence[Source] = ()) -> list[Section]:
    """The sections of a report, in their order."""
    found = [summary_section(source)]
    if others:
        found.append(beside_section(source, others))
    return [*found, guarantee_section(source), utility_section(source), data_section(source),
            attacks_section(source), reproduce_section(source)]  # fmt: skip


def render(source: Source, found: Sequence[Section]) -> str:
    """The page as HTML. Every name that a user chose is escaped by the templates."""
    env = Environment(
        loader=PackageLoader("dpsd.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    env.tests["kind"] = lambda part, name: kind_of(part) == name
    script = env.get_template("script.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    facts = source.facts
    page: dict[str, Any] = {
        "title": f"{source.name}: report on a transcribed model",
        "name": source.name, "sections": found, "public": source.private is None,
        "stamped": not facts["private"], "facts": facts, "version": dpsd.__version__,
        "style": Markup(env.get_template("style.css.j2").render(public=source.private is None)),
        "script": Markup(script), "script_hash": digest,
    }  # fmt: skip
    return env.get_template("report.html.j2").render(page)


def _place(target: Path, source: Source, public: bool) -> Path:
    if not public:
        return target / "private" / PRIVATE_NAME
    if source.release == target:
        raise UserError(f"--out: missing; {target} is a release by itself, into which no report "
                        "may be written: name a file")  # fmt: skip
    return target / PUBLIC_NAME
