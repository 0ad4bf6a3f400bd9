"""Who is logged in to the dashboard: sessions in memory, and how often a key may be guessed."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from limits import RateLimitItemPerMinute
from limits.strategies import MovingWindowRateLimiter

from dpsd.guard.admin_key import admin_hash, is_admin
from dpsd.guard.windows import Windows

IDLE, LONGEST = 30 * 60, 12 * 60 * 60  # seconds
_MOST = 32  # sessions; the oldest goes
_GUESSES = RateLimitItemPerMinute(10)  # wrong keys, from everywhere together


@dataclass
class Session:
    """One login.

    Attributes:
        csrf: the token that its forms carry.
        key: the hash of the admin key that opened it; another key ends it.
        made, used: seconds since 1970.
        said: lines to show on the next page, once; a new key is among them.
    """

    csrf: str
    key: str
    made: float
    used: float
    said: list[tuple[str, str]] = field(default_factory=list)


class Sessions:
    """The logins of one dashboard; they end with the process.

    Args:
        guard: the folder that keeps the hash of the admin key.
        pepper: of keys.
        clock: seconds since 1970.
    """

    def __init__(self, guard: Path, pepper: bytes, clock: Callable[[], float] = time.time) -> None:
        self._guard, self._pepper, self._clock = guard, pepper, clock
        self._sessions: dict[str, Session] = {}
        self._lock = Lock()
        self._rates = MovingWindowRateLimiter(Windows())

    def may_guess(self) -> bool:
        """Whether a key is looked at now; ten wrong ones a minute are too many."""
        return self._rates.test(_GUESSES, "admin")

    def is_admin(self, key: str) -> bool:
        """Whether a key is the admin key; a wrong one is counted. Ask `may_guess` before."""
        right = is_admin(self._guard, self._pepper, key)
        if not right:
            self._rates.hit(_GUESSES, "admin")
        return right

    def open(self) -> str:
        """A new session's token, for its cookie."""
        token, now, key = secrets.token_urlsafe(32), self._clock(), admin_hash(self._guard)
        with self._lock:
            self._drop_old(now)
            while len(self._sessions) >= _MOST:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[_name(token)] = Session(secrets.token_urlsafe(32), key, now, now)
        return token

    def find(self, token: str, touch: bool = True) -> Session | None:
        """The session of a token, if it is still open.

        Args:
            token: of its cookie.
            touch: whether this counts as use, which keeps it open.
        """
        now = self._clock()
        with self._lock:
            self._drop_old(now)
            session = self._sessions.get(_name(token))
            if session is not None and touch:
                session.used = now
        return session

    def close(self, token: str) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(_name(token), None)

    def _drop_old(self, now: float) -> None:
        key = admin_hash(self._guard)
        self._sessions = {
            name: s for name, s in self._sessions.items()
            if now - s.used < IDLE and now - s.made < LONGEST and key and s.key == key
        }  # fmt: skip


def same_token(session: Session, token: str) -> bool:
    """Whether a form carries its session's token."""
    return hmac.compare_digest(session.csrf.encode(), token.encode())


def _name(token: str) -> str:
    """What a session is kept under: a hash, so that a look-up's time tells nothing of tokens."""
    return hashlib.sha256(token.encode()).hexdigest()
