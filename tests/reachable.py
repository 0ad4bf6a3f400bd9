"""A walk over all that an object leads to, and what of it is a model."""

import functools
import types
from collections.abc import Iterator

from torch import Tensor


def reachable(*roots: object) -> Iterator[object]:
    """All objects behind attributes, slots, containers, closures, bound methods and defaults.

    Views of tensors lead to the whole tensor. Classes, modules and global names are left out.
    """
    seen, todo = dict[int, object](), [*roots]  # the dict keeps objects, so that ids stay theirs
    while todo:
        x = todo.pop()
        if id(x) in seen or isinstance(x, type | types.ModuleType):
            continue
        seen[id(x)] = x
        yield x
        todo.extend(getattr(x, "__dict__", {}).values())
        names = [n for k in type(x).__mro__ for n in getattr(k, "__slots__", ())]
        todo.extend(getattr(x, n) for n in names if hasattr(x, n))
        if isinstance(x, dict):
            todo += [*x, *x.values()]
        elif isinstance(x, list | tuple | set | frozenset):
            todo += [*x]
        elif isinstance(x, Tensor):
            todo.append(x._base)
        elif isinstance(x, functools.partial):
            todo += [x.func, x.args, x.keywords]
        elif isinstance(x, types.MethodType | types.BuiltinMethodType):
            todo.append(x.__self__)
            todo.append(getattr(x, "__func__", None))
        elif isinstance(x, types.FunctionType):
            todo += [c.cell_contents for c in x.__closure__ or ()]
            todo += [x.__defaults__, x.__kwdefaults__]
