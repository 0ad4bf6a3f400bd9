"""Objects by import path, and errors in one line."""

import difflib
import importlib
import os
import re
import sys
from typing import Any

from dpsd.errors import UserError


def import_object(path: str) -> Any:
    """The object named by `package.module:name`; the current folder is importable.

    Raises:
        UserError: the path is malformed, or cannot be imported.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise UserError(f"import path {path!r}: expected package.module:callable{meant(path)}")
    if module_name.endswith(".py"):
        plain = module_name.removesuffix(".py").removeprefix("./").replace("/", ".")
        hint = f"name the module without .py; did you mean {plain}:{attribute}?"
        raise UserError(f"import path {path!r}: {hint}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    names: list[str] = []
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            names = dir(found)
            found = getattr(found, part)
    except AttributeError as e:
        near = ", ".join(difflib.get_close_matches(attribute, names, n=3)) or "nothing similar"
        raise UserError(f"import path {path!r}: {brief(e)}; it has {near}") from e
    except Exception as e:
        missing = e.name if isinstance(e, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):  # not one that it imports
            raise UserError(
                f"import path {path!r}: module {missing} was not found; searched: the current "
                f"folder {os.getcwd()} and the installed packages"
            ) from e
        raise UserError(f"import path {path!r}: cannot be imported ({brief(e)})") from e
    return found


def meant(path: str) -> str:
    """A hint, where an import path has a dot in place of the colon; else empty."""
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", path):
        return ""
    module, _, name = path.rpartition(".")
    return f"; did you mean {module}:{'callable' if name == 'py' else name}?"


def brief(error: BaseException) -> str:
    """An exception in one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text:.160}" if text else type(error).__name__
