"""Sudden turns: an account that moves its questions to a model that is new to it.

When a new model is launched, many accounts move. So an account is compared with what it did before
and with what the others do now, whichever moves more. Accounts that make up most of the traffic and
move together hide each other; clusters are for these.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from scipy.special import betainccinv
from scipy.stats import binom

RECENT = 32
"""Questions in an account's window."""
_WRONG = 1e-3  # probability that the bound on the earlier share is too low
_NEW = 0.1  # share of earlier questions up to which a model is new to an account
_OTHERS = 512  # questions of all accounts together that count as now
_ACCOUNTS = 100_000
_EARLIER = 32  # questions before the window, at least
_MODELS = 64  # by account


@dataclass(frozen=True)
class Turn:
    """An account's move to a model.

    Attributes:
        model: its name.
        share: of the account's last 32 questions.
        before: share of its earlier questions.
        p_value: probability of as many questions to it, had the account kept to the larger of
            its own earlier share and the others' share now.
    """

    model: str
    share: float
    before: float
    p_value: float


@dataclass
class _Account:
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=RECENT))
    earlier: dict[str, int] = field(default_factory=dict)


class Turns:
    """Watches which models accounts ask; bounded memory.

    Args:
        alpha: p-value from which a turn is told.
    """

    def __init__(self, alpha: float = 1e-6) -> None:
        self.alpha = alpha
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._now: deque[tuple[str, str]] = deque(maxlen=_OTHERS)

    def asked(self, account: str, model: str) -> Turn | None:
        """Count one question; the turn that it completes, if any, is told once.

        Args:
            account: its id.
            model: which it asks.
        """
        one = self._accounts.setdefault(account, _Account())
        self._accounts.move_to_end(account)
        if len(self._accounts) > _ACCOUNTS:
            self._accounts.popitem(last=False)
        if len(one.recent) == RECENT:
            oldest = one.recent[0]
            if oldest in one.earlier or len(one.earlier) < _MODELS:
                one.earlier[oldest] = one.earlier.get(oldest, 0) + 1
        one.recent.append(model)
        self._now.append((account, model))
        turn = self._turn(account, one, model)
        if turn is not None:  # from here on the model is not new to it
            one.earlier[model] = one.earlier.get(model, 0) + sum(one.earlier.values())
        return turn

    def _turn(self, account: str, one: _Account, model: str) -> Turn | None:
        total, known = sum(one.earlier.values()), one.earlier.get(model, 0)
        if total < _EARLIER or known > _NEW * total:
            return None
        count = sum(name == model for name in one.recent)
        if 2 * count < RECENT:
            return None
        own = _upper(known, total)
        others = [name for who, name in self._now if who != account]
        usual = _upper(sum(name == model for name in others), len(others)) if others else 0.0
        p = float(binom.sf(count - 1, len(one.recent), max(own, usual)))
        return Turn(model, count / len(one.recent), known / total, p) if p <= self.alpha else None


def _upper(hits: int, n: int) -> float:
    """Clopper and Pearson's upper bound of a share."""
    return 1.0 if hits >= n else float(betainccinv(hits + 1, n - hits, _WRONG))
