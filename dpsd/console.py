"""What the command line shows while it works."""

import sys
import time
from collections.abc import Callable
from typing import Any

Say = Callable[[str], None]
"""Receives lines for the user."""


class Progress:
    """Shows the public figures of each round: as a bar on a terminal, else as a line."""

    def __init__(self, rounds: int, answers: int) -> None:
        self.rounds, self.answers = rounds, answers
        self.first: tuple[float, int] | None = None
        self.terminal = sys.stdout.isatty()  # asked now: rich's bar replaces stdout later
        self.bar: Any = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, record: dict[str, Any]) -> None:
        """Show a round's public record."""
        now, done = time.perf_counter(), int(record["answers"])
        self.first = self.first or (now, done)
        passed = done - self.first[1]
        rate = passed / (now - self.first[0]) if passed else None
        line = f"round {record['round'] + 1}/{self.rounds}  answers {done:,}/{self.answers:,}"
        second = "agreement_with_answers"
        second = second if second in record else "gain_nats_per_answer"
        names = {"loss": "loss", "agreement_with_answers": "agreement with answers",
                 "gain_nats_per_answer": "nats gained per answer"}  # fmt: skip
        for key, name in (("loss", names["loss"]), (second, names[second])):
            if key in record:
                line += f"  {name} {round(record[key], 4) + 0.0:.4f}"  # no "-0.0000"
        key = next(k for k in record if k.startswith("epsilon_per_"))
        unit = key.removeprefix("epsilon_per_")
        line += f"  epsilon {show_epsilon(record[key])} per {unit}"
        if rate:
            line += f"  {rate:,.0f} answers/s  {(self.answers - done) / rate:.0f} s left"
        if self.terminal:
            self._bar(line, done)
        else:
            say(line)

    def _bar(self, line: str, done: int) -> None:
        if self.bar is None:
            from rich import progress as rich
            from rich.table import Column

            self.bar = rich.Progress(
                rich.BarColumn(20),
                rich.TaskProgressColumn(),
                rich.TextColumn("{task.description}", markup=False, table_column=Column(ratio=1)),
            )
            self.bar.add_task(line, total=self.answers)
            self.bar.start()
        self.bar.update(0, completed=done, description=line, refresh=True)


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
