"""The Ed25519 key beside a ledger: it signs the statements of the runs that the ledger holds.

The key is made on first use and never leaves the ledger's folder. A signature tells that whoever
holds the key made the statement; it does not tell that the statement is true.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dpsd.errors import UserError
from dpsd.files import make_once, write_json
from dpsd.privacy.chain import Chain

KEY_FILE = "ledger.key"
SIGNATURE_FILE = "statement.sig"


def signing_key(folder: Path) -> Ed25519PrivateKey:
    """The key beside a ledger, made on first use with mode 0600.

    Raises:
        UserError: it is unreadable, no Ed25519 key, others may read it, or it is gone although
            releases were signed with it.
    """
    path = folder / KEY_FILE
    if not (folder / "ledger.jsonl").exists():
        raise UserError(f"ledger {folder}: missing, so nothing can be signed; restore it")
    if not path.exists():
        if Chain(folder / "ledger.jsonl").releases():
            raise UserError(f"key {path}: missing, though releases were signed with it; restore it")
        _make(path)
    if (mode := path.stat().st_mode & 0o777) & 0o077:
        raise UserError(f"key {path}: mode {mode:04o}; accepted: 0600, so that nobody else signs")
    try:
        key = pem.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as e:
        raise UserError(f"key {path}: no readable private key; restore it") from e
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"key {path}: no Ed25519 key; restore it")
    return key


def sign(release: Path, key: Ed25519PrivateKey) -> None:
    """Sign `statement.json` of a release; the public key goes beside the signature."""
    signature = key.sign((release / "statement.json").read_bytes())
    write_json(
        release / SIGNATURE_FILE,
        {"algorithm": "Ed25519", "public_key": public_text(key.public_key()),
         "signature": base64.b64encode(signature).decode()},
    )  # fmt: skip


def check_signature(release: Path, wanted: Path | None = None) -> str:
    """The fingerprint of the key that signed `statement.json`.

    Args:
        release: the folder.
        wanted: a file with the public key that must have signed; None: any.

    Raises:
        UserError: no signature, a wrong one, or one by another key.
    """
    path = release / SIGNATURE_FILE
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
        if facts.keys() != {"algorithm", "public_key", "signature"}:
            raise ValueError(f"fields {', '.join(facts)}")
        if facts["algorithm"] != "Ed25519":
            raise ValueError(f"algorithm {facts['algorithm']}")
        key = _public(str(facts["public_key"]).encode())
        key.verify(
            base64.b64decode(facts["signature"], validate=True),
            (release / "statement.json").read_bytes(),
        )
    except FileNotFoundError as e:
        raise UserError(f"{path}: missing; an unsigned statement is nobody's") from e
    except InvalidSignature as e:
        raise UserError(f"{path}: does not fit statement.json: it was changed since") from e
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as e:
        raise UserError(f"{path}: no readable signature: {e}") from e
    if wanted is not None:
        expected = read_public(wanted)
        if public_text(expected) != public_text(key):
            raise UserError(
                f"--key {wanted}: is key {fingerprint(expected)}, but {path} was made with key "
                f"{fingerprint(key)}: the release is not from the holder of your key"
            )
    return fingerprint(key)


def read_public(path: Path) -> Ed25519PublicKey:
    """A public key from a PEM file.

    Raises:
        UserError: unreadable, or no Ed25519 public key.
    """
    try:
        return _public(path.read_bytes())
    except (OSError, ValueError, TypeError) as e:
        raise UserError(f"--key {path}: no readable Ed25519 public key (PEM)") from e


def public_text(key: Ed25519PublicKey) -> str:
    """The public key as PEM."""
    form = pem.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(pem.Encoding.PEM, form).decode()


def fingerprint(key: Ed25519PublicKey) -> str:
    """The first 32 hex digits of the SHA-256 of the raw public key, in groups of four."""
    raw = key.public_bytes(pem.Encoding.Raw, pem.PublicFormat.Raw)
    digits = hashlib.sha256(raw).hexdigest()[:32]
    return ":".join(digits[i : i + 4] for i in range(0, 32, 4))


def _public(text: bytes) -> Ed25519PublicKey:
    key = pem.load_pem_public_key(text)
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("no Ed25519 key")
    return key


def _make(path: Path) -> None:
    text = Ed25519PrivateKey.generate().private_bytes(
        pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()
    )
    make_once(path, text)
