"""What the command line shows while it works."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, TypeVar

Say = Callable[[str], None]
"""Receives lines for the user."""
T = TypeVar("T")


QUIET, USUAL, VERBOSE = -1, 0, 1
_SLOW = 10.0  # seconds from which on a log hears of a piece of work, at each quarter
_REDRAW = 0.1  # seconds between two pictures of a bar

_state: dict[str, int] = {"level": USUAL}
_shown: "list[Progress]" = []


def set_level(level: int) -> None:
    """How much the command line tells: QUIET, USUAL or VERBOSE."""
    _state["level"] = level


def level() -> int:
    """How much the command line tells."""
    return _state["level"]


def working(name: str, done: float, total: float) -> None:
    """Say how far a piece of work is. Whatever progress is shown takes it up, else nobody does."""
    if _shown:
        _shown[-1].piece(name, done, total)


def track(items: Iterable[T], name: str, total: int | None = None) -> Iterator[T]:
    """The same items; after each one `working` says how far the work is.

    Args:
        items: to go through.
        name: of the work, as people call it; empty: say nothing.
        total: how many items there are; needed where `items` has no length.
    """
    count = len(items) if total is None and isinstance(items, Sized) else total
    if not name or not count:
        yield from items
        return
    working(name, 0, count)
    try:
        for done, item in enumerate(items, 1):
            yield item
            working(name, done, count)
    finally:
        working(name, count, count)  # also where the work ended early


class TimeLeft:
    """Estimates from the pieces of a command so far how long the others will take.

    Args:
        weights: what each piece costs, in any unit, in the order of the work. A piece that never
            begins is left out, once a later one has begun. A piece without a weight stands alone.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)
        self.name, self.first, self.started = "", 0.0, 0.0
        self.weight, self.seconds, self.last = 0.0, 0.0, 0.0

    def at(self, name: str, share: float, now: float) -> tuple[float, float | None]:
        """The share of all work that is done, and the seconds left; None: not known yet."""
        own = self.weights.get(name)
        if name != self.name:
            before = self.weights.get(self.name)
            if before is not None and own is not None:
                self.weight += before
                self.seconds += self.last - self.started
            self.name, self.first, self.started = name, share, now
        self.last, passed = now, share - self.first
        left = (now - self.started) / passed * (1 - share) if passed > 0 else None
        if own is None:
            return share, left
        names = list(self.weights)
        later = sum(self.weights[n] for n in names[names.index(name) + 1 :])
        measured = self.weight + own * passed
        if left is not None and later:
            left += later * (self.seconds + now - self.started) / measured
        return (self.weight + own * share) / (self.weight + own + later), left


class Progress:
    """Shows how far a command is: on a terminal a bar with the time left, else a few lines.

    Within the `with` block it hears `working` and `track`. Calling it shows a round.

    Args:
        rounds: of the loop; 0: there is none.
        answers: of all rounds.
        weights: of the pieces of the work, for `TimeLeft`; the loop is the piece "rounds".
        shown: False: nothing is shown, as with --json.
    """

    def __init__(
        self,
        rounds: int = 0,
        answers: int = 0,
        weights: Mapping[str, float] | None = None,
        *,
        shown: bool = True,
    ) -> None:
        self.rounds, self.answers, self.shown = rounds, answers, shown
        self.time = TimeLeft(weights or {"rounds": 1.0})
        self.first: tuple[float, float] | None = None
        self.terminal = sys.stdout.isatty()  # asked now: rich's bar replaces stdout later
        self.bar: Any = None
        self.drawn = self.began = 0.0
        self.name, self.quarter = "", 0
        self.open = ""  # the piece of work that is not done yet

    def __enter__(self) -> "Progress":
        _shown.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _shown.remove(self)
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, record: dict[str, Any]) -> None:
        """Show a round's public record."""
        now, done = time.perf_counter(), int(record["answers"])
        if self.first is None:
            self.first = (now, done)
        passed = done - self.first[1]
        rate = passed / (now - self.first[0]) if passed > 0 else None
        number = record["round"] + 1
        line = f"round {number}/{self.rounds}  answers {done:,}/{self.answers:,}"
        second = "agreement_with_answers"
        second = second if second in record else "gain_nats_per_answer"
        names = {"loss": "loss", "agreement_with_answers": "agreement with answers",
                 "gain_nats_per_answer": "nats per answer above a guess"}  # fmt: skip
        for key, name in (("loss", names["loss"]), (second, names[second])):
            if key in record:
                line += f"  {name} {round(record[key], 4) + 0.0:.4f}"  # no "-0.0000"
        key = next(k for k in record if k.startswith("epsilon_per_"))
        unit = key.removeprefix("epsilon_per_")
        line += f"  epsilon {show_epsilon(record[key])} per {unit}"
        if rate:
            line += f"  {rate:,.0f} answers/s"
        self.open = "" if number == self.rounds else "rounds"
        told = number % max(1, self.rounds // 10) == 0 or number == self.rounds
        self._show("rounds", done, self.answers, line, log=told or level() == VERBOSE, force=True)

    def piece(self, name: str, done: float, total: float) -> None:
        """Show that `done` of `total` of a piece is done. Pieces within it are not shown."""
        if self.open not in ("", name):
            return
        self.open = "" if done >= total else name
        now = time.perf_counter()
        if name == "rounds":  # its rounds have lines of their own
            self.first = (now, done)
            self._show(name, done, total, "asking and learning", log=False, force=False)
            return
        if name != self.name or not done:
            self.name, self.began, self.quarter = name, now, 0
        quarter = int(4 * done / total)
        log = now - self.began > _SLOW and quarter > self.quarter
        self.quarter = max(quarter, self.quarter)
        self._show(name, done, total, f"{name} {done:,.0f}/{total:,.0f}", log=log, force=False)

    def _show(
        self, name: str, done: float, total: float, text: str, *, log: bool, force: bool
    ) -> None:
        if not self.shown or level() == QUIET:
            return
        now = time.perf_counter()
        share, left = self.time.at(name, done / total, now)
        rest = "" if left is None else f"{duration(left)} left"
        line = f"{text}  {rest}".rstrip()
        if self.terminal:
            if force or now - self.drawn > _REDRAW or done == total:
                self._bar(text, rest, share)
                self.drawn = now
            if level() == VERBOSE and log:
                say(line)
        elif log:
            say(line)

    def _bar(self, text: str, rest: str, share: float) -> None:
        if self.bar is None:
            from rich import progress as rich
            from rich.table import Column

            self.bar = rich.Progress(
                rich.BarColumn(20),
                rich.TaskProgressColumn(),
                rich.TextColumn("{task.fields[rest]}", markup=False),
                rich.TextColumn("{task.description}", markup=False,
                                table_column=Column(ratio=1, no_wrap=True)),
            )  # fmt: skip
            self.bar.add_task(text, total=1.0, rest=rest)
            self.bar.start()
        self.bar.update(0, completed=share, description=text, rest=rest, refresh=True)


def duration(seconds: float) -> str:
    """Seconds as people say them: 40 s, 3 min 20 s, 2 h 5 min."""
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 90:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def note(text: str) -> None:
    """Print what is going on; nothing with --quiet."""
    if level() != QUIET:
        say(text)


def detail(say: Say) -> Say:
    """The same receiver with --verbose, else one that drops the lines."""
    return say if level() == VERBOSE else lambda text: None


def say(text: str) -> None:
    """Print to stdout at once."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def show_epsilon(x: float | None) -> str:
    """An epsilon as text; None is infinite."""
    return "infinite" if x is None else f"{x:,.6g}" if x < 1e6 else f"{x:,.0f}"


def percent(share: float | None, digits: int = 2, missing: str = "-") -> str:
    """A share from 0 to 1 in percent; `missing` where it was not measured."""
    return missing if share is None else f"{100 * share:.{digits}f} %"
