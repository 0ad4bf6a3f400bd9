"""`dpsd serve --workers 2` on one Redis: one budget, and a worker that dies is replaced."""

import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from products import copy_of, tiny_run
from redis_server import redis_server

from dpsd.cli import main
from dpsd.serving.serve import WorkersApp
from dpsd.serving.workers import Worker

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path, tmp_path_factory):
    return copy_of(tiny_run(tmp_path_factory), tmp_path / "run")


def ask(url, key, images):
    """Images answered: all or none."""
    body = io.BytesIO()
    np.save(body, images)
    head = {"Authorization": f"Bearer {key}", "Content-Type": "application/x-npy"}
    try:
        request = urllib.request.Request(f"{url}/v1/predict", body.getvalue(), head)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return len(json.load(reply)["labels"])
    except urllib.error.HTTPError as e:
        assert e.code == 429, e.read()
        return 0


def ready(url):
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(p) for p in found if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


@pytest.mark.slow
def test_two_workers_one_budget(run, tmp_path, capsys):
    (tmp_path / "serve.yaml").write_text("tiers: {small: {per_minute: 50, per_day: 50}}\n")
    with redis_server(tmp_path) as store:
        words = ["account", "add", str(run.path), "alice", "--tier", "small", "--store", store]
        assert main(words) == 0
        key = capsys.readouterr().out.strip().splitlines()[-1]
        command = [sys.executable, "-m", "dpsd", "serve", str(run.path), "--port", "0",
                   "--workers", "2", "--store", store, "--config",
                   str(tmp_path / "serve.yaml")]  # fmt: skip
        log = (tmp_path / "log").open("w+")
        running = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {
            "PYTHONPATH": str(ROOT)})  # fmt: skip
        try:
            deadline, url = time.monotonic() + 300, None
            while url is None and time.monotonic() < deadline and running.poll() is None:
                found = re.search(r"serving on (\S+)", (tmp_path / "log").read_text())
                url = found.group(1) if found else None
                time.sleep(0.1)
            assert url is not None, (tmp_path / "log").read_text()
            while not ready(url):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            images = np.zeros((7, *run.config.facts.shape), np.uint8)
            with ThreadPoolExecutor(8) as pool:
                answered = sum(pool.map(lambda _: ask(url, key, images), range(24)))
            assert answered == 49  # seven batches of seven; an eighth would be over the limit
            workers = children(running.pid)
            assert len(workers) == 2
            os.kill(workers[0], signal.SIGKILL)
            while len(set(children(running.pid)) - {workers[0]}) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert ask(url, key, images) == 0  # the budget did not die with a worker
            workers = children(running.pid)
            running.kill()  # even then no worker is left
            while any(Path(f"/proc/{p}").exists() and state(p) != "Z" for p in workers):
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            running.kill()
            log.close()
        assert main(["account", "list", str(run.path), "--store", store]) == 0
        out = capsys.readouterr().out
        assert re.search(r"alice +small +active .* 49\n", out)
    assert not (run.path / "guard" / "guard.sqlite").exists()
    assert "no append-only file" in (tmp_path / "log").read_text()


def test_several_workers_need_redis(run, capsys, monkeypatch):
    monkeypatch.delenv("DPSD_STORE", raising=False)
    for store in ([], ["--store", "file.sqlite"]):
        assert main(["serve", str(run.path), "--workers", "2", *store]) == 2
        said = capsys.readouterr().err
        assert "--workers: 2 processes" in said and said.count("\n") == 1
    assert main(["serve", str(run.path), "--store", "ftp://x"]) == 2
    assert "ftp://; accepted: redis://" in capsys.readouterr().err


def test_what_travels_to_a_worker_can_travel(tmp_path):
    make = WorkersApp(tmp_path, None, "redis://127.0.0.1:6379", None)
    worker = Worker(make, 20, os.getpid(), {"ssl_certfile": None, "ssl_keyfile": tmp_path})
    assert pickle.loads(pickle.dumps(worker)) == worker
