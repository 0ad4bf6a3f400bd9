"""What a page is made of. Sections hold parts; the templates say how each part looks."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dpsd.tables import Table

Light = Literal["good", "caution", "problem", "unknown"]


@dataclass(frozen=True)
class Text:
    """A paragraph; `kind` "note" is set smaller, "missing" names what is left out and why."""

    text: str
    kind: Literal["plain", "note", "missing"] = "plain"


@dataclass(frozen=True)
class Heading:
    """The name of what follows, one level below the section's."""

    text: str


@dataclass(frozen=True)
class Drawing:
    """A vector drawing, from `dpsd.report.svg.drawn`. It holds its own description."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Row:
    """Drawings beside each other, where there is room."""

    drawings: Sequence[Drawing]


@dataclass(frozen=True)
class Picture:
    """A picture of pixels. `alt` says what is seen to those who do not see it."""

    png: bytes
    alt: str
    caption: str

    @property
    def address(self) -> str:
        """The picture itself as an address, so that the page needs no other file."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Strips:
    """Named pictures under each other, of one width, to be compared."""

    rows: Sequence[Picture]
    caption: str


@dataclass(frozen=True)
class Grid:
    """A table. Its title is needed: it names the region that scrolls on a narrow screen."""

    table: Table


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Command:
    """Text for a terminal, or of a file; the name says which."""

    name: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """An answer to a question, as one of four lights, and its reason."""

    light: Light
    question: str
    answer: str
    reason: str


@dataclass(frozen=True)
class Verdicts:
    """Questions that a manager asks."""

    lines: Sequence[Verdict]


@dataclass(frozen=True)
class Worlds:
    """The two worlds that nobody should be able to tell apart.

    Attributes:
        unit: what they differ in: answer, record, user, client.
        relation: in the words of the statement.
        protected: whether a finite epsilon holds for this unit.
    """

    unit: str
    relation: str
    protected: bool


@dataclass(frozen=True)
class Slider:
    """Epsilon at several deltas, to choose from.

    Attributes:
        deltas: as text, falling.
        epsilons: of this run, as text with the unit, one for each delta.
        composed: with all earlier runs; the same.
        start: which delta is shown first.
    """

    deltas: Sequence[str]
    epsilons: Sequence[str]
    composed: Sequence[str]
    start: int


Part = (
    Text | Heading | Drawing | Row | Picture | Strips | Grid | Facts | Command | Verdicts | Worlds
    | Slider
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        id: of the element, for links.
        title: its heading.
        private: whether it shows a figure that is not released.
        parts: in their order.
    """

    id: str
    title: str
    private: bool
    parts: Sequence[Part]


def kind_of(part: Part) -> str:
    """The name by which templates know a part."""
    return type(part).__name__.lower()
