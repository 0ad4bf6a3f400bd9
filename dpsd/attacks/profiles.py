"""Data profiles: what an attack on a run may know, and what it is judged by."""

from dataclasses import dataclass

from dpsd.attacks.context import Attack
from dpsd.config import Config, PublicFacts
from dpsd.config.splits import named_splits
from dpsd.data.load import PrivateData, Split, load_data, load_public_classes
from dpsd.errors import UserError


@dataclass(frozen=True)
class Profile:
    """Private rows of the run's own split, and public rows of classes that the teacher lacks."""

    name: str
    config: Config
    """The run's configuration, with the data where they now lie."""
    facts: PublicFacts
    private: PrivateData
    public: Split

    @property
    def real(self) -> Split:
        """Private rows that the judges were not trained on.

        These are the test rows, which the teacher was not trained on either. Without test rows
        (AT&T faces) they are the teacher's training rows: judges that learned from the holdout are
        still measured fairly on them, teachers are not.
        """
        return self.private.train if self.private.test is None else self.private.test


def load_profile(context: Attack, profile: str | None = None) -> Profile:
    """The profile of the attacked run, checked before anything is trained.

    Args:
        context: of a run that was made with `data.split`.
        profile: instead of the run's `attacks.profile`.

    Raises:
        UserError: the run was made without a split, or not with the one that `attacks.profile`
            names; missing data; a public class or image that is private too.
    """
    config = context.config
    wanted, split = profile or config.attacks.profile, config.data.split
    if wanted is not None and wanted not in named_splits():
        accepted = ", ".join(named_splits())
        raise UserError(f"attacks.profile: {wanted!r} is unknown; accepted: {accepted}")
    expected = None if wanted is None else named_splits()[wanted]
    if expected is not None and split != expected:
        has = list(range(config.facts.classes)) if split is None else [*split.private]
        raise UserError(
            f"attacks.profile: {wanted} has the private classes {list(expected.private)}, the "
            f"run's models have {has}; accepted: a run made with data.split {wanted}"
        )
    if split is None:
        raise UserError(
            f"data.split: null in {context.run.path}; an inversion attack needs classes that its "
            "models do not know; transcribe with data.split set, as in configs/attacks_digits.yaml"
        )
    name = next((n for n, s in named_splits().items() if s == split), "own split")
    return Profile(
        name, config, config.facts, load_data(config.data),
        load_public_classes(config.data),
    )  # fmt: skip
