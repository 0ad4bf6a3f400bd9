"""A client runs no code that a server sends."""

import importlib
import inspect
import io
import subprocess
import zipfile
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

from dpsd.errors import UserError
from dpsd.federated.app import config_of
from dpsd.federated.deployment.clientapp import refuse_code, write_commands
from dpsd.federated.deployment.flower import App, write_app

CLIENT = App().client


def test_the_app_of_dpsd_is_accepted_and_another_client_is_not(tmp_path: Path) -> None:
    write_app(tmp_path, App(), {"config": "x.yaml"})
    refuse_code(build_fab_from_disk(tmp_path), CLIENT)
    write_app(tmp_path, App(client="os:system"), {})
    with pytest.raises(UserError, match="its client is os:system; accepted: dpsd"):
        refuse_code(build_fab_from_disk(tmp_path), CLIENT)


@pytest.mark.parametrize("name", ["dpsd/__init__.py", "sitecustomize.py", ".info/x.py", "a.json"])
def test_an_app_that_brings_a_file_is_refused(tmp_path: Path, name: str) -> None:
    write_app(tmp_path, App(), {})
    fab = io.BytesIO(build_fab_from_disk(tmp_path))
    with zipfile.ZipFile(fab, "a") as packed:
        packed.writestr(name, "print('mine')")
    with pytest.raises(UserError, match=f"it brings {name}"):
        refuse_code(fab.getvalue(), CLIENT)


def test_tasks_of_another_kind_are_refused(tmp_path: Path) -> None:
    """A server may call its app an agent's, which Flower starts by another command."""
    write_commands(tmp_path, CLIENT)
    assert {path.name for path in tmp_path.iterdir()} == set(TASK_TYPE_TO_COMMAND.values())
    for path in tmp_path.iterdir():
        text = path.read_text()
        if path.name == "flwr-clientapp":
            assert f"-m dpsd.federated.deployment.clientapp {CLIENT}" in text
        else:
            assert subprocess.run([path], check=False).returncode == 1


def test_flower_still_unpacks_an_app_where_it_is_checked() -> None:
    flower = importlib.import_module("flwr.supernode.runtime.run_clientapp")
    source = inspect.getsource(flower.run_clientapp)
    assert source.count("install_from_fab(fab.content, skip_prompt=True)") == 1
    assert source.index("install_from_fab(") < source.index("load_client_app_fn(")
    assert callable(importlib.import_module("flwr.supernode.cli.flwr_clientapp").flwr_clientapp)


def test_a_client_with_its_own_configuration_takes_nothing_of_the_runs(tmp_path: Path) -> None:
    text = "privacy: {route: federated, epsilon: 1, answers: 400}\nloop: {rounds: 2}\n"
    (tmp_path / "own.yaml").write_text(text)
    (tmp_path / "run.yaml").write_text(text.replace("epsilon: 1", "epsilon: 7"))
    run = {"config": str(tmp_path / "run.yaml"), "set": "privacy.epsilon=9"}

    def epsilon(node: dict[str, str]) -> float:
        context = Context(
            run_id=1, node_id=2, node_config=node, state=RecordDict(), run_config=run
        )  # fmt: skip
        return config_of(context).privacy.epsilon

    assert epsilon({}) == 9
    assert epsilon({"config": str(tmp_path / "own.yaml")}) == 1
    assert epsilon({"config": str(tmp_path / "own.yaml"), "set": "privacy.epsilon=2"}) == 2
