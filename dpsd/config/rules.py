"""Which routes, units and mechanisms go together: checks of a configuration's privacy section."""

from typing import TYPE_CHECKING

from dpsd.config.federated_rules import check_federated

if TYPE_CHECKING:
    from dpsd.config.config import Config
    from dpsd.config.sections import PrivacyConfig


def check_privacy(config: "Config") -> None:
    """Refuse what has no guarantee, or none that was asked for.

    Raises:
        ValueError: one line with field, value and what is accepted.
    """
    p = config.privacy
    _check_epsilon(p)
    if p.route == "federated":
        check_federated(config)
    elif p.mechanism == "noisy_votes" or p.route == "ensemble":
        _check_ensemble(config)
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
    if p.unit == "record" and config.data.name == "image_folder" and config.data.rows is None:
        raise ValueError(
            "data.rows: null; a record claim on an image folder needs a manifest of its rows, "
            "made by `dpsd manifest`"
        )
    _check_top_k(p)


def _check_epsilon(p: "PrivacyConfig") -> None:
    if p.mechanism == "none" and p.epsilon is not None:
        why = "the teacher's own is stated" if p.route == "inherited" else "it privatises nothing"
        raise ValueError(f"privacy.epsilon: {p.epsilon} with mechanism none: {why}; set it to null")
    if p.mechanism != "none" and p.epsilon is None:
        raise ValueError(
            f"privacy.epsilon: null, but mechanism {p.mechanism} needs a number above 0"
        )


def _check_ensemble(config: "Config") -> None:
    p, shards = config.privacy, config.teacher.shards
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
    if p.unit == "user" and config.data.user_ids is None:
        raise ValueError("data.user_ids: null; unit user needs a file of user ids")


def _check_inherited(p: "PrivacyConfig") -> None:
    if p.mechanism != "none":
        raise ValueError(
            f"privacy.mechanism: {p.mechanism} with route inherited; accepted: none, since the "
            "student has the teacher's own guarantee"
        )
    if p.unit != "record":
        raise ValueError(f"privacy.unit: {p.unit} with route inherited; accepted: record")


def _check_top_k(p: "PrivacyConfig") -> None:
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
