"""Credentials of a federation: certificate authority, server certificate, node keys.

TLS tells the clients that they talk to the right server; node keys tell the server that it talks to
registered clients. A folder of credentials:

    authority.pem             trusted by everybody in the federation; its key is never written
    server.pem, server.key    what the SuperLink shows
    node-0, node-0.pub, ...   one pair for each SuperNode; a key is registered by its public half
"""

import argparse
import datetime
import ipaddress
import os
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dpsd.errors import UserError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Credentials:
    """A folder of credentials with the files that the module's docstring lists."""

    folder: Path

    @property
    def authority(self) -> Path:
        """The authority's certificate; the authority signed the server's."""
        return self.folder / "authority.pem"

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        """The server's private key."""
        return self.folder / "server.key"

    def node_key(self, node: int) -> Path:
        """Private key of node number `node`, counted from 0."""
        return self.folder / f"node-{node}"

    def registered(self) -> list[Path]:
        """Public keys to register with the SuperLink, sorted by name."""
        return sorted(self.folder.glob("*.pub"))


def make_credentials(
    folder: Path, nodes: int, hosts: Sequence[str] = (LOOPBACK, "localhost"), days: int = 365
) -> Credentials:
    """Write new credentials for one server and `nodes` clients; all keys are on the curve P-384.

    Args:
        folder: must be absent or empty; a new one gets mode 0700.
        nodes: number of SuperNodes.
        hosts: names and addresses under which the SuperLink is reached.
        days: how long the certificates are valid.

    Raises:
        UserError: the folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"credentials: {folder} is not empty; an empty or a new folder is accepted")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = Credentials(folder)
    authority_key, server_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    authority = _authority(authority_key, days)
    server = _server(server_key, hosts, days, authority, authority_key)
    _write(made.authority, authority.public_bytes(Encoding.PEM))
    _write(made.certificate, server.public_bytes(Encoding.PEM))
    _write(made.key, _pem(server_key, PrivateFormat.PKCS8))
    for node in range(nodes):
        key = ec.generate_private_key(ec.SECP384R1())
        _write(made.node_key(node), _pem(key, PrivateFormat.OpenSSH))
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        _write(made.node_key(node).with_suffix(".pub"), public + b"\n")
    return made


def check_credentials(credentials: Credentials, nodes: int, host: str = LOOPBACK) -> None:
    """Test the certificates by a TLS handshake in memory, before any process starts.

    Raises:
        UserError: a file is missing or unreadable, the key does not fit the certificate, or a
            client that trusts the authority alone would refuse the certificate for `host`.
    """
    wanted = [credentials.authority, credentials.certificate, credentials.key]
    for path in (*wanted, *(credentials.node_key(node) for node in range(nodes))):
        if not path.is_file():
            raise UserError(f"credentials: there is no file {path}")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(credentials.certificate, credentials.key)
    except (ssl.SSLError, OSError) as e:
        raise UserError(
            f"credentials: {credentials.certificate} and {credentials.key} are not a certificate "
            f"and its private key ({_reason(e)})"
        ) from None
    try:
        client = ssl.create_default_context(cafile=str(credentials.authority))
    except (ssl.SSLError, OSError) as e:
        raise UserError(
            f"credentials: {credentials.authority} is not a certificate ({_reason(e)})"
        ) from None
    try:
        _handshake(client, server, host)
    except ssl.SSLError as e:
        raise UserError(
            f"credentials: clients that trust {credentials.authority} would refuse "
            f"{credentials.certificate} for {host} ({_reason(e)})"
        ) from None


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> None:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname=host),
        server.wrap_bio(up, down, server_side=True),
    ]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)


def _reason(error: OSError) -> str:
    verdict = getattr(error, "verify_message", None) or getattr(error, "reason", None)
    return str(verdict or error.strerror or error).lower().replace("_", " ")


def _authority(key: ec.EllipticCurvePrivateKey, days: int) -> x509.Certificate:
    name = _name("dpsd federation authority")
    usage = _usage(digital_signature=False, key_cert_sign=True, crl_sign=True)
    return (
        _builder(name, name, key.public_key(), key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA384())
    )


def _server(
    key: ec.EllipticCurvePrivateKey,
    hosts: Sequence[str],
    days: int,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    names = x509.SubjectAlternativeName([_host(host) for host in hosts])
    public = authority_key.public_key()
    return (
        _builder(_name("dpsd SuperLink"), authority.subject, key.public_key(), public, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(names, critical=False)
        .sign(authority_key, hashes.SHA384())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
    days: int,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _usage(**true: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**dict.fromkeys(names.split(), False) | true)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey, form: PrivateFormat) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def _write(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m dpsd.federated.certificates FOLDER --nodes N`: make credentials."""
    parser = argparse.ArgumentParser(prog="dpsd.federated.certificates", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nodes", type=int, required=True, metavar="N")
    args = parser.parse_args(argv)
    try:
        make_credentials(args.folder, args.nodes)
    except UserError as e:
        sys.stderr.write(f"dpsd: error: {e}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
