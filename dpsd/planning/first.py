"""A first configuration from what somebody has: the route that fits, and what it protects."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from dpsd.config import NAMED, NUMBERED, Config, parse_config
from dpsd.config.public import SHIPPED_PHOTOGRAPHS
from dpsd.data.users import read_roster
from dpsd.errors import UserError
from dpsd.planning.priors import priors
from dpsd.planning.promise import next_commands, protects
from dpsd.planning.votes import Choice, best_choice, search, stand_ins

Training = Literal["dp", "shards", "no"]
MANY_CLIENTS = 200
"""From so many clients on the votes can hide a whole client."""
_DELTA = 1e-5
_SMALL, _LARGE = 40, 96  # pixels of the longer side
_COLUMN = 35  # where comments begin


@dataclass(frozen=True)
class Holdings:
    """What somebody has, by public facts alone.

    Attributes:
        data: a name that dpsd knows, a folder, an npz file or an import path; None: no data.
        shape: channels, height, width of an image; data that dpsd knows have their own.
        classes: their number; likewise.
        rows: number of training records; likewise.
        dataset: the name that is given to these people's data.
        weights: a trained model's file.
        model: its architecture.
        training: whether teachers may be trained anew: by DP-SGD, on shards alone, or not.
        users: npz of user ids, where one person has several records.
        clients: how many keep their data at home; None: there are none.
        epsilon: for the unit of the route; None: a usual value.
    """

    data: str | None = None
    shape: tuple[int, int, int] | None = None
    classes: int | None = None
    rows: int | None = None
    dataset: str | None = None
    weights: str | None = None
    model: str | None = None
    training: Training = "dp"
    users: str | None = None
    clients: int | None = None
    epsilon: float | None = None


@dataclass(frozen=True)
class Line:
    """One line of the file: a key with its value as YAML, and why it is there."""

    key: str
    value: Any
    why: str = ""


@dataclass(frozen=True)
class First:
    """A first configuration.

    Attributes:
        text: the file, commented YAML.
        config: the same, validated.
        protects: what it will and will not protect, with the unit.
        next: the commands to go on with.
    """

    text: str
    config: Config
    protects: tuple[str, ...]
    next: tuple[str, ...]


def first_config(has: Holdings, file: str) -> First:
    """The configuration of the route that fits.

    Args:
        has: what there is.
        file: the name that the file will have, for the commands.

    Raises:
        UserError: something is missing, or too little for any claim.
    """
    _check(has)
    route, unit = choose(has)
    sections = {
        "data": _data(has, route, unit),
        "teacher": _teacher(has, route, unit),
        "student": _student(has, route),
        "generator": _generator(has),
        "loop": [Line("rounds", _rounds(route))],
        "privacy": _privacy(has, route, unit),
    }
    if route == "federated":
        sections["federated"] = _federated(has)
    head = f"# Route {route}: epsilon protects one {unit}. `dpsd config KEY` explains each key."
    text = "\n".join([head, *_written(sections)]) + "\n"
    config = parse_config(yaml.safe_load(text))
    return First(text, config, tuple(protects(config)), tuple(next_commands(config, file)))


def choose(has: Holdings) -> tuple[str, str]:
    """Route and unit: the strongest that is open to what there is."""
    if has.clients is not None:
        if has.clients >= MANY_CLIENTS:
            return "federated", "client"
        return "federated", "answer" if has.training == "no" else "record"
    if has.data is None or has.training == "no":
        return "single", "answer"
    if has.users is not None:
        return "ensemble", "user"
    return ("inherited" if has.training == "dp" else "ensemble"), "record"


def kind_of(data: str | None) -> str:
    """`data.name` for what was given."""
    if data is None:
        return "none"
    if data in NAMED or ":" in data:
        return data
    if data.endswith(".npz"):
        return "npz"
    tars = Path(data).is_dir() and any(Path(data).rglob("*.tar"))
    return "webdataset" if tars else "image_folder"


def known_name(has: Holdings) -> bool:
    """Whether dpsd knows shape, classes and rows of the data."""
    return has.data in NAMED


def _check(has: Holdings) -> None:
    if has.data is None and has.weights is None:
        raise UserError("--data, --weights: neither; accepted: data, a trained model, or both")
    if has.weights is None and has.training == "no":
        raise UserError(
            "--train no: without --weights there is no teacher; accepted: dp, shards, or no with "
            "--weights FILE"
        )
    if has.weights is not None and has.model is None:
        raise UserError(
            "--model: missing; with --weights name its architecture (resnet18, or "
            "package.module:callable)"
        )
    if has.users is not None and has.data is None:
        raise UserError(f"--users: {has.users} without --data; accepted with data")
    if has.clients is not None and has.data is None:
        raise UserError("--data: missing; say what each client's data are")
    if not known_name(has):
        for flag, value, what in (("shape", has.shape, "C,H,W"), ("classes", has.classes, "K")):
            if value is None:
                raise UserError(f"--{flag}: missing; it becomes public, as in --{flag} {what}")
        if choose(has)[1] in ("record", "user", "client") and has.rows is None:
            raise UserError("--rows: missing; about how many training records there are, from 2")


def _shape(has: Holdings) -> tuple[int, int, int]:
    shape = NAMED[has.data].shape if has.data in NAMED else has.shape
    assert shape is not None
    return shape


def _classes(has: Holdings) -> int:
    classes = len(NAMED[has.data].class_names) if has.data in NAMED else has.classes
    assert classes is not None
    return classes


def _rows(has: Holdings) -> int:
    rows = NAMED[has.data].rows if has.data in NAMED else has.rows
    assert rows is not None
    return rows if has.clients is None else max(1, rows // has.clients)


def _delta(has: Holdings, unit: str) -> float:
    """1e-5, or a smaller power of ten that is below 1/M, M the number of units."""
    units = has.clients if unit == "client" else _rows(has)
    delta = _DELTA
    while delta >= 1 / (units or 1):
        delta /= 10
    return delta


def _data(has: Holdings, route: str, unit: str) -> Iterator[Line]:
    name = kind_of(has.data)
    yield Line("name", name)
    if name in NUMBERED or name == "npz":
        yield Line("root", has.data, "of each client, on its own machine" if has.clients else "")
    if not known_name(has):
        yield Line("shape", list(_shape(has)), "channels, height, width: declared public")
        yield Line("classes", _classes(has), "declared public")
    if has.dataset is not None or (has.data is not None and not known_name(has)):
        why = "your name for these people's data: one ledger for all releases"
        yield Line("dataset", has.dataset or "my-data", why)
    if unit == "record" and name in NUMBERED:
        yield Line("rows", "rows.txt", "made by `dpsd manifest`: numbers the records")
    if unit == "user":
        yield Line("user_ids", has.users, "npz: user_ids [rows], roster [users]")


def _teacher(has: Holdings, route: str, unit: str) -> Iterator[Line]:
    small = "scatter-public" if _shape(has)[0] == 3 else "scatter-linear"
    if route == "inherited":
        batch = min(4096, max(2, _rows(has) // 12))
        yield Line("model", small, "one linear layer on fixed features: DP-SGD trains it best")
        dp = {"epsilon": has.epsilon or 3.0, "delta": _delta(has, unit), "batch_size": batch}
        yield Line("dp", dp, "epsilon for one record, replace-one")
    elif route == "ensemble":
        yield Line("model", "scatter-linear", "one linear layer on fixed wavelet features")
        yield Line("shards", _choice(has, unit).shards, "teachers, each on its own records")
        yield Line("augment", "affine")
    elif has.weights is not None and has.training == "no":
        yield Line("model", has.model, "the architecture of your weights")
        yield Line("weights", has.weights, "state dict, safetensors, TorchScript or torch.export")
        yield Line("# normalize", {"mean": [0.5], "std": [0.5]}, "if it wants normalised images")
    elif unit == "record":
        shards = max(2, min(1000, _rows(has) // 20))
        yield Line("model", "scatter-linear", "of each client's teachers")
        yield Line("shards", shards, "teachers of each client, each on its own records")
    else:
        yield Line("model", "cnn-small", "of each client, trained at its home")


def _student(has: Holdings, route: str) -> Iterator[Line]:
    shape = _shape(has)
    if route == "inherited":
        model = "scatter-public" if shape[0] == 3 else "scatter-linear"
        yield Line("model", model, "takes over best what its teacher does; any other can be named")
        yield Line("loss", "kd" if shape[0] == 3 else "dkd")
        return
    side = max(shape[1:])
    if side > _LARGE:
        yield Line("model", "resnet18", "its first layers shrink large images")
        yield Line("batch_size", 32, "more take more memory: `dpsd plan` says how much")
    else:
        yield Line("model", "cnn-small" if side <= _SMALL else "resnet20")
    yield Line("loss", "likelihood")
    if route == "ensemble":
        yield Line("smoothing", 0.1)


def _generator(has: Holdings) -> Iterator[Line]:
    data: dict[str, Any] = {"name": kind_of(has.data)}
    if not known_name(has):
        data |= {"shape": list(_shape(has)), "classes": _classes(has)}
    fits = priors(parse_config({"data": data, "privacy": {"mechanism": "none"}}))["fits"]
    if fits[0] == "photographs" and _shape(has)[0] == 3:
        fits = ["photographs"]
    names = " and ".join(p.file for p in SHIPPED_PHOTOGRAPHS)
    photographs = f"the photographs {names} are declared public"
    yield Line("shares", dict.fromkeys(fits, 1), photographs if "photographs" in fits else "")


def _rounds(route: str) -> int:
    return {"inherited": 10, "ensemble": 8, "federated": 10}.get(route, 40)


def _privacy(has: Holdings, route: str, unit: str) -> Iterator[Line]:
    yield Line("route", route)
    yield Line("unit", unit, "what epsilon protects")
    if route == "inherited":
        yield Line("mechanism", "none", "post-processing: answers need no noise of their own")
        yield Line("answers", 60_000, "their number costs no epsilon")
        return
    if unit == "answer":
        epsilon = has.epsilon or 4.0
        yield Line("mechanism", "randomized_response", "a label, at times another one")
        yield Line("epsilon", epsilon, "for one answer; no claim for a record")
        if epsilon <= 2:
            yield Line("ask", "group", "yes or no: is the class in this half?")
            yield Line("explore", 0)
        yield Line("answers", 100_000, "more teach more: `dpsd plan` estimates the time")
        return
    yield Line("mechanism", "noisy_votes")
    yield Line("epsilon", has.epsilon or 3.0, f"for one {unit}, all answers together")
    yield Line("delta", _delta(has, unit))
    answers = 8000 if route == "federated" else _choice(has, unit).answers
    yield Line("answers", answers, "fewer answers, less noise on each")


def _federated(has: Holdings) -> Iterator[Line]:
    yield Line("clients", has.clients)
    if known_name(has):
        yield Line("partition", "iid", "a trial: the rows are dealt to clients of this process")
    else:
        yield Line("partition", "own", "each client's own data")
        yield Line("runtime", "deployment")


def _choice(has: Holdings, unit: str) -> Choice:
    """The size of an ensemble, as `dpsd plan --route ensemble` finds it."""
    rows = _rows(has)
    choices = search(
        stand_ins()["mnist" if has.data in ("mnist", "digits") else "fashion_mnist"], rows=rows,
        most=rows if unit == "record" else _users(has), classes=_classes(has),
        epsilon=has.epsilon or 3.0, delta=_delta(has, unit),
    )  # fmt: skip
    if not choices:
        raise UserError(
            f"--rows: {rows:,} records of {_classes(has)} classes are too few to cut into shards; "
            "accepted: more records, or --train no for unit answer"
        )
    return best_choice(choices)


def _users(has: Holdings) -> int:
    """How many there are on the roster; a guess where its file is not there yet."""
    return read_roster(Path(str(has.users))) if Path(str(has.users)).exists() else _rows(has) // 5


def _written(sections: dict[str, Any]) -> Iterator[str]:
    """The file's lines, each comment in its column or above a line without room for it.

    Plain values of a section share one line with braces.
    """
    for name, made in sections.items():
        lines = list(made)
        if not any(line.why for line in lines):
            yield f"{name}: {_as_yaml({line.key: line.value for line in lines})}"
            continue
        yield f"{name}:"
        for line in lines:
            text = f"  {line.key}: {_as_yaml(line.value)}"
            both = f"{text:<{_COLUMN}} # {line.why}" if line.why else text
            if len(both) > 100:
                yield f"  # {line.why}"
            yield text if len(both) > 100 else both


def _as_yaml(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if value >= 1e-3 else f"{value:.1e}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_as_yaml(v)}" for k, v in value.items()) + "}"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
