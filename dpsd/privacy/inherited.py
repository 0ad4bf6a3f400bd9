"""The DP ledger that a teacher trained by DP-SGD keeps beside its weights: `dp.json`.

Whatever is made from such a teacher alone is post-processing. It has the teacher's own guarantee
for one record.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpsd.errors import UserError
from dpsd.files import sync, whole_file
from dpsd.privacy.events import DpSgdRelease

DP_LEDGER = "dp.json"
_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class DpTraining:
    """All that is needed to recompute the guarantee of a training by DP-SGD.

    Args:
        teacher_uuid: of the teacher that was trained.
        noise_multiplier: standard deviation of the noise in units of the clipping norm.
        sample_rate: probability that a row is in a batch (Poisson sampling).
        steps: batches.
        max_grad_norm: the clipping norm C of a row's gradient.
        rows: of the training data, public.
        delta: the one at which the training aimed.
        seeded_noise: the noise can be predicted. Nothing is guaranteed then.
    """

    teacher_uuid: str
    noise_multiplier: float
    sample_rate: float
    steps: int
    max_grad_norm: float
    rows: int
    delta: float
    seeded_noise: bool = False

    @property
    def event(self) -> DpSgdRelease:
        """The whole training, as the accountant sees it."""
        return DpSgdRelease(self.noise_multiplier, self.sample_rate, self.steps)


def write_dp_ledger(folder: Path, training: DpTraining) -> None:
    """Write `dp.json` with a checksum in a teacher's folder, whole or not at all.

    It holds the hash of the weights that lie there, so that it vouches for no others.

    Raises:
        UserError: parameters that no training can have, or no weights.
    """
    path = folder / DP_LEDGER
    _check(path, training)
    facts = asdict(training) | {"weights_sha256": _weights_hash(folder)}
    with whole_file(path) as partial:
        partial.write_text(json.dumps(facts | {"checksum": _checksum(facts)}, indent=2) + "\n")
        sync(partial)


def read_dp_ledger(folder: Path, uuid: str) -> DpTraining:
    """The training of the teacher with this UUID.

    Raises:
        UserError: the ledger is missing, damaged (checksum), of another teacher or of other
            weights. Nothing may be claimed then.
    """
    path = folder / DP_LEDGER
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
        claimed, weights = facts.pop("checksum"), facts.get("weights_sha256")
        training = DpTraining(**{k: v for k, v in facts.items() if k != "weights_sha256"})
    except FileNotFoundError as e:
        raise UserError(
            f"DP ledger {path}: missing, so no guarantee is inherited; train the teacher with "
            "DP-SGD (`dpsd teacher --dp`), or set privacy.route to single"
        ) from e
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as e:
        raise UserError(f"DP ledger {path}: damaged, so no guarantee is inherited: {e}") from e
    if claimed != _checksum(facts):
        raise UserError(f"DP ledger {path}: fails its checksum, so no guarantee is inherited")
    if weights is None:
        raise UserError(
            f"DP ledger {path}: names no weights, as an older version wrote it, so no guarantee is "
            "inherited; train the teacher anew"
        )
    if weights != _weights_hash(folder):
        raise UserError(
            f"DP ledger {path}: its training gave other weights than {folder / _WEIGHTS} holds, so "
            "no guarantee is inherited; restore the weights"
        )
    if training.teacher_uuid != uuid:
        raise UserError(
            f"DP ledger {path}: belongs to teacher {training.teacher_uuid}, not {uuid}, so no "
            "guarantee is inherited"
        )
    _check(path, training)
    return training


def _weights_hash(folder: Path) -> str:
    """SHA-256 of the weights, in hex. Private: it stays in the teacher's folder."""
    try:
        return hashlib.sha256((folder / _WEIGHTS).read_bytes()).hexdigest()
    except OSError as e:
        raise UserError(f"teacher {folder / _WEIGHTS}: cannot be read: {e.strerror or e}") from e


def _checksum(facts: dict[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _check(path: Path, t: DpTraining) -> None:
    accepted = {
        "noise_multiplier": (t.noise_multiplier, 0.0, math.inf),
        "sample_rate": (t.sample_rate, 0.0, math.nextafter(1, 2)),
        "steps": (t.steps, 0, math.inf),
        "max_grad_norm": (t.max_grad_norm, 0.0, math.inf),
        "rows": (t.rows, 0, math.inf),
        "delta": (t.delta, 0.0, 1.0),
    }
    for name, (value, low, high) in accepted.items():
        kind = int if name in ("steps", "rows") else int | float
        if not (isinstance(value, kind) and low < value < high):
            upto = ("a finite " + ("whole " * (kind is int)) + "number") if high > 2 else "up to 1"
            raise UserError(f"DP ledger {path}: {name} is {value}; accepted: above 0, {upto}")
