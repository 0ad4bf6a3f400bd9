"""Defences by name, as the command line and a configuration write them: `noise:size=0.2`."""

import types
import typing
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from dpsd.defences.account_marks import AccountMarks
from dpsd.defences.cosine import Cosine
from dpsd.defences.defence import Defence
from dpsd.defences.dp_noise import DpNoise
from dpsd.defences.honey import Honey
from dpsd.defences.inconsistency import Inconsistency
from dpsd.defences.noise import Noise
from dpsd.defences.output import Labels, Rounding, TopK
from dpsd.errors import UserError

DEFENCES: dict[str, type[Defence]] = {
    "dp_noise": DpNoise,
    "honey": Honey,
    "inconsistency": Inconsistency,
    "account_marks": AccountMarks,
    "cosine": Cosine,
    "noise": Noise,
    "rounding": Rounding,
    "top_k": TopK,
    "labels": Labels,
}
"""Name -> class, in the order in which they are applied."""


def parse_defence(text: str) -> Defence:
    """The defence that a text names.

    Args:
        text: `NAME` or `NAME:FIELD=VALUE,FIELD=VALUE`; several accounts are joined by `+`, as in
            `honey:threshold=1.5,accounts=alice+bob`.

    Raises:
        UserError: an unknown name or field, or a value that is not accepted.
    """
    name, _, rest = text.partition(":")
    kind = DEFENCES.get(name)
    if kind is None:
        raise UserError(f"defence: {name!r} is unknown; accepted: {', '.join(DEFENCES)}")
    known, values = _fields(kind), dict[str, Any]()
    for part in filter(None, rest.split(",")):
        field, is_set, value = part.partition("=")
        if field not in known or not is_set or field in values:
            accepted = ", ".join(f"{f}=X" for f in known) or "no field"
            raise UserError(f"defence {name}: {part!r}; accepted: {accepted}, each once")
        values[field] = _value(f"{name}: {field}", known[field], value)
    build: Callable[..., Defence] = kind
    return build(**values)


def defence_text(defence: Defence) -> str:
    """The text from which `parse_defence` makes this defence."""
    parts = []
    for field in _fields(type(defence)):
        value = getattr(defence, field)
        if isinstance(value, frozenset):
            value = "+".join(sorted(value))
        if value is not None:
            parts.append(f"{field}={value}")
    return defence.name + (":" if parts else "") + ",".join(parts)


def _fields(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


def _value(place: str, kind: Any, text: str) -> Any:
    if isinstance(kind, types.UnionType):  # accounts
        names = frozenset(filter(None, text.split("+")))
        if not names:
            raise UserError(f"{place} {text!r}; accepted: one name or several, joined by +")
        return names
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"{place} {text!r}; accepted: {what}") from None
