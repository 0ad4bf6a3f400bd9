"""Which keys of the configuration go together, section by section."""

from dpsd.config.public import NAMED, NUMBERED, public_photographs
from dpsd.config.sections import (
    DataConfig,
    FederatedConfig,
    GeneratorConfig,
    PrivacyConfig,
    StudentConfig,
    TeacherConfig,
)

MECHANISM_KEYS: dict[str, frozenset[str]] = {
    "gaussian": frozenset({"epsilon", "vector", "bound", "bound_norm", "top_k"}),
    "randomized_response": frozenset({"epsilon", "top_k", "prior", "ask", "explore"}),
    "noisy_votes": frozenset({"epsilon", "top_k"}),
    "none": frozenset(),
}
"""The keys of the privacy section that a mechanism reads; every mechanism reads the others."""
_FEDERATED_MECHANISMS = {
    "answer": ("gaussian", "randomized_response", "none"),
    "record": ("noisy_votes",),
    "client": ("noisy_votes",),
    "none": ("none",),
}
_FEDERATED_AGGREGATES = {
    "answer": ("plain", "confidence", "learned"),
    "record": ("plain", "confidence", "learned", "labels"),
    "client": ("plain",),
    "none": ("plain", "confidence", "labels", "logits"),
}


def check_sections(
    *,
    data: DataConfig,
    teacher: TeacherConfig,
    student: StudentConfig,
    generator: GeneratorConfig,
    privacy: PrivacyConfig,
    federated: FederatedConfig,
) -> None:
    """Refuse sections that contradict each other, and a claim without a guarantee behind it.

    Raises:
        ValueError: one line with field, value and what is accepted.
    """
    _check_privacy(privacy, teacher, data, federated)
    _check_generator(generator)
    if student.loss == "kd" and student.alpha > 1:
        raise ValueError(f"student.alpha: {student.alpha}; accepted with loss kd: from 0 to 1")


def _check_generator(g: GeneratorConfig) -> None:
    if g.kind == "images" and g.source is None:
        raise ValueError("generator.source: null; kind images needs a folder or an import path")
    if g.photographs == ():
        raise ValueError("generator.photographs: []; accepted: files or folders, or null")
    cut = bool(public_photographs(g))
    if g.photographs is not None and not cut:
        raise ValueError(
            f"generator.photographs: {[p.file for p in g.photographs]}, but no image is cut out of "
            "them; accepted with generator.shares.photographs above 0 (kind procedural or mixed)"
        )
    if g.augment is not None and not cut and g.kind != "images":
        raise ValueError(
            f"generator.augment: {list(g.augment)} with kind {g.kind} and no share of photographs; "
            "accepted with generator.shares.photographs above 0, or with kind images"
        )
    if g.augment is not None and g.kind == "images" and ":" in (g.source or ""):
        raise ValueError(
            f"generator.augment: {list(g.augment)} with generator.source {g.source}; accepted with "
            "a folder of images, or with a share of photographs"
        )
    if any(s < 0 for s in g.shares.values()) or sum(g.shares.values()) <= 0:
        raise ValueError(
            f"generator.shares: {g.shares}; accepted: numbers from 0, with a sum above 0"
        )


def _check_privacy(
    p: PrivacyConfig, teacher: TeacherConfig, data: DataConfig, federated: FederatedConfig
) -> None:
    _check_epsilon(p)
    if p.route == "federated":
        _check_federated(p, teacher, data, federated)
    elif p.mechanism == "noisy_votes" or p.route == "ensemble":
        _check_ensemble(p, teacher, data)
    elif p.route == "inherited":
        _check_inherited(p)
    elif p.mechanism != "none" and (p.unit != "answer" or p.route != "single"):
        raise ValueError(
            f"privacy.unit: {p.unit} (route {p.route}) with mechanism {p.mechanism}; "
            "accepted: unit answer, route single"
        )
    elif p.unit in ("record", "user"):
        raise ValueError(
            f"privacy.unit: {p.unit} with route {p.route} and mechanism none; one teacher's open "
            "answers protect nobody; accepted: route ensemble, or inherited for unit record"
        )
    if p.unit == "record" and data.name in NUMBERED and data.rows is None:
        raise ValueError(
            f"data.rows: null; a record claim on data of {data.name} needs a manifest of its rows, "
            "made by `dpsd manifest`"
        )
    if p.unit in ("record", "user", "client") and data.name not in (*NAMED, "none"):
        check_named(data, f"unit {p.unit}")
    _check_top_k(p)


def check_named(data: DataConfig, why: str) -> None:
    """Refuse data without a name where releases about their records are counted.

    Raises:
        ValueError: one line that says how to choose a name.
    """
    if data.dataset is None and data.name not in NAMED:
        raise ValueError(
            f"data.dataset: null with data.name {data.name}; {why} needs a name that you give to "
            "these people's data and never to others' (as in clinic-xrays-2024: letters, digits, "
            "dots, dashes, underscores), under which all releases about them are counted"
        )


def _check_epsilon(p: PrivacyConfig) -> None:
    if p.mechanism == "none" and p.epsilon is not None:
        why = "the teacher's own is stated" if p.route == "inherited" else "it privatises nothing"
        raise ValueError(f"privacy.epsilon: {p.epsilon} with mechanism none: {why}; set it to null")
    if p.mechanism != "none" and p.epsilon is None:
        raise ValueError(
            f"privacy.epsilon: null, but mechanism {p.mechanism} needs a number above 0"
        )


def _check_ensemble(p: PrivacyConfig, teacher: TeacherConfig, data: DataConfig) -> None:
    shards = teacher.shards
    if p.mechanism != "noisy_votes" or p.route != "ensemble":
        raise ValueError(
            f"privacy.route: {p.route} with mechanism {p.mechanism}; "
            "accepted: route ensemble with mechanism noisy_votes"
        )
    if p.unit not in ("record", "user"):
        raise ValueError(
            f"privacy.unit: {p.unit} with mechanism noisy_votes; accepted: record, user"
        )
    if shards is None:
        raise ValueError(
            "teacher.shards: null; mechanism noisy_votes needs the number of teachers, from 2"
        )
    if p.unit == "user" and data.user_ids is None:
        raise ValueError("data.user_ids: null; unit user needs a file of user ids")


def _check_inherited(p: PrivacyConfig) -> None:
    if p.mechanism != "none":
        raise ValueError(
            f"privacy.mechanism: {p.mechanism} with route inherited; accepted: none, since the "
            "student has the teacher's own guarantee"
        )
    if p.unit != "record":
        raise ValueError(f"privacy.unit: {p.unit} with route inherited; accepted: record")


def _check_top_k(p: PrivacyConfig) -> None:
    if p.mechanism != "randomized_response" or p.top_k is None:
        return
    if p.top_k < 2:
        raise ValueError(
            f"privacy.top_k: {p.top_k}; randomized_response needs at least 2, "
            "since 1 would carry nothing"
        )
    if p.prior == "uniform":
        raise ValueError(
            f"privacy.top_k: {p.top_k} with prior uniform; the top classes are the student's, "
            "so set privacy.prior to student or top_k to null"
        )


def _check_federated(
    p: PrivacyConfig, teacher: TeacherConfig, data: DataConfig, f: FederatedConfig
) -> None:
    mechanisms = _FEDERATED_MECHANISMS.get(p.unit)
    if mechanisms is None:
        raise ValueError(
            f"privacy.unit: {p.unit} with route federated; accepted: "
            f"{', '.join(_FEDERATED_MECHANISMS)}"
        )
    if p.mechanism not in mechanisms:
        raise ValueError(
            f"privacy.mechanism: {p.mechanism} with route federated and unit {p.unit}; "
            f"accepted: {', '.join(mechanisms)}"
        )
    unit = "none" if p.mechanism == "none" else p.unit
    if f.aggregate not in _FEDERATED_AGGREGATES[unit]:
        why = (
            "; a label histogram is a release about records, which unit answer does not cover"
            if f.aggregate == "labels" and unit == "answer"
            else ""
        )
        raise ValueError(
            f"federated.aggregate: {f.aggregate} with unit {unit}; "
            f"accepted: {', '.join(_FEDERATED_AGGREGATES[unit])}{why}"
        )
    if p.mechanism == "randomized_response" and p.ask == "graded":
        raise ValueError(
            "privacy.ask: graded with route federated; accepted: label, group, whose answers from "
            "several clients have a likelihood together"
        )
    _check_clients(unit, p, teacher, data, f)


def _check_clients(
    unit: str, p: PrivacyConfig, t: TeacherConfig, data: DataConfig, f: FederatedConfig
) -> None:
    if f.quorum is not None and f.quorum > f.clients:
        raise ValueError(
            f"federated.quorum: {f.quorum} is more than there are clients; "
            f"accepted: 1 to federated.clients ({f.clients})"
        )
    if f.nodes is not None and (unit != "client" or f.nodes > f.clients):
        raise ValueError(
            f"federated.nodes: {f.nodes} with unit {unit} and {f.clients} clients; accepted: null, "
            "or with unit client a number up to federated.clients"
        )
    if (unit == "record") != (t.shards is not None):
        raise ValueError(
            f"teacher.shards: {t.shards} with route federated and unit {unit}; accepted: the "
            "number of each client's teachers with unit record, else null"
        )
    if t.dp.epsilon is not None or t.path is not None:
        name = "path" if t.path is not None else "dp.epsilon"
        raise ValueError(f"teacher.{name}: not read with route federated; accepted: null")
    if f.partition == "users" and data.user_ids is None:
        raise ValueError("data.user_ids: null; federated.partition users needs a file of user ids")
    if f.partition == "own" and f.runtime != "deployment":
        raise ValueError(
            f"federated.partition: own with runtime {f.runtime}; accepted with deployment alone"
        )
