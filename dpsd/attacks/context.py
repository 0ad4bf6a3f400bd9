"""One attack on one run: what its user asked for, and where teacher and data now lie."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from dpsd.attacks.store import attack_folder
from dpsd.config import Config
from dpsd.console import Say
from dpsd.errors import UserError
from dpsd.evaluation.evaluate import find_teacher
from dpsd.runs.folder import Run
from dpsd.teachers.folder import TeacherFolder

B = TypeVar("B")


@dataclass(frozen=True)
class Attack:
    """What all layers of an attack or audit need.

    Attributes:
        run: a finished run.
        budget: fast | standard | full; None: the run's `attacks.budget`.
        seed: of rows, models and trials; of the first repetition where there are several.
        teacher: the teacher's folder where it has been moved.
        data: another `data.root`.
        out: private folder of the results; None: `private/attacks/<name>` of the run.
        analyse_only: read the saved scores and compute the report again; no model is touched.
        data_is_public: put a section on the run's card.
        say: receives lines for the user.
    """

    run: Run
    budget: str | None = None
    seed: int = 0
    teacher: Path | None = None
    data: Path | None = None
    out: Path | None = None
    analyse_only: bool = False
    data_is_public: bool = False
    say: Say = lambda text: None

    @property
    def budget_name(self) -> str:
        """The budget that was asked for, else the run's own."""
        return self.budget or self.run.config.attacks.budget

    def spend(self, budgets: Mapping[str, B]) -> B:
        """The budget of this attack.

        Raises:
            UserError: there is none of this name.
        """
        if self.budget_name not in budgets:
            raise UserError(f"budget: {self.budget_name!r}; accepted: {', '.join(budgets)}")
        return budgets[self.budget_name]

    def folder(self, name: str) -> Path:
        """Where the attack of this name keeps its results; created where it is missing."""
        if self.out is None:
            return attack_folder(self.run, name)
        self.out.mkdir(parents=True, exist_ok=True)
        return self.out

    @cached_property
    def config(self) -> Config:
        """The run's configuration, with the data where they now lie."""
        config = self.run.config
        if self.data is None:
            return config
        data = config.data.model_copy(update={"root": self.data})
        return config.model_copy(update={"data": data})

    def find_teacher(self) -> tuple[Config, TeacherFolder | None]:
        """The run's teacher, where it was or has been moved to, and the configuration for it.

        None stands for the teachers of clients, which stay with the clients.

        Raises:
            UserError: there is no teacher, or it is another one.
        """
        if self.config.privacy.route == "federated":
            return self.config, None
        return find_teacher(self.config, self.run, self.teacher)


def lap(facts: dict[str, Any], name: str, start: float) -> float:
    """Note the seconds since `start` in `facts["seconds"]`, and return the time now."""
    now = time.perf_counter()
    facts["seconds"][name] = round(now - start, 2)
    return now
