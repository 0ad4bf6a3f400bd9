"""A real SuperLink with SuperNodes: runs, refuses in one line, calls nobody, leaves nothing."""

import contextlib
import importlib
import importlib.metadata
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from left_behind import needs_proc, until, with_mark
from packaging.requirements import Requirement
from products import contents

from dpsd.config import Config, parse_config
from dpsd.errors import UserError
from dpsd.federated import OFF
from dpsd.federated.certificates import Credentials, make_credentials
from dpsd.federated.deployment.clientapp import write_commands
from dpsd.federated.deployment.deploy import deploy
from dpsd.federated.deployment.deployed import federate_deployed
from dpsd.federated.deployment.flower import App, flower_environment, write_app
from dpsd.federated.federate import federate

HERE = Path(__file__).resolve().parents[1]
ROOT = HERE.parents[1]
TOY = App("failing:server_app", "failing:client_app")
DRIVER = """
import sys
from pathlib import Path
from dpsd.federated.certificates import make_credentials
from dpsd.federated.deployment.clientapp import write_commands
from dpsd.federated.deployment.deployed import federate_deployed
from dpsd.federated.deployment.deploy import deploy
from dpsd.federated.federate import federate
folder = Path(sys.argv[1])
deploy(folder / "deployment", make_credentials(folder / "own", 1), [{"client": 0}], {})
"""


class Listener:
    """A proxy that keeps what it is asked for, one entry a visit, and answers nobody."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port, self.asked = self.socket.getsockname()[1], list[bytes]()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                visitor, _ = self.socket.accept()
            except OSError:
                return
            self.asked.append(b"")  # a visit counts before it says anything
            visitor.settimeout(1)
            with visitor, contextlib.suppress(OSError):
                self.asked[-1] = visitor.recv(200)


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """The proxy for everything that leaves this machine."""
    made = Listener()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{made.port}")
    for name in ("no_proxy", "NO_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield made
    made.socket.close()


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Credentials:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{HERE}")
    for name in OFF:
        monkeypatch.delenv(name, raising=False)
    return make_credentials(tmp_path / "credentials", 3)


def small(root: Path, runtime: str) -> Config:
    return parse_config(
        {
            "device": "cpu",
            "precision": "float32",
            "teacher": {
                "model": "cnn-tiny",
                "epochs": 1,
                "batch_size": 64,
                "root": str(root / "teachers"),
            },
            "student": {"model": "cnn-tiny", "batch_size": 100},
            "loop": {"rounds": 2},
            "federated": {"clients": 3, "partition": "iid", "runtime": runtime},
            "privacy": {
                "route": "federated",
                "epsilon": 8.0,
                "answers": 400,
                "insecure_seeded_noise": True,
            },
        }
    )


@needs_proc
@pytest.mark.slow
def test_three_supernodes_give_the_answers_of_one_process_bit_for_bit(
    tmp_path: Path, credentials: Credentials, listener: Listener
) -> None:
    said: list[str] = []
    deployed = federate_deployed(
        small(tmp_path, "deployment"), out=tmp_path / "deployed", say=said.append,
        credentials=credentials.folder,
    )  # fmt: skip
    assert with_mark(str(tmp_path)) == []
    assert listener.asked == []
    logs = deployed.private / "deployment"
    names = {"superlink", "run", *(f"node-{i}" for i in range(3))}
    assert {path.stem for path in logs.iterdir()} >= names
    assert any(line.startswith("round 2/2") for line in said)

    here = federate(small(tmp_path, "in-process"), out=tmp_path / "here")
    banks = [contents(run.private / "bank") for run in (deployed, here)]
    assert banks[0] and banks[0] == banks[1]
    for name in ("student.safetensors", "generator.safetensors"):
        assert (deployed.release / name).read_bytes() == (here.release / name).read_bytes()
    ledgers = sorted((tmp_path / "teachers").rglob("clients/*/*/ledger.jsonl"))
    assert len(ledgers) == 3


@needs_proc
@pytest.mark.slow
def test_a_client_refuses_another_app_and_a_failed_server_is_told_in_one_line(
    tmp_path: Path, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_dpsd(folder: Path, client: str) -> None:
        write_commands(folder, App().client)

    monkeypatch.setattr("dpsd.federated.deployment.deploy.write_commands", only_dpsd)
    for public in credentials.registered()[1:]:
        public.unlink()
    refusal = r"told to fail after .*its client is failing:client_app; accepted: dpsd"
    with pytest.raises(UserError, match=refusal) as caught:
        deploy(tmp_path / "d", credentials, [{"client": 0}], {}, app=TOY)
    assert "\n" not in str(caught.value)
    assert with_mark(str(tmp_path)) == []
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700


@needs_proc
@pytest.mark.slow
def test_an_unregistered_key_is_refused_in_one_line(
    tmp_path: Path, credentials: Credentials
) -> None:
    for public in credentials.registered():
        public.unlink()
    with pytest.raises(UserError, match="node-0: the SuperLink refused its key") as caught:
        deploy(tmp_path / "d", credentials, [{"client": 0}], {}, app=TOY)
    assert "\n" not in str(caught.value)
    assert with_mark(str(tmp_path)) == []


@needs_proc
@pytest.mark.slow
def test_ctrl_c_leaves_nothing(tmp_path: Path, credentials: Credentials) -> None:
    log = tmp_path / "deployment" / "superlink.log"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], stderr=subprocess.PIPE)
    try:
        assert until(lambda: log.exists() and "Starting Flower SuperLink" in log.read_text(), 60)
        assert with_mark(str(tmp_path)) != []
        driver.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in driver.communicate(timeout=30)[1]
    finally:
        driver.kill()
        driver.wait()
    assert with_mark(str(tmp_path)) == []


def test_a_port_in_use_is_refused_before_anything_starts(
    tmp_path: Path, credentials: Credentials
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port: 127.0.0.1:{port} cannot be used") as caught:
            deploy(tmp_path / "d", credentials, [{}, {}], {}, app=TOY, port=port)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "d").glob("*.log")) == []
    with pytest.raises(UserError, match=r"port: 127\.0\.0\.1:70000 cannot be used"):
        deploy(tmp_path / "d", credentials, [{}, {}], {}, app=TOY, port=70_000)


def test_wrong_certificates_are_refused_before_anything_starts(
    tmp_path: Path, credentials: Credentials
) -> None:
    other = make_credentials(tmp_path / "other", 1)
    credentials.authority.write_bytes(other.authority.read_bytes())
    with pytest.raises(UserError, match="would refuse"):
        deploy(tmp_path / "d", credentials, [{}, {}], {}, app=TOY)
    assert not (tmp_path / "d").exists()


def test_flower_calls_nobody_unless_the_user_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Listener
) -> None:
    """Starts one of Flower's commands as the deployment does, with its own proxy for the world."""

    def visits() -> int:
        environment = flower_environment(tmp_path)
        subprocess.run(["flower-superexec", "--version"], env=environment, check=True,
                       capture_output=True)  # fmt: skip
        time.sleep(0.1)
        return len(listener.asked)

    for name in OFF:
        monkeypatch.delenv(name, raising=False)
    assert visits() == 0
    monkeypatch.setenv("FLWR_DISABLE_UPDATE_CHECK", "0")
    assert visits() > 0


def test_the_app_has_no_code_and_flower_accepts_it(tmp_path: Path) -> None:
    from flwr.cli.build import build_fab_from_disk
    from flwr.cli.config_utils import load_and_validate
    from flwr.common.config import get_fab_config

    settings = {"a path": 'C:\\x "y" ä\n', "n": 3, "x": 0.5, "yes": True}
    write_app(tmp_path, App(), settings)
    assert load_and_validate(tmp_path / "pyproject.toml")[1] == []
    fab = get_fab_config(build_fab_from_disk(tmp_path))
    assert fab["tool"]["flwr"]["app"]["config"] == settings
    assert fab["tool"]["flwr"]["app"]["components"]["clientapp"] == "dpsd.federated.app:client_app"


def test_flwr_run_in_the_project_finds_the_app_and_takes_no_code(tmp_path: Path) -> None:
    import io
    import zipfile

    from flwr.cli.build import build_fab_from_disk
    from flwr.cli.config_utils import load_and_validate

    config, warnings = load_and_validate(ROOT / "pyproject.toml")
    assert warnings == []
    app = config["tool"]["flwr"]["app"]
    assert (ROOT / app["config"]["config"]).is_file()
    assert app["components"] == {
        "serverapp": App().server,
        "clientapp": App().client,
    }
    fab = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ROOT)))
    assert {name for name in fab.namelist() if not name.startswith(".info/")} == {"pyproject.toml"}


def test_flower_is_the_version_that_this_was_written_for() -> None:
    """Fails when Flower has moved what the deployment uses: look there before widening the range.

    The range is of one minor version, since Flower renames flags and moves modules between them.
    """
    from flwr.common.constant import FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION, FLWR_HOME
    from flwr.supercore import telemetry
    from flwr.supercore.constant import FLWR_DISABLE_UPDATE_CHECK
    from flwr.supercore.error import ApiErrorCode
    from flwr.supernode import start_client_internal

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = [r for d in project["dependencies"] if (r := Requirement(d)).name == "flwr"]
    installed = importlib.metadata.version("flwr")
    assert wanted.specifier.contains(installed), f"flwr {installed} is not in {wanted}"
    assert {s.operator for s in wanted.specifier} == {">=", "<"}

    assert FLWR_HOME == "FLWR_HOME"
    switches = {"FLWR_TELEMETRY_ENABLED", FLWR_DISABLE_UPDATE_CHECK,
                FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION}  # fmt: skip
    assert set(OFF) == switches
    assert hasattr(telemetry, "FLWR_TELEMETRY_ENABLED")
    assert ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED == 2004  # an unregistered key
    assert '"SuperNode ID: %s"' in Path(start_client_internal.__file__).read_text()
    known = set()
    for module, parser in (
        ("flwr.superlink.cli.flower_superlink", "_parse_args_run_superlink"),
        ("flwr.supernode.cli.flower_supernode", "_parse_args_run_supernode"),
        ("flwr.supercore.cli.flower_superexec", "_parse_args"),
    ):
        known |= set(getattr(importlib.import_module(module), parser)()._option_string_actions)
    folder = ROOT / "dpsd" / "federated"
    source = "".join((folder / name).read_text() for name in ("deployment/deploy.py", "node.py"))
    own = {"--format", "--stream", "--run-id", "--authority", "--key", "--client", "--config"}
    flags = set(re.findall(r'"(--[a-z-]+)"', source)) - own
    assert len(flags) > 10
    assert flags <= known
