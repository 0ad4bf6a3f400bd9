"""The recipe of a teacher that is trained here, and the name that recipe and data give it."""

import hashlib
import json
from typing import Any

from dpsd.config import NAMED, Config
from dpsd.data.identity import fingerprint
from dpsd.data.load import PrivateData


def recipe_of(config: Config) -> dict[str, Any]:
    """All that decides a training besides the private rows, as `teacher.json` keeps it."""
    t = config.teacher
    facts = {"model": t.model, "seed": t.seed, "data": config.data.name}
    if t.shards is not None:
        unit = "record" if config.data.user_ids is None else "user"
        facts |= {"shards": t.shards, "augment": t.augment, "unit": unit}
        if t.model == "scatter-linear":
            return facts | {"copies": t.copies, "ridge": t.ridge}
        return facts | {"steps": t.shard_steps, "batch_size": t.shard_batch, "lr": t.lr}
    if t.dp.epsilon is not None:
        seeded = config.privacy.insecure_seeded_noise
        return facts | {"dp": t.dp.model_dump() | {"seeded_noise": seeded}}
    return facts | {
        "epochs": t.epochs, "batch_size": t.batch_size, "lr": t.lr, "augment": t.augment
    }  # fmt: skip


def recipe_hash(config: Config, data: PrivateData) -> str:
    """The name of a teacher's folder, from its recipe and a private fingerprint of the data."""
    facts = recipe_of(config) | {"fingerprint": fingerprint(data)}
    if config.data.name not in NAMED:  # the same rows may be declared to be of more classes
        facts["classes"] = config.facts.classes
    if config.data.user_ids is not None:
        facts["users"] = hashlib.blake2b(config.data.user_ids.read_bytes()).hexdigest()
    text = json.dumps(facts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
