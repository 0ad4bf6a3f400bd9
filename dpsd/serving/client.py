"""Ask a served student from Python: batches, waits and proofs of work are dealt with.

It needs nothing of the extra `serve`.
"""

import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import numpy as np
from numpy.typing import NDArray

from dpsd.errors import UserError
from dpsd.guard.proof_of_work.work import HEADER, Puzzle, solve
from dpsd.imports import brief

_LARGEST_REPLY = 2**26  # bytes


class Refused(UserError):
    """The service did not answer.

    Attributes:
        status: of HTTP; 0: nobody there.
        code: for programs, such as `rate_limited`.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"the service refused ({status} {code}): {message}")
        self.status, self.code = status, code


@dataclass(frozen=True)
class Answers:
    """What the service says about images.

    Attributes:
        labels: int64 [B].
        probabilities: float32 [B, K]; None: the account is shown labels alone.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32] | None


class _Stay(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A key is sent to no other address."""


@dataclass
class Client:
    """One account of a service.

    Attributes:
        url: as http://127.0.0.1:8000.
        key: of the account, as `dpsd account add` showed it.
        patience: seconds that one call waits and computes at most, all in all.
        timeout: seconds for one answer of the service.
        worked: seconds spent on proofs of work so far.
    """

    url: str
    key: str = field(repr=False)
    patience: float = 300.0
    timeout: float = 60.0
    worked: float = 0.0
    _most: int = field(default=0, repr=False)
    _wait: Callable[[float], None] = field(default=time.sleep, repr=False)

    def __post_init__(self) -> None:
        """Check the address.

        Raises:
            UserError: it is no http or https address.
        """
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise UserError(f"url: {self.url!r}; accepted: http://HOST:PORT or https://HOST")
        self._opener = build_opener(_Stay)

    def model(self) -> dict[str, Any]:
        """Shape, classes, limits, card and privacy statement, as `GET /v1/model` says."""
        try:
            return self._asked(Request(f"{self._base}/v1/model", headers=self._headers()))
        except _Again as again:
            raise again.refused from None

    def predict(self, images: Any) -> Answers:
        """Classes of images, in requests as large as the account may send.

        Args:
            images: uint8 [B, C, H, W], an array or a tensor; grey ones also [B, H, W].

        Raises:
            UserError: other images.
            Refused: the service does not answer, or not within `patience`.
        """
        array = np.ascontiguousarray(images)
        array = array[:, None] if array.ndim == 3 else array
        if array.dtype != np.uint8 or array.ndim != 4 or not len(array):
            raise UserError(f"images: {array.dtype} {list(array.shape)}; accepted: uint8 "
                            "[B, C, H, W] or [B, H, W], at least one")  # fmt: skip
        until = time.monotonic() + self.patience
        if len(array) > 1 and not self._most:
            limits = self.model()
            self._most = max(1, min(limits["images_per_request"], limits["images_per_minute"]))
        most = self._most or 1
        parts = [array[i : i + most] for i in range(0, len(array), most)]
        said = [self._predict(part, until) for part in parts]
        shown = all("probabilities" in part for part in said)
        return Answers(
            np.concatenate([np.asarray(part["labels"], np.int64) for part in said]),
            np.concatenate([np.asarray(part["probabilities"], np.float32) for part in said])
            if shown else None,
        )  # fmt: skip

    def _predict(self, images: NDArray[np.uint8], until: float) -> dict[str, Any]:
        """One request, sent again after the waits and the work that the service asks for."""
        file = io.BytesIO()
        np.save(file, images, allow_pickle=False)
        headers = self._headers() | {"Content-Type": "application/x-npy"}
        while True:
            request = Request(f"{self._base}/v1/predict", file.getvalue(), headers, method="POST")
            try:
                return self._asked(request)
            except _Again as again:
                headers.pop(HEADER, None)
                left = until - time.monotonic()
                if again.puzzle is None:
                    if again.seconds > left:
                        raise again.refused from None
                    self._wait(again.seconds)
                else:
                    headers[HEADER] = self._solved(again.puzzle, left, again.refused)

    def _solved(self, puzzle: Puzzle, seconds: float, refused: Refused) -> str:
        start = time.monotonic()
        solution = solve(puzzle, seconds) if seconds > 0 else None
        self.worked += time.monotonic() - start
        if solution is None:
            raise refused from None
        return solution

    def _asked(self, request: Request) -> dict[str, Any]:
        try:
            with self._opener.open(request, timeout=self.timeout) as reply:
                return _object(reply.read(_LARGEST_REPLY))
        except HTTPError as e:
            raise _again(e) from e
        except (URLError, OSError, HTTPException) as e:
            raise Refused(0, "unreachable", f"{self._base}: no answer ({brief(e)})") from e

    @property
    def _base(self) -> str:
        return self.url.rstrip("/")

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}", "Accept": "application/json"}


class _Again(Exception):
    """Worth asking again, after a wait or with work."""

    def __init__(self, refused: Refused, seconds: float, puzzle: Puzzle | None) -> None:
        super().__init__()
        self.refused, self.seconds, self.puzzle = refused, seconds, puzzle


def _again(error: HTTPError) -> Exception:
    """What an answer other than 200 asks for."""
    try:
        tree = json.loads(error.read(100_000))
        said = tree["error"]
        refused = Refused(error.code, str(said["code"]), str(said["message"]))
        if error.code == 428:
            return _Again(refused, 0, Puzzle(str(tree["challenge"]), float(tree["bits"])))
    except (ValueError, KeyError, TypeError, OSError):
        refused = Refused(error.code, "unknown", str(error.reason))
    wait = error.headers.get("Retry-After", "")
    if error.code in (429, 503) and wait.isdigit():
        return _Again(refused, max(1.0, float(wait)), None)
    return refused


def _object(text: bytes) -> dict[str, Any]:
    try:
        tree = json.loads(text)
        if isinstance(tree, dict):
            return tree
    except ValueError:
        pass
    raise Refused(200, "unknown", "the answer is no JSON object")
