"""A victim behind an HTTP address on this machine: `POST /v1/predict` of a served model.

The request is an npy array, uint8 [B, C, H, W], under `Content-Type: application/x-npy` and
`Authorization: Bearer KEY`. The answer is JSON: `labels`, a list of class numbers, and where the
service gives them `probabilities`, one list a row. Errors are JSON too: `error.code` and
`error.message`. `GET /v1/model` tells `shape`, `classes` and `output`: probabilities or labels.

Attacks on machines of others are none of this package's business: other addresses are refused.
"""

import io
import ipaddress
import json
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

import numpy as np
import torch
from torch import Tensor

from dpsd.attacks.extraction.victim import Victim
from dpsd.config import PublicFacts
from dpsd.errors import UserError
from dpsd.imports import brief

_SECONDS = 60
_MOST_AT_ONCE = 256
_LARGEST_REPLY = 2**26  # bytes


class _Stay(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """No request is sent on to another address."""


_OPENER = build_opener(ProxyHandler({}), _Stay)


def address_victim(url: str, key: str, facts: PublicFacts) -> Victim:
    """The model that answers at an address of this machine.

    Args:
        url: as http://127.0.0.1:8000.
        key: of the account that asks; sent as a bearer token.
        facts: the shape and classes that it must have.

    Raises:
        UserError: another machine, nobody there, or a model of another shape or class count.
    """
    base = _checked(url)
    about = _call(base, Request(f"{base}/v1/model", headers=_headers(key)))
    shape, classes = about.get("shape"), about.get("classes")
    if shape != list(facts.shape) or classes != facts.classes:
        raise UserError(
            f"url: {base} serves images {shape} and {classes} classes; accepted: "
            f"{list(facts.shape)} and {facts.classes}, as the run has"
        )

    def ask(images: Tensor) -> Tensor:
        parts = [_asked(base, key, part, facts.classes) for part in images.split(_MOST_AT_ONCE)]
        return torch.cat(parts) if parts else torch.zeros(0, facts.classes)

    return Victim(f"{base}", ask, facts, labels_only=about.get("output") == "labels")


def _checked(url: str) -> str:
    """The address without a slash at its end.

    Raises:
        UserError: it is not plain http to this machine.
    """
    accepted = "accepted: http://127.0.0.1:PORT, http://[::1]:PORT or http://localhost:PORT"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as e:
        raise UserError(f"url: {url!r}; {accepted}") from e
    here = host == "localhost"
    if not here:
        try:
            here = ipaddress.ip_address(host).is_loopback
        except ValueError:
            here = False
    if parts.scheme != "http" or not here or parts.username is not None:
        raise UserError(f"url: {url!r} is not an address of this machine; {accepted}")
    return f"http://{parts.netloc}{parts.path.rstrip('/')}"


def _asked(base: str, key: str, images: Tensor, classes: int) -> Tensor:
    body = io.BytesIO()
    np.save(body, images.numpy(), allow_pickle=False)
    headers = _headers(key) | {"Content-Type": "application/x-npy"}
    said = _call(base, Request(f"{base}/v1/predict", body.getvalue(), headers, method="POST"))
    try:
        if said.get("probabilities") is not None:
            answers = torch.tensor(said["probabilities"], dtype=torch.float32)
        else:
            labels = torch.tensor(said["labels"], dtype=torch.int64)
            answers = torch.nn.functional.one_hot(labels, classes).float()
        if answers.shape != (len(images), classes):
            raise ValueError(f"{list(answers.shape)} for {len(images)} images")
        if not bool(((answers >= 0) & (answers <= 1)).all()):
            raise ValueError("numbers that are not from 0 to 1")
    except (KeyError, ValueError, TypeError, RuntimeError) as e:
        raise UserError(
            f"url: {base} answered something else ({brief(e)}); accepted: labels, and "
            f"probabilities [B, {classes}]"
        ) from e
    return answers


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", "Accept": "application/json"}


def _call(base: str, request: Request) -> dict[str, Any]:
    """The JSON object that the service answers with."""
    try:
        with _OPENER.open(request, timeout=_SECONDS) as reply:
            text = reply.read(_LARGEST_REPLY)
    except HTTPError as e:
        raise UserError(f"url: {base} refused ({e.code}): {_reason(e)}") from e
    except (URLError, OSError, HTTPException) as e:
        raise UserError(f"url: {base}: no answer ({brief(e)})") from e
    try:
        tree = json.loads(text)
        if not isinstance(tree, dict):
            raise ValueError(f"a {type(tree).__name__}")
    except ValueError as e:
        accepted = "accepted: a JSON object, as `POST /v1/predict` of dpsd's service gives"
        raise UserError(f"url: {base} answered something else ({brief(e)}); {accepted}") from e
    return tree


def _reason(error: HTTPError) -> str:
    try:
        return str(json.loads(error.read(10_000))["error"]["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return str(error.reason)
