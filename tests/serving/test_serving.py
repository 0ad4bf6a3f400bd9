"""Settings, networks, batches, and `dpsd serve` as a process."""

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from products import copy_of, tiny_run
from starlette.datastructures import Headers

from dpsd.cli import main
from dpsd.errors import UserError
from dpsd.guard.detection.reference_file import read_reference
from dpsd.runs.release import load_student, release_folder
from dpsd.serving.network import network_of
from dpsd.serving.predictor import Batcher, featured
from dpsd.serving.service import guard_folder, make_service
from dpsd.serving.settings import read_settings

ROOT = Path(__file__).parents[2]


def request(address, forwarded=""):
    lines = [forwarded] if isinstance(forwarded, str) else forwarded
    raw = [(b"x-forwarded-for", line.encode()) for line in lines if line]
    return SimpleNamespace(client=SimpleNamespace(host=address), headers=Headers(raw=raw))


def test_a_client_cannot_choose_its_network():
    assert network_of(request("203.0.113.77"), ()) == "203.0.113.0/24"
    assert network_of(request("203.0.113.77", "198.51.100.1"), ()) == "203.0.113.0/24"
    assert network_of(request("2001:db8:1:2::3"), ()) == "2001:db8:1::/48"
    assert network_of(request("::ffff:203.0.113.7"), ()) == "203.0.113.0/24"
    assert network_of(request("testclient"), ()) == "unknown"


def test_named_proxies_are_believed_from_the_right():
    proxies = ("10.0.0.1", "10.0.0.2")
    spoofed = "192.0.2.9, 198.51.100.4, 10.0.0.2"
    assert network_of(request("10.0.0.1", spoofed), proxies) == "198.51.100.0/24"
    added = ["192.0.2.9", "198.51.100.4"]  # the proxy adds a line below the client's own
    assert network_of(request("10.0.0.1", added), proxies) == "198.51.100.0/24"
    assert network_of(request("10.0.0.1"), proxies) == "10.0.0.0/24"
    assert network_of(request("10.0.0.1", "nonsense"), proxies) == "unknown"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tiers: {a: {per_minute: 0}}", "tiers.a.per_minute"),
        ("limit: {}", "limit: Extra inputs"),
        ("tiers: {a: {defences: [wall]}}", "defence: 'wall'"),
        ("tiers: {a: {defences: [honey]}}", "policy.allow_wrong_labels: true"),
        ("[1, 2", "cannot be read"),
    ],
)
def test_settings_are_refused_in_one_line(tmp_path, text, says):
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as e:
        read_settings(path)
    assert says in str(e.value) and "\n" not in str(e.value)


def test_wrong_labels_may_be_allowed(tmp_path):
    path = tmp_path / "serve.yaml"
    path.write_text("tiers: {a: {defences: [honey]}}\npolicy: {allow_wrong_labels: true}")
    assert read_settings(path).tier_table()["a"].defences == ("honey",)


def test_requests_that_wait_are_answered_together_and_each_gets_its_own():
    sizes = []

    def ask(images):
        sizes.append(len(images))
        time.sleep(0.02)
        return images.flatten(1)[:, :2].float(), images.flatten(1)[:, :1].float()

    async def run():
        batcher = Batcher(ask, most=6)
        parts = [torch.full((n, 1, 2, 2), 10 * n, dtype=torch.uint8) for n in (1, 2, 3, 4, 9)]
        return parts, await asyncio.gather(*map(batcher.answer, parts))

    parts, answers = asyncio.run(run())
    for part, answer in zip(parts, answers, strict=True):
        assert torch.equal(answer[0], part.flatten(1)[:, :2].float())
        assert torch.equal(answer[1], part.flatten(1)[:, :1].float())
    assert sizes == [6, 4, 9]  # 1 + 2 + 3 fit in six; nine alone is more than six, and goes alone


def test_an_error_of_the_model_reaches_its_requests_and_the_next_are_answered():
    def ask(images):
        if images.max() > 9:
            raise RuntimeError("broken")
        return images.flatten(1)[:, :2].float(), images.flatten(1)[:, :3].float()

    async def run():
        batcher = Batcher(ask)
        with pytest.raises(RuntimeError):
            await batcher.answer(torch.full((1, 1, 2, 2), 10, dtype=torch.uint8))
        return await batcher.answer(torch.ones(1, 1, 2, 2, dtype=torch.uint8))

    assert asyncio.run(run())[0].tolist() == [[1, 1]]


def test_a_model_that_answers_badly_leaves_nobody_waiting():
    async def run():
        with pytest.raises(RuntimeError):
            bad = Batcher(lambda images: (images, images[:1]))
            await asyncio.wait_for(bad.answer(torch.ones(2, 1, 2, 2)), 5)

    asyncio.run(run())


@pytest.fixture
def run(tmp_path, tmp_path_factory):
    return copy_of(tiny_run(tmp_path_factory), tmp_path / "run")


def test_serve_as_a_process(run, tmp_path, capsys):
    """Serve, ask with a key from the command line, and stop with one signal."""
    assert main(["account", "add", str(run.path), "alice", "--tier", "trusted"]) == 0
    key = capsys.readouterr().out.strip().splitlines()[-1]
    command = [sys.executable, "-m", "dpsd", "serve", str(run.path), "--port", "0"]
    log = (tmp_path / "log").open("w+")
    running = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {
        "PYTHONPATH": str(ROOT)})  # fmt: skip
    try:
        deadline, url = time.monotonic() + 120, None
        while url is None and time.monotonic() < deadline and running.poll() is None:
            found = re.search(r"serving on (\S+)", (tmp_path / "log").read_text())
            url = found.group(1) if found else None
            time.sleep(0.1)
        assert url is not None, (tmp_path / "log").read_text()
        body = io.BytesIO()
        np.save(body, np.zeros((2, *run.config.facts.shape), np.uint8))
        head = {"Authorization": f"Bearer {key}", "Content-Type": "application/x-npy"}
        asked = urllib.request.Request(f"{url}/v1/predict", body.getvalue(), head)
        with urllib.request.urlopen(asked, timeout=30) as reply:
            assert len(json.load(reply)["probabilities"]) == 2
        running.send_signal(signal.SIGINT)
        assert running.wait(30) in (0, 130)
    finally:
        running.kill()
        log.close()
    assert main(["account", "list", str(run.path)]) == 0
    assert re.search(r"alice +trusted +active .* 2\n", capsys.readouterr().out)
    assert not list((run.path / "release").glob("*sqlite*"))


def test_bad_starts_are_one_line(run, tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = [
            (["--port", port], "cannot be used"),
            (["--port", "70000"], "cannot be used"),
            (["--host", "0.0.0.0"], "is reachable by others"),
            (["--certificate", "x.pem"], "needs --private-key"),
            (["--admin-port", "0"], "no key opens it"),
            (["--admin-host", "0.0.0.0"], "is reachable by others"),
            (["--admin-host", "0.0.0.0", "--behind-proxy"], "dashboard.hosts"),
            (["--config", str(tmp_path / "none.yaml")], "cannot be read"),
        ]
        for options, says in cases:
            assert main(["serve", str(run.path), *options]) == 2
            said = capsys.readouterr().err
            assert says in said and said.count("\n") == 1
    for folder in (tmp_path, run.path / "private", run.path / "guard"):  # `release` alone is served
        assert main(["serve", str(folder), "--port", "0"]) == 2
        assert "no finished run or release folder" in capsys.readouterr().err


def test_the_dashboard_beside_a_service(run, tmp_path, capsys):
    """It opens where there is an admin key, on a port of its own, and stops with the service."""
    assert main(["account", "admin", str(run.path)]) == 0
    key = capsys.readouterr().out.strip().splitlines()[-1]
    command = [sys.executable, "-m", "dpsd", "serve", str(run.path), "--port", "0",
               "--admin-port", "0"]  # fmt: skip
    log = (tmp_path / "log").open("w+")
    running = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {
        "PYTHONPATH": str(ROOT)})  # fmt: skip
    try:
        deadline, urls = time.monotonic() + 120, []
        while len(urls) < 2 and time.monotonic() < deadline and running.poll() is None:
            urls = re.findall(r"(?:dashboard|serving) on (\S+)", (tmp_path / "log").read_text())
            time.sleep(0.1)
        assert len(urls) == 2, (tmp_path / "log").read_text()
        dashboard, service = urls
        head = {"Authorization": f"Bearer {key}"}
        asked = urllib.request.Request(f"{dashboard}/admin/v1/traffic", headers=head)
        with urllib.request.urlopen(f"{service}/healthz", timeout=30):
            pass
        with urllib.request.urlopen(asked, timeout=30) as reply:
            assert sum(minute["requests"] for minute in json.load(reply)) == 1
        for path in ("/admin/v1/accounts", "/login"):  # never on the public port
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(urllib.request.Request(service + path, headers=head))
        running.send_signal(signal.SIGINT)
        assert running.wait(120) in (0, 130)
    finally:
        running.kill()
        log.close()


def test_account_commands(run, capsys):
    def say(*words):
        code = main(["account", words[0], str(run.path), *words[1:]])
        got = capsys.readouterr()
        return code, got.out + got.err

    assert say("add", "bob", "--days", "3", "--reference", "contract 7")[0] == 0
    assert "tier verified" in say("tier", "bob", "--tier", "verified")[1]
    assert "state blocked" in say("block", "bob")[1] and "state active" in say("unblock", "bob")[1]
    old, new = (say("rotate", "bob")[1].splitlines()[-1] for _ in range(2))
    assert old != new and old.startswith("dpsd_")
    assert "verified" in say("list")[1]
    assert say("add", "bob")[0] == 2 and say("block", "eve") == (
        2, "dpsd: error: account: 'eve' is unknown; `dpsd account list` names all\n"
    )  # fmt: skip
    assert say("forget", "bob")[0] == 0 and "bob" not in say("list")[1]


@pytest.mark.parametrize("name", ["serve", "serve-basic", "serve-watch", "serve-full"])
def test_ready_made_configurations_are_accepted(name):
    settings = read_settings(ROOT / "configs" / f"{name}.yaml")
    policy = settings.policy_table()
    assert policy.dry_run == (name in ("serve", "serve-basic"))
    assert settings.detection.watch == (name != "serve-basic")
    wrong = {tier: settings.wrong_labels(tier) for tier in settings.tiers}
    assert set(wrong.values()) == {name == "serve-full"}


def test_a_key_of_a_mark_is_used_and_a_bad_one_refused(run, tmp_path):
    key = tmp_path / "wave.key"
    key.write_text(bytes(range(16)).hex() + "\n")
    service = make_service(run.path, read_settings(None), lambda text: None, mark_key=key)
    assert service.secret == bytes(range(16))
    service.store.close()
    key.write_text("abcd")
    for path in (key, tmp_path / "none.key"):
        with pytest.raises(UserError, match="--mark-key"):
            make_service(run.path, read_settings(None), lambda text: None, mark_key=path)


def test_calibrate_from_the_command_line(run, tmp_path, capsys):
    """Images like users' make a reference; a service then says that it detects."""
    images = torch.randint(0, 256, (600, *run.config.facts.shape), dtype=torch.uint8)
    np.savez(tmp_path / "typical.npz", images=images.numpy())
    command = ["guard", "calibrate", str(run.path), "--images", str(tmp_path / "typical.npz")]
    assert main([*command, "--alpha", "0.01", "--accounts", "900"]) == 0
    assert "an alarm in 0.01 of honest accounts, if they ask in a month" in capsys.readouterr().out
    said = []
    service = make_service(run.path, read_settings(None), said.append)
    guard = service.guard()
    assert guard.state()["detection"] == "ok" and "detection is on" in said[-1]
    guard.close()
    for more, says in (
        (["--alpha", "0.0001"], "--accounts: 2,000 accounts; "),
        (["--alpha", "0"], "alpha"),
    ):
        with contextlib.suppress(SystemExit):
            assert main([*command, *more]) == 2
        assert says in capsys.readouterr().err
    np.savez(tmp_path / "typical.npz", images=images[:20].numpy())
    assert main(command) == 2
    assert "20 images; accepted: at least 500" in capsys.readouterr().err


def test_calibrate_on_logs_from_the_command_line(run, tmp_path, capsys):
    """Logged accounts make a reference; too few for the rate, or of another model, are one line."""
    images = torch.randint(0, 256, (600, *run.config.facts.shape), dtype=torch.uint8)
    said, seen = featured(load_student(release_folder(run.path)))(images)
    rows = np.random.default_rng(0).integers(0, 600, (100, 352))
    columns = {
        "account": np.repeat(np.arange(100), 352),
        "at": np.tile(np.arange(352) * 360.0, 100) + np.repeat(np.arange(100), 352),
        "features": list(seen.numpy()[rows.ravel()]), "answers": list(said.numpy()[rows.ravel()]),
    }  # fmt: skip
    path = tmp_path / "honest.parquet"
    pq.write_table(pa.table(columns), path)
    command = ["guard", "calibrate", str(run.path), "--logs", str(path)]
    assert main([*command, "--alpha", "0.05"]) == 0
    out, err = capsys.readouterr()
    assert "100 logged accounts over 1.5 days, 35,200 questions" in out + err
    assert "who are taken for honest, in as long a time" in out
    assert read_reference(guard_folder(run.path) / "reference.npz").accounts == 60
    assert main([*command, "--alpha", "0.001"]) == 2
    assert "--logs: 100 accounts; a false-alarm rate of 0.001" in capsys.readouterr().err
    columns["features"] = list(seen.numpy()[rows.ravel(), :3])
    pq.write_table(pa.table(columns), path)
    assert main([*command, "--alpha", "0.05"]) == 2
    assert "features of 3 numbers; accepted: " in capsys.readouterr().err
