"""Every key of the configuration in words: type, default, accepted values, meaning.

All of it is read from the sections themselves, so that no second list can differ from them.
"""

import ast
import difflib
import inspect
import textwrap
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt, MaxLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dpsd.config.config import Config
from dpsd.errors import UserError
from dpsd.tables import Table

_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
_BOUNDS = {Ge: ("from", "ge"), Gt: ("above", "gt"), Le: ("up to", "le"), Lt: ("below", "lt")}
_HEAD = """\
# Configuration keys

Made by `dpsd config --markdown`. A configuration is a YAML file of these sections. Every key can
also be set on the command line, as in `--set privacy.epsilon=4` (epsilon for one `privacy.unit`).
`dpsd config KEY` prints one key; `dpsd plan CONFIG` refuses keys that do not go together.
"""


@dataclass(frozen=True)
class Key:
    """One key of the configuration.

    Attributes:
        name: with its section, as in `privacy.epsilon`; `[]` stands for an entry of a list.
        type: what a value is.
        default: as YAML; `required` where a value must be given.
        accepted: the range or the choices; empty where any value of the type is taken.
        meaning: the docstring of the key.
    """

    name: str
    type: str
    default: str
    accepted: str
    meaning: str


@dataclass(frozen=True)
class Part:
    """A section of the configuration: its dotted name (empty: the top level), meaning and keys."""

    name: str
    meaning: str
    keys: tuple[Key, ...]


@cache
def parts() -> tuple[Part, ...]:
    """All sections in the order of the configuration, the top level first."""
    return tuple(_parts(Config, ""))


def find_parts(name: str) -> tuple[Part, ...]:
    """The key or section of a name, as sections that hold nothing else.

    Raises:
        UserError: there is no such key; the message names near ones.
    """
    name = name.strip(".")
    below = (f"{name}.", f"{name}[")
    found = [Part(p.name, "", (k,)) for p in parts() for k in p.keys if k.name == name]
    found += [p for p in parts() if p.name and (p.name == name or p.name.startswith(below))]
    if found:
        return tuple(found)
    known = [key.name for part in parts() for key in part.keys]
    near = sorted((k for k in known if k.rpartition(".")[2] == name), key=lambda k: k.count("."))
    near += [k for k in difflib.get_close_matches(name, known, n=3, cutoff=0.5) if k not in near]
    by_leaf = difflib.get_close_matches(name, [k.rpartition(".")[2] for k in known], n=2)
    near += [k for k in known if k.rpartition(".")[2] in by_leaf and k not in near]
    hint = f"did you mean {' or '.join(near[:3])}?" if near else "`dpsd config` lists all keys"
    raise UserError(f"config key {name!r}: unknown; {hint}")


def reference_text(shown: Sequence[Part], width: int = 96) -> str:
    """For a terminal: each key with its default and what is accepted, its meaning below."""
    lines = list[str]()
    for part in shown:
        if part.meaning:
            lines += ["", f"[{part.name or 'top level'}] {part.meaning}"]
        for key in part.keys:
            what = f"{key.type}; {key.accepted}" if key.accepted else key.type
            lines += ["", f"{key.name} = {key.default}   ({what})"]
            lines += textwrap.wrap(key.meaning, width, initial_indent="    ",
                                   subsequent_indent="    ")  # fmt: skip
    return "\n".join(lines).strip("\n")


def reference_markdown(shown: Sequence[Part]) -> str:
    """A page: one heading and one table for each section."""
    pieces = [_HEAD]
    for part in shown:
        pieces.append(f"## {f'`{part.name}`' if part.name else 'Top level'}\n")
        if part.meaning:
            pieces.append(f"{part.meaning}\n")
        rows = [(f"`{k.name}`", k.type, f"`{k.default}`" if k.default != "required" else k.default,
                 k.accepted or "-", k.meaning) for k in part.keys]  # fmt: skip
        table = Table(("key", "type", "default", "accepted", "meaning"), rows, align="lllll")
        pieces.append(f"{table.markdown()}\n")
    return "\n".join(pieces)


def _parts(model: type[BaseModel], prefix: str) -> Iterator[Part]:
    meanings, keys, below = _docstrings(model), list[Key](), list[tuple[type[BaseModel], str]]()
    for name, field in model.model_fields.items():
        inner = _section_in(field.annotation)
        plain = inner is not None and field.annotation is inner
        if inner is not None:
            many = get_origin(_without_null(field.annotation)) is tuple
            below.append((inner, f"{prefix}{name}{'[]' if many else ''}"))
        if not plain:
            kind, accepted = _describe(field.annotation, tuple(field.metadata))
            keys.append(Key(f"{prefix}{name}", kind, _default(field), accepted,
                            meanings.get(name, "")))  # fmt: skip
    yield Part(prefix.rstrip("."), _paragraph(inspect.cleandoc(model.__doc__ or "")), tuple(keys))
    for inner, place in below:
        yield from _parts(inner, f"{place}.")


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The string that stands below each field of a section."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = dict[str, str]()
    for field, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = _paragraph(str(text.value.value))
    return found


def _paragraph(text: str) -> str:
    return " ".join(text.split())


def _default(field: FieldInfo) -> str:
    """As YAML on one line; what a factory makes depends on the machine."""
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined:
        return "by environment"
    value = field.default
    if isinstance(value, float):
        return f"{value:g}"  # YAML would write 4 as 4.0
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _without_null(annotation: Any) -> Any:
    inner = [a for a in get_args(annotation) if a is not type(None)]
    return inner[0] if _is_union(annotation) and len(inner) == 1 else annotation


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, alone, in a list or beside null."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_section_in(a) for a in get_args(annotation))
    return next((s for s in found if s is not None), None)


def _describe(annotation: Any, metadata: tuple[Any, ...]) -> tuple[str, str]:
    """Type and accepted values in words."""
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        return _describe(annotation, (*more, *metadata))
    limits = [text for item in metadata for text in _limits(item)]
    if _is_union(annotation):
        kinds = [_describe(a, ()) for a in get_args(annotation)]
        accepted = [a for kind, a in kinds if a and kind != "null"] + limits
        return " or ".join(kind for kind, _ in kinds), "; ".join(accepted)
    if annotation is type(None):
        return "null", ""
    if get_origin(annotation) is Literal:
        return "choice", " | ".join(str(a) for a in get_args(annotation))
    if get_origin(annotation) is tuple:
        return _describe_tuple(get_args(annotation), limits)
    if get_origin(annotation) is dict:
        names, values = (_describe(a, ()) for a in get_args(annotation))
        return f"mapping to {_many(values[0])}", f"keys {names[1]}" if names[1] else ""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section", ""
    return _NAMES.get(annotation, str(annotation)), ", ".join(limits)


def _describe_tuple(inner: tuple[Any, ...], limits: list[str]) -> tuple[str, str]:
    if inner[-1] is Ellipsis:
        kind, accepted = _describe(inner[0], ())
        return f"list of {_many(kind)}", "; ".join([*([accepted] if accepted else []), *limits])
    kinds = {_describe(a, ())[0] for a in inner}
    return f"list of {len(inner)} {_many(' or '.join(sorted(kinds)))}", ""


def _many(kind: str) -> str:
    """The plural of a type's name."""
    return kind.replace("list", "lists") if kind.startswith("list") else f"{kind}s"


def _limits(item: Any) -> Iterator[str]:
    for kind, (word, attribute) in _BOUNDS.items():
        if isinstance(item, kind):
            yield f"{word} {_number(getattr(item, attribute))}"
    if isinstance(item, MaxLen):
        yield f"up to {item.max_length} characters"
    if isinstance(item, FieldInfo):
        for inner in item.metadata:
            yield from _limits(inner)
    elif (pattern := getattr(item, "pattern", None)) is not None:
        yield f"text like `{pattern}`"


def _number(value: Any) -> str:
    return "2^63" if value == 2**63 else f"{value:g}"
