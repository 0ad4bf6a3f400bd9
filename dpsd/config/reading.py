"""A configuration from YAML and `a.b=c` overrides, or one clear line on why it failed."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from dpsd.config.config import Config
from dpsd.config.rules import MECHANISM_KEYS
from dpsd.config.sections import PrivacyConfig
from dpsd.errors import UserError

_PATHS = {
    "data": ("root", "rows", "user_ids"),
    "teacher": ("root", "weights", "path"),
    "attacks": ("cache",),
}


def placed(config: Config) -> Config:
    """The same configuration with absolute paths, valid in any working directory."""
    changed = {}
    for name, keys in _PATHS.items():
        section = getattr(config, name)
        paths = {k: v.absolute() for k in keys if (v := getattr(section, k)) is not None}
        changed[name] = section.model_copy(update=paths)
    return config.model_copy(update=changed)


def load_config(
    path: Path | str | None,
    overrides: Sequence[str] = (),
    dropped: Callable[[str], None] | None = None,
) -> Config:
    """Read a YAML file, apply `a.b=c` overrides, validate.

    Args:
        path: of the file; None: the defaults.
        overrides: later ones win.
        dropped: as for `read_tree`.

    Raises:
        UserError: one line with the field, the value and what is accepted.
    """
    return parse_config(read_tree(path, overrides, dropped))


def read_tree(
    path: Path | str | None,
    overrides: Sequence[str] = (),
    dropped: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Read a YAML file and apply `a.b=c` overrides; only the syntax is validated.

    Args:
        path: of the file; None: an empty mapping.
        overrides: later ones win.
        dropped: receives a line that names the removed keys. With it, an override of
            `privacy.mechanism` removes the file's keys that the new mechanism does not read, unless
            another override sets them. None: these keys stay.

    Raises:
        UserError: one line on what cannot be read.
    """
    tree: Any = {}
    if path is not None:
        try:
            tree = yaml.safe_load(Path(path).read_text()) or {}
        except OSError as e:
            raise UserError(f"config {path}: {e.strerror or e}") from e
        except (yaml.YAMLError, UnicodeDecodeError) as e:
            raise UserError(f"config {path}: not YAML: {' '.join(str(e).split())}") from e
    if not isinstance(tree, dict):
        raise UserError(f"config {path}: a mapping of sections is expected, found {tree!r:.60}")
    before = _mechanism(tree)
    set_here = {_override(tree, item) for item in overrides}
    if dropped is not None and "privacy.mechanism" in set_here:
        _drop_unread(tree, before, set_here, dropped)
    return tree


def parse_config(tree: dict[str, Any]) -> Config:
    """Validate a tree of plain values.

    Raises:
        UserError: one line with the field, the value and what is accepted.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as e:
        raise UserError(_one_line(e)) from e


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _mechanism(tree: dict[str, Any]) -> Any:
    default = PrivacyConfig.model_fields["mechanism"].default
    privacy = tree.get("privacy")
    return privacy.get("mechanism", default) if isinstance(privacy, dict) else default


def _drop_unread(
    tree: dict[str, Any], before: Any, set_here: set[str], dropped: Callable[[str], None]
) -> None:
    """Remove the keys of the file's mechanism that the new one does not read."""
    after = _mechanism(tree)
    if not {before, after} <= MECHANISM_KEYS.keys():
        return  # validation refuses it
    unread = MECHANISM_KEYS[before] - MECHANISM_KEYS[after]
    keys = [k for k in tree["privacy"] if k in unread and f"privacy.{k}" not in set_here]
    values = {k: tree["privacy"].pop(k) for k in keys}
    if values:
        named = ", ".join(f"privacy.{k} ({v})" for k, v in values.items())
        dropped(f"privacy.mechanism={after} does not read {named} of the file: dropped")


def _override(tree: dict[str, Any], item: str) -> str:
    """Set one `a.b=c` in the tree; returns the key."""
    key, eq, text = item.partition("=")
    if not eq or not key:
        raise UserError(f"--set {item}: expected KEY=VALUE, as in privacy.epsilon=1")
    node = tree
    *parents, leaf = key.split(".")
    for name in parents:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise UserError(f"--set {item}: {name} is a value, not a section")
        node = child
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise UserError(f"--set {item}: the value is not YAML") from e
    return key


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _known_keys(Config), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{key}: unknown key (value {first['input']!r:.60}){hint}"
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{key}: {first['input']!r:.60} is not accepted: {message}"
