"""Proof of work: a client computes for a while before it is answered.

A puzzle asks for nonces whose SHA-256 is small (Back 2002, *Hashcash: a denial of service
counter-measure*). It is made without keeping anything: an HMAC under the service's secret binds it
to an account, a number of images, a difficulty and a time. A service keeps the solved ones alone,
until they expire, so that each is used once.

A puzzle has eight parts. Each part's time is exponential, so that the sum varies by a third of its
mean, and not by all of it.
"""

import base64
import hashlib
import hmac
import json
import math
import secrets
import time
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

from dpsd.errors import UserError

PARTS = 8
HEADER = "X-Dpsd-Work"
"""Of the request that brings a solution."""
LEAST_BITS, MOST_BITS = 6.0, 40.0
_NONCE = 8  # bytes
_LONGEST = 400  # characters of a header


@dataclass(frozen=True)
class Puzzle:
    """What a client has to solve; the JSON of a 428 answer has both fields.

    Attributes:
        challenge: text; opaque to the client.
        bits: log2 of the hashes that it takes on average; need not be whole.
    """

    challenge: str
    bits: float


def bits_of(hashes: float) -> float:
    """The difficulty of a number of hashes on average, within 6 to 40 bits."""
    return min(max(math.log2(max(hashes, 1.0)), LEAST_BITS), MOST_BITS)


def make_puzzle(
    secret: bytes, account: str, images: int, bits: float, now: float, lifetime: float = 300.0
) -> Puzzle:
    """A puzzle for one request of an account.

    Args:
        secret: of the service.
        account: id of who asks.
        images: in the request.
        bits: difficulty.
        now: seconds since 1970.
        lifetime: seconds until it expires; the time to solve it is a part of them.
    """
    bits = round(min(max(bits, LEAST_BITS), MOST_BITS), 2)
    facts = [images, bits, round(now + lifetime), secrets.token_hex(8)]
    body = base64.urlsafe_b64encode(json.dumps(facts, separators=(",", ":")).encode()).decode()
    return Puzzle(f"{body}.{_mac(secret, account, body)}", bits)


def solve(puzzle: Puzzle, seconds: float = math.inf) -> str | None:
    """The value of the header `X-Dpsd-Work`; None: not found in these seconds.

    Args:
        puzzle: as the service gave it.
        seconds: to be spent at most.

    Raises:
        UserError: a difficulty that no service asks for.
    """
    if not 0 <= puzzle.bits <= MOST_BITS:
        raise UserError(f"bits: {puzzle.bits}; accepted: 0 to {MOST_BITS:g}")
    below, until, nonces = _below(puzzle.bits), time.monotonic() + seconds, []
    for part in range(PARTS):
        start, nonce = _start(puzzle.challenge, part), 0
        while True:
            tried = start.copy()
            tried.update(nonce.to_bytes(_NONCE))
            if int.from_bytes(tried.digest()[:8]) < below:
                break
            nonce += 1
            if nonce % 4096 == 0 and time.monotonic() > until:
                return None
        nonces.append(f"{nonce:x}")
    return f"{puzzle.challenge}.{'-'.join(nonces)}"


class Uses(Protocol):
    """Remembers which solutions were used."""

    def take(self, challenge: str, until: float, now: float) -> bool:
        """Mark a challenge as used; False: it was used, or there is no place."""


@dataclass
class Spent:
    """The solutions that were used and have not expired, in one process: of a bounded number.

    Where several serve, their common store remembers (`RedisStore.take`).

    Attributes:
        most: kept; where as many are there, nothing more is accepted.
    """

    most: int = 100_000
    _until: dict[str, float] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def take(self, challenge: str, until: float, now: float) -> bool:
        """Mark a challenge as used; False: it was used, or there is no place."""
        with self._lock:
            if challenge in self._until:
                return False
            if len(self._until) >= self.most:
                self._until = {c: u for c, u in self._until.items() if u >= now}
                if len(self._until) >= self.most:
                    return False
            self._until[challenge] = until
            return True


def refused(
    secret: bytes, account: str, images: int, solution: str, now: float, spent: Uses
) -> str | None:
    """Why a solution is not accepted; None: it is, and is used up by this call.

    A client that waited for easy puzzles cannot keep them: they expire.

    Args:
        secret: of the service.
        account: id of who asks.
        images: in the request; at most those of the puzzle.
        solution: the header's value.
        now: seconds since 1970.
        spent: the solutions that were used.
    """
    body, mac, nonces = _parts(solution)
    if not hmac.compare_digest(_mac(secret, account, body), mac):
        return "no puzzle of this service for this account"
    of, bits, until, _ = json.loads(base64.urlsafe_b64decode(body))
    if now > until:
        return "the puzzle has expired"
    if images > of:
        return f"the puzzle was for {of} images"
    challenge, below = f"{body}.{mac}", _below(bits)
    for part, nonce in enumerate(nonces):
        tried = _start(challenge, part)
        tried.update(nonce)
        if int.from_bytes(tried.digest()[:8]) >= below:
            return "the solution is wrong"
    if len(nonces) != PARTS:
        return "the solution is wrong"
    return None if spent.take(challenge, until, now) else "the solution was used before"


def _parts(solution: str) -> tuple[str, str, list[bytes]]:
    """Body, HMAC and nonces of a header; empty where it has another form."""
    body, _, rest = solution[: _LONGEST + 1].partition(".")
    mac, _, nonces = rest.partition(".")
    if len(solution) > _LONGEST or not solution.isascii():
        return "", "", []
    try:
        return body, mac, [int(n, 16).to_bytes(_NONCE) for n in nonces.split("-")]
    except (ValueError, OverflowError):
        return body, mac, []


def _below(bits: float) -> int:
    """The bound on the first 64 bits of a hash, for each of the eight parts."""
    return min(2**64, int(2.0 ** (64 - bits) * PARTS))


def _start(challenge: str, part: int) -> "hashlib._Hash":
    return hashlib.sha256(f"{challenge}:{part}:".encode())


def _mac(secret: bytes, account: str, body: str) -> str:
    text = json.dumps(["dpsd work", account, body])
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
