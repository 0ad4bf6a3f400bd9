"""The user's own teacher: import path, torchvision name, TorchScript or `torch.export` file."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from dpsd.config import PublicFacts
from dpsd.config.sections import TeacherConfig
from dpsd.errors import UserError
from dpsd.imports import brief
from dpsd.models.frozen import Teacher
from dpsd.models.networks import OWN, build_model, call_factory, torchvision_model

_WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys of a checkpoint below which the weights may lie, looked for in this order."""
_PREFIXES = re.compile(r"^((_orig_mod|_module|module)\.)+")
"""What torch.compile, Opacus, DataParallel and moving averages put before names."""


def load_own_teacher(config: TeacherConfig, facts: PublicFacts) -> Teacher:
    """The user's own model, as `read_own_teacher` reads it."""
    return read_own_teacher(config, facts)[0]


def read_own_teacher(config: TeacherConfig, facts: PublicFacts) -> tuple[Teacher, str]:
    """The user's own model: import path, torchvision or own name with weights, or a whole program.

    The text says what was unwrapped: keys of the checkpoint, prefixes of names. It may be empty.

    `weights` may be a state dict (.pt, read with `weights_only`), safetensors, TorchScript or a
    `torch.export` file. The content of the file decides which. The last two need no `model`.

    Raises:
        UserError: a missing or damaged file, names that do not match, or a model that does not take
            the declared images.
    """
    path, name, unwrapped = config.weights, config.model, list[str]()
    if path is None:
        if ":" not in name:
            raise UserError(f"teacher.weights: missing; {name} is untrained without them")
        model = call_factory(name, facts.classes)
        model = model if isinstance(model, nn.Module) or not callable(model) else _Function(model)
    elif not path.is_file():
        raise UserError(f"teacher.weights: no file {path.absolute()}")
    else:
        try:
            program = _read_weights(path)
        except Exception as e:
            hint = "accepted: state dict (.pt), .safetensors, TorchScript, torch.export"
            raise UserError(f"teacher.weights: {path} is unreadable ({_fault(e)}); {hint}") from e
        model = program if isinstance(program, nn.Module) else None
        if model is None:
            state, keys = _plain_state(program, path)
            if ":" in name:
                model = call_factory(name, facts.classes)
            elif name in OWN or all(k[:4] == "net." for k in state):
                model = build_model(name, facts.shape, facts.classes)
            else:
                model = torchvision_model(name, facts.classes)
            if isinstance(model, nn.Module):
                prefixes = _load(model, state, path)
                unwrapped = [*(f"key '{k}'" for k in keys),
                             *(f"prefix '{p}' removed" for p in prefixes)]  # fmt: skip
    if not isinstance(model, nn.Module):
        raise UserError(f"teacher.model: {name} gave {type(model).__name__}; accepted: nn.Module")
    teacher = Teacher(model, classes=facts.classes, shape=facts.shape, normalize=config.normalize)
    return teacher, ", ".join(unwrapped)


class _Function(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def _read_weights(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return load_file(path)
    names = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
    if any(
        name.endswith(("/archive_format", "serialized_exported_program.json")) for name in names
    ):
        return torch.export.load(path).module()
    if any(name.endswith("/constants.pkl") for name in names):
        load_script: Callable[..., Any] = torch.jit.load
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # deprecated, but in use
            return load_script(str(path), map_location="cpu")
    return torch.load(path, map_location="cpu", weights_only=True)


def _fault(error: Exception) -> str:
    """Why a file of weights is unreadable. Torch's own texts are long, and give other advice."""
    if isinstance(error, EOFError):
        return "it is empty or cut"
    if not isinstance(error, pickle.UnpicklingError):
        return brief(error).split(". ")[0]
    if (found := re.search(r"Unsupported global: GLOBAL (\S+)", str(error))) is None:
        return "it is no checkpoint, or damaged"
    return f"it holds an object {found[1]} and not tensors alone; save model.state_dict() alone"


def _plain_state(tree: Any, path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors by name, and the keys of the checkpoint below which they lie."""
    keys = []
    for key in _WRAPPERS:
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            tree = tree[key]
            keys.append(key)
    if not isinstance(tree, Mapping):
        what = type(tree).__name__
        raise UserError(f"teacher.weights: {path} holds a {what}; accepted: a state dict")
    return {str(k): v for k, v in tree.items() if isinstance(v, torch.Tensor)}, keys


def _load(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> list[str]:
    """Fill the model; returns the prefixes that were removed from the names."""
    wanted, prefixes = model.state_dict(), set[str]()
    if not wanted.keys() <= state.keys():
        prefixes = {found[0] for k in state if (found := _PREFIXES.match(k))}
        state = {_PREFIXES.sub("", k): v for k, v in state.items()}
        state = {k.replace("._orig_mod.", "."): v for k, v in state.items() if k != "n_averaged"}
    missing = [k for k in wanted.keys() - state.keys() if not k.endswith("num_batches_tracked")]
    resized = [k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape]
    problems = {"missing": missing, "unexpected": [*(state.keys() - wanted.keys())]}
    texts = [
        f"{len(names)} {kind} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in problems.items()
        if names
    ]
    for k in sorted(resized)[:1]:
        given, here = list(state[k].shape), list(wanted[k].shape)
        texts.append(f"{k} is {given} in the file and {here} in the model")
    if texts:
        hint = "check teacher.model and data.classes"
        raise UserError(
            f"teacher.weights: {path} does not fit the model: {'; '.join(texts)}; {hint}"
        )
    model.load_state_dict(state, strict=False)
    return sorted(prefixes)
