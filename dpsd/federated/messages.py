"""The messages between server and clients, with the one list of fields that may travel.

Down: synthetic images, and the student's prediction where the mechanism needs it. Images travel as
uint8, or as a seed and the generator's weights where that is smaller. Up: answers. A teacher's
weights, losses, accuracies or label counts have no field here. The label histogram of aggregate
`labels` is a release with noise and a charge of its own.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from dpsd.errors import UserError

if TYPE_CHECKING:
    from dpsd.config import Config

HELLO, ANSWER, LABELS = "query.hello", "query.answer", "query.labels"
FACTS, ARRAYS, WEIGHTS = "facts", "arrays", "weights"
"""Names of the records in a message."""
REFUSALS = ("budget", "images", "request", "failed")
"""All reasons that a client gives for no answer. They are public, never an exception's text."""
ALLOWED: dict[tuple[str, str], dict[str, frozenset[str]]] = {
    (HELLO, "down"): {FACTS: frozenset({"run"})},
    (HELLO, "up"): {FACTS: frozenset({"clients", "classes", "shape", "settings", "refused"})},
    (ANSWER, "down"): {
        FACTS: frozenset({"run", "position", "round", "count", "digest", "seed"}),
        ARRAYS: frozenset({"images", "prior"}),
    },
    (ANSWER, "up"): {
        FACTS: frozenset({"clients", "position", "refused", "settings"}),
        ARRAYS: frozenset({"values", "group"}),
    },
    (LABELS, "down"): {FACTS: frozenset({"run"})},
    (LABELS, "up"): {
        FACTS: frozenset({"clients", "refused"}),
        ARRAYS: frozenset({"labels"}),
    },
}
"""(message type, direction) -> record -> fields. Requests for answers may also hold the record
`weights`: the public generator's weights under its own parameter names."""


@dataclass(frozen=True)
class Request:
    """A round's question to every client.

    Attributes:
        run: the run's id.
        position: number of images that the server asked before in this run; names the request.
        round: number of the loop's round; selects the synthesizer's random stream.
        images: uint8 [B, C, H, W].
        prior: float32 [B, K] with values that float16 holds, or None.
        weights: of the trainable generator, empty without one.
        seed: of the synthesizer; None where images cannot be made from a seed.
    """

    run: str
    position: int
    round: int
    images: Tensor
    prior: Tensor | None = None
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int | None = None

    def __len__(self) -> int:
        return len(self.images)


def digest(images: Tensor) -> bytes:
    """16 bytes that name a batch of images, uint8 [B, C, H, W]."""
    return hashlib.blake2b(images.contiguous().numpy().data, digest_size=16).digest()


def as_travelled(prior: Tensor) -> Tensor:
    """The prior as a client receives it, float32 [B, K]: it travels in float16."""
    return prior.half().float()


def encode_request(request: Request, *, raw: bool = False) -> RecordDict:
    """The request as records. A seed replaces the images where that is smaller, unless `raw`."""
    facts: dict[str, Any] = {
        "run": request.run, "position": request.position, "round": request.round,
        "count": len(request), "digest": digest(request.images),
    }  # fmt: skip
    arrays, records = {}, RecordDict()
    weights = sum(w.numel() * w.element_size() for w in request.weights.values())
    if request.seed is not None and not raw and weights < request.images.numel():
        facts["seed"] = request.seed
        if request.weights:
            records[WEIGHTS] = _arrays({k: w.cpu().numpy() for k, w in request.weights.items()})
    else:
        arrays["images"] = request.images.numpy()
    if request.prior is not None:
        arrays["prior"] = request.prior.half().numpy()
    records[FACTS] = ConfigRecord(facts)
    records[ARRAYS] = _arrays(arrays)
    return records


def decode_prior(records: RecordDict) -> Tensor | None:
    """The student's prediction in a request, float32 [B, K], or None."""
    found = arrays_of(records)
    return torch.from_numpy(found["prior"]).float() if "prior" in found else None


def reply(clients: list[int], arrays: Mapping[str, NDArray[Any]], **facts: Any) -> RecordDict:
    """A client's reply as records."""
    records = RecordDict({FACTS: ConfigRecord({"clients": clients} | facts)})
    if arrays:
        records[ARRAYS] = _arrays(arrays)
    return records


def refusal(clients: list[int], reason: str, **facts: Any) -> RecordDict:
    """A reply without an answer; its public reason is one of `REFUSALS`."""
    assert reason in REFUSALS
    return reply(clients, {}, refused=reason, **facts)


def check_fields(records: RecordDict, kind: str, direction: str) -> None:
    """Refuse a message that holds anything but the allowed fields.

    Raises:
        UserError: a field is not allowed; the message names the first.
    """
    allowed = ALLOWED.get((kind, direction), {})
    weights_too = (kind, direction) == (ANSWER, "down")
    for name, record in records.items():
        if name == WEIGHTS and weights_too and isinstance(record, ArrayRecord):
            continue
        extra = sorted(set(record) - allowed.get(name, frozenset()))
        wrong = isinstance(record, ConfigRecord) != (name == FACTS)
        if name not in allowed or extra or wrong:
            field = f"{name}.{extra[0] if extra else ''}"
            raise UserError(
                f"message {kind} {direction}: field {field:.60} is not allowed to travel"
            )


def facts_of(records: RecordDict) -> dict[str, Any]:
    """The plain values of a message."""
    found = records.get(FACTS)
    return dict(found) if isinstance(found, ConfigRecord) else {}


def arrays_of(records: RecordDict, name: str = ARRAYS) -> dict[str, NDArray[Any]]:
    """The arrays of one record, as copies.

    Raises:
        ValueError: an array cannot be read.
    """
    found = records.get(name)
    arrays = {k: a.numpy() for k, a in found.items()} if isinstance(found, ArrayRecord) else {}
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy's reader also opens archives
            raise ValueError(f"{key} is no array")
    return arrays


def size_of(records: RecordDict) -> int:
    """Bytes of a message's content."""
    return sum(record.count_bytes() for record in records.values())


def smallest(values: NDArray[Any]) -> NDArray[Any]:
    """Integers in the narrowest type that holds them all; floats unchanged."""
    if values.dtype.kind not in "iu" or not values.size:
        return values
    low, high = int(values.min()), int(values.max())
    for kind in (np.uint8, np.int8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind)
    return values.astype(np.int64)


def pack_group(support: Tensor, size: Tensor, classes: int) -> NDArray[np.uint8]:
    """The first `size` of `support` as bits, uint8 [B, ceil(K / 8)]."""
    within = torch.arange(support.shape[1])[None] < size[:, None]
    mask = torch.zeros((len(support), classes), dtype=torch.bool).scatter_(1, support, within)
    return np.packbits(mask.numpy(), axis=1)


def unpack_group(bits: NDArray[np.uint8], classes: int) -> tuple[Tensor, Tensor]:
    """The inverse of `pack_group`: support int64 [B, K] and size int64 [B]."""
    mask = torch.from_numpy(np.unpackbits(bits, axis=1, count=classes).astype(np.int64))
    return mask.argsort(dim=1, descending=True, stable=True), mask.sum(1)


def group_width(classes: int) -> int:
    """Bytes of a packed group."""
    return math.ceil(classes / 8)


def _arrays(tensors: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    return ArrayRecord({k: Array(np.ascontiguousarray(a)) for k, a in tensors.items()})


def settings(config: "Config") -> str:
    """A short hash of all public settings that server and clients must agree on."""
    import hashlib
    import json

    privacy = config.privacy.model_dump(mode="json", exclude={"allow_open"})  # each keeps a ledger
    f = config.federated
    facts = {"privacy": privacy, "clients": f.clients, "nodes": f.nodes,
             "aggregate": f.aggregate, "labels_share": f.labels_share,
             "shards": config.teacher.shards,
             "answers": config.answers(), "classes": config.facts.classes,
             "shape": config.facts.shape}  # fmt: skip
    text = json.dumps(facts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
