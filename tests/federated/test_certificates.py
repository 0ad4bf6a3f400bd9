"""Credentials: accepted by an independent verifier, and refused in one line when they are wrong."""

import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from dpsd.errors import UserError
from dpsd.federated.certificates import Credentials, check_credentials, main, make_credentials


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    return make_credentials(tmp_path / "credentials", 2)


def verify(credentials: Credentials, subject: x509.GeneralName) -> None:
    authority, server = (
        x509.load_pem_x509_certificate(path.read_bytes())
        for path in (credentials.authority, credentials.certificate)
    )
    builder = PolicyBuilder().store(Store([authority]))
    builder.build_server_verifier(subject).verify(server, [])


def test_certificate_passes_a_verifier_that_is_not_openssl(credentials: Credentials) -> None:
    verify(credentials, x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    verify(credentials, x509.DNSName("localhost"))
    with pytest.raises(VerificationError):
        verify(credentials, x509.DNSName("example.org"))
    check_credentials(credentials, 2)
    check_credentials(credentials, 2, host="localhost")


def test_node_keys_are_pairs_on_p384(credentials: Credentials) -> None:
    assert [path.name for path in credentials.registered()] == ["node-0.pub", "node-1.pub"]
    numbers = set()
    for node in range(2):
        private = load_ssh_private_key(credentials.node_key(node).read_bytes(), None)
        public = load_ssh_public_key(credentials.node_key(node).with_suffix(".pub").read_bytes())
        assert private.public_key() == public
        assert private.curve.name == "secp384r1"
        numbers.add(private.private_numbers().private_value)
    assert len(numbers) == 2


def test_nobody_else_reads_the_keys_and_the_authoritys_is_not_kept(
    credentials: Credentials,
) -> None:
    assert credentials.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in credentials.folder.iterdir()} == {0o600}
    secret = [p.name for p in credentials.folder.iterdir() if "PRIVATE KEY" in p.read_text()]
    assert sorted(secret) == ["node-0", "node-1", "server.key"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("authority", "would refuse"),
        ("key", "key values mismatch"),
        ("text", "is not a certificate"),
        ("missing", "there is no file"),
    ],
)
def test_wrong_certificates_are_refused_in_one_line(
    credentials: Credentials, tmp_path: Path, spoil: str, words: str
) -> None:
    other = make_credentials(tmp_path / "other", 1)
    if spoil == "authority":
        credentials.authority.write_bytes(other.authority.read_bytes())
    elif spoil == "key":
        credentials.key.write_bytes(other.key.read_bytes())
    elif spoil == "text":
        credentials.authority.write_text("nothing")
    else:
        credentials.node_key(1).unlink()
    with pytest.raises(UserError, match=words) as caught:
        check_credentials(credentials, 2)
    assert "\n" not in str(caught.value)
    assert str(credentials.folder) in str(caught.value)


def test_an_expired_certificate_and_another_host_are_refused(tmp_path: Path) -> None:
    expired = make_credentials(tmp_path / "expired", 1, days=0)
    with pytest.raises(UserError, match="expired"):
        check_credentials(expired, 1)
    elsewhere = make_credentials(tmp_path / "elsewhere", 1, hosts=["example.org"])
    check_credentials(elsewhere, 1, host="example.org")
    with pytest.raises(UserError, match=r"127\.0\.0\.1"):
        check_credentials(elsewhere, 1)


def test_credentials_are_never_written_over(
    credentials: Credentials, capsys: pytest.CaptureFixture[str]
) -> None:
    before = credentials.key.read_bytes()
    assert main([str(credentials.folder), "--nodes", "2"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert credentials.key.read_bytes() == before
