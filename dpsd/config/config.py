"""The configuration: sections that agree with each other, read from YAML; frozen.

YAML in, one clear line out when it is wrong.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from dpsd.config.public import PublicFacts, public_facts
from dpsd.config.rules import check_privacy
from dpsd.config.sections import (
    AttacksConfig,
    DataConfig,
    FederatedConfig,
    GeneratorConfig,
    LoopConfig,
    PrivacyConfig,
    Section,
    StudentConfig,
    TeacherConfig,
)
from dpsd.errors import UserError


class Config(Section):
    """Everything that one command needs."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of forward passes; auto is bfloat16 where the processor or GPU computes in it."""
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    generator: GeneratorConfig = GeneratorConfig()
    loop: LoopConfig = LoopConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    attacks: AttacksConfig = AttacksConfig()
    federated: FederatedConfig = FederatedConfig()

    @model_validator(mode="before")
    @classmethod
    def _federated_rounds(cls, tree: Any) -> Any:
        """`federated.rounds` is another name of `loop.rounds`."""
        rounds = ((isinstance(tree, dict) and tree.get("federated")) or {}).get("rounds")
        if rounds is None:
            return tree
        loop = dict(tree.get("loop") or {})
        if loop.setdefault("rounds", rounds) != rounds:
            raise ValueError(f"federated.rounds: {rounds}, but loop.rounds is {loop['rounds']}")
        return tree | {"loop": loop}

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        check_privacy(self)
        g = self.generator
        if g.kind == "images" and g.source is None:
            raise ValueError("generator.source: null; kind images needs a folder or an import path")
        if any(s < 0 for s in g.shares.values()) or sum(g.shares.values()) <= 0:
            raise ValueError(
                f"generator.shares: {g.shares}; accepted: numbers from 0, with a sum above 0"
            )
        if self.student.loss == "kd" and self.student.alpha > 1:
            raise ValueError(
                f"student.alpha: {self.student.alpha}; accepted with loss kd: from 0 to 1"
            )
        self.queries_per_round()
        return self

    @property
    def facts(self) -> PublicFacts:
        """What is declared public of the data.

        Raises:
            UserError: an unknown name, or a missing or contradicting declaration.
        """
        return public_facts(self.data)

    def answers(self) -> int:
        """Images asked in the whole run, at most."""
        queries = self.queries_per_round()
        return self.privacy.answers or queries * self.loop.rounds

    def queries_per_round(self) -> int:
        """Images asked in one round; the last round takes what the division leaves over.

        Raises:
            ValueError: rounds, queries and answers do not agree.
        """
        rounds, queries, answers = (
            self.loop.rounds,
            self.loop.queries_per_round,
            self.privacy.answers,
        )
        if answers is None:
            return queries if queries is not None else 2000
        if answers < (queries or rounds):
            raise ValueError(
                f"privacy.answers: {answers} is too small for one round of "
                f"{queries or 'at least one query in each of the ' + str(rounds)}"
                f"{' queries' if queries else ' rounds'}; accepted: from {queries or rounds}"
            )
        if queries is None:
            return answers // rounds
        if rounds * queries != answers:
            raise ValueError(
                f"privacy.answers: {answers} is not loop.rounds * loop.queries_per_round "
                f"({rounds} * {queries} = {rounds * queries}); leave one of the three out"
            )
        return queries


_PATHS = {
    "data": ("root", "rows", "user_ids"),
    "teacher": ("root", "weights", "path"),
    "attacks": ("cache",),
}


def placed(config: Config) -> Config:
    """The same configuration with absolute paths, which mean the same in any working directory."""
    changed = {}
    for name, keys in _PATHS.items():
        section = getattr(config, name)
        paths = {k: v.absolute() for k in keys if (v := getattr(section, k)) is not None}
        changed[name] = section.model_copy(update=paths)
    return config.model_copy(update=changed)


def load_config(path: Path | str | None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `a.b=c` overrides, validate.

    Raises:
        UserError: one line with the field, the value and what is accepted.
    """
    return parse_config(read_tree(path, overrides))


def read_tree(path: Path | str | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a YAML file and apply `a.b=c` overrides; nothing is validated but the syntax.

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
    for item in overrides:
        _override(tree, item)
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


def _override(tree: dict[str, Any], item: str) -> None:
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


def quorum(config: "Config") -> int:
    """Clients that must answer in each round."""
    return config.federated.quorum or config.federated.clients
