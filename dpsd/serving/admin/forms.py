"""Requests of the operator's browser and programs: bodies of bounded size, and errors of theirs."""

import json
from typing import Any
from urllib.parse import parse_qs

from fastapi import Request

from dpsd.serving.decode import BadRequest

_MOST_BYTES, _MOST_FIELDS = 64 * 2**10, 3_000


class Refused(BadRequest):
    """What is not done, and why; becomes a page, or JSON under `/admin/`."""


class Form:
    """The fields of a form."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        self._fields = fields

    def one(self, name: str) -> str:
        """The value of a field, without blanks around it; empty: it was not sent."""
        return self._fields.get(name, [""])[0].strip()

    def all(self, name: str) -> list[str]:
        """All values of a field."""
        return self._fields.get(name, [])


async def read_form(request: Request) -> Form:
    """A form that the browser sent from a page of this dashboard.

    Raises:
        Refused: it comes from another site, is of another kind, or is too large.
    """
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise Refused(403, "other_site", "the form was not sent from the dashboard itself")
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refused(415, "bad_type", "accepted: application/x-www-form-urlencoded")
    try:
        text = (await _body(request)).decode("ascii")
        return Form(parse_qs(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS,
                             errors="replace"))  # fmt: skip
    except ValueError as e:
        raise Refused(400, "bad_form", "the form cannot be read") from e


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object of a request; empty where there is no body.

    Raises:
        Refused: other JSON, or too much of it.
    """
    body = await _body(request)
    if not body:
        return {}
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "bad_type", "accepted: application/json")
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError) as e:
        raise Refused(400, "bad_json", "the body is no JSON") from e
    if not isinstance(tree, dict):
        raise Refused(400, "bad_json", "accepted: a JSON object")
    return tree


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _MOST_BYTES:
            raise Refused(413, "too_large", f"the body is longer than {_MOST_BYTES:,} bytes")
        parts.append(part)
    return b"".join(parts)
