"""Bad input at the command lines of a deployment: one line, exit code 2, no process left."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from left_behind import needs_proc, with_mark

from dpsd.cli import main
from dpsd.federated import OFF
from dpsd.federated.certificates import Credentials, make_credentials
from dpsd.federated.deployment import deploy as module
from dpsd.federated.deployment.flower import flower_environment, write_connection
from dpsd.federated.deployment.processes import processes
from dpsd.federated.node import free_ports

ROOT = Path(__file__).resolve().parents[3]
CLIENTS = ("flower-supernode", "clientapp", "dpsd.federated.node")
"""What stands in the command of every process of a client, and in none of the link's."""


def command_of(pid: int) -> str:
    """A process's command; empty if it has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


YAML = """
device: cpu
teacher: {root: %s}
loop: {rounds: 2}
privacy: {route: federated, epsilon: 8, answers: 400}
federated: {clients: 3, partition: iid, runtime: deployment}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "f.yaml").write_text(YAML % (tmp_path / "teachers"))
    return tmp_path / "f.yaml"


def test_a_port_in_use_at_the_command_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        argv = ["federate", str(file), "--out", str(file.parent / "run"), "--port", str(port)]
        assert main(argv) == 2
    err = capsys.readouterr().err
    assert f"port: 127.0.0.1:{port} cannot be used" in err and err.count("\n") == 1
    assert not (file.parent / "run").exists()
    assert with_mark(str(file.parent)) == []


@pytest.mark.parametrize("spoil", ["authority.pem", "node-2"])
def test_wrong_credentials_at_the_command_line(
    file: Path, spoil: str, capsys: pytest.CaptureFixture[str]
) -> None:
    credentials = make_credentials(file.parent / "credentials", 3)
    other = make_credentials(file.parent / "other", 1)
    (credentials.folder / spoil).unlink()
    if spoil == "authority.pem":
        credentials.authority.write_bytes(other.authority.read_bytes())
    argv = ["federate", str(file), "--out", str(file.parent / "run"), "--credentials",
            str(credentials.folder)]  # fmt: skip
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("dpsd: error: credentials: ") and err.count("\n") == 1
    assert not (file.parent / "run").exists()


@needs_proc
@pytest.mark.slow
def test_a_client_elsewhere_with_a_wrong_certificate_or_key(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in OFF:
        monkeypatch.delenv(name, raising=False)
    server = make_credentials(tmp_path / "server", 1)
    other = make_credentials(tmp_path / "other", 1)
    (port,) = free_ports(None, 0)
    home = tmp_path / "link" / "flower"
    home.parent.mkdir()
    write_connection(home, server, port)

    def client(trusts: Credentials, key: Credentials) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dpsd.federated.node", f"127.0.0.1:{port}", "--authority",
             str(trusts.authority), "--key", str(key.node_key(0)), "--client", "0", "--config",
             str(file)], capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        (log,) = re.findall(r"[^ (]*node\.log", done.stderr)
        assert Path(log).is_file()  # what an error names is there to be read
        return done.stderr

    with processes(home.parent, flower_environment(home)) as running:
        module._start_link(running, server, port)
        assert "certificate verify failed" in client(other, server)
        assert "refused its key" in client(server, other)
        commands = [command_of(pid) for pid in with_mark(str(tmp_path))]
        assert commands and not [c for c in commands if any(name in c for name in CLIENTS)]
    assert with_mark(str(tmp_path)) == []
