"""The service as a process under load and attack: what it bounds, and what a kill leaves."""

import asyncio
import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dpsd.guard.storage.sqlite_store import SqliteStore

HERE = Path(__file__).parent
LOOK = 0.3  # seconds


class Service:
    """A process that serves."""

    def __init__(self, folder, look):
        command = [sys.executable, str(HERE / "tiny_service.py"), str(folder), str(look)]
        paths = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=paths)
        port, self.key = self.process.stdout.readline().split()
        self.port, self.folder = int(port), folder
        for _ in range(1200):  # it listens before it serves
            with contextlib.suppress(OSError):
                assert self.get("/healthz")[0] == 200
                return
            time.sleep(0.05)
        raise AssertionError("no answer")

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def request(self, images=2):
        """The bytes of a question."""
        file = io.BytesIO()
        np.save(file, np.zeros((images, 1, 6, 5), np.uint8))
        body = file.getvalue()
        head = (
            f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/x-npy\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        reply = connection.getresponse()
        found = reply.status, reply.read().decode()
        connection.close()
        return found


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """One for the tests that leave it as it was."""
    started = Service(tmp_path_factory.mktemp("load"), look=10.0)
    yield started
    started.end()


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """One that has little patience."""
    started = Service(tmp_path_factory.mktemp("strict"), LOOK)
    yield started
    started.end()


def closed(connection):
    """Whether the service closes a connection, and what it said before."""
    said = b""
    try:
        while part := connection.recv(10_000):
            said += part
    except ConnectionError:
        pass
    return said


def test_slow_and_endless_heads_are_cut_off(strict):
    silent, half, trickle, later = (strict.connect() for _ in range(4))
    half.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\n")
    later.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    said = b""
    while b"ok" not in said:
        said += later.recv(10_000)
    later.sendall(b"GET /heal")  # a second request that never ends
    with pytest.raises(ConnectionError):
        for _ in range(100):
            trickle.sendall(b"X")
            time.sleep(0.05)
    assert closed(silent) == closed(half) == closed(later) == b""
    endless = strict.connect()
    with pytest.raises(ConnectionError):  # long before it ends
        endless.sendall(b"GET / HTTP/1.1\r\n")
        for k in range(2_000):
            endless.sendall(f"H{k}: {'x' * 10_000}\r\n".encode())
    assert strict.get("/healthz")[0] == 200


def test_a_slow_body_is_cut_off_and_not_charged(strict):
    slow = strict.connect()
    slow.sendall(strict.request()[:-10])  # all but the last bytes
    assert b"200 OK" not in closed(slow)
    store = SqliteStore(strict.folder / "guard.sqlite")
    assert store.spent(store.accounts()[0].id) == 0
    store.close()


def test_a_thousand_connections_at_once(service):
    """Each is answered or told that there are too many; then all goes on."""
    question, n = service.request(1), 1_000

    async def one():
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(question)
        status = (await reader.readline()).split()
        writer.close()
        return int(status[1]) if len(status) > 1 else 0

    async def all_of_them():
        async with asyncio.timeout(120):
            return await asyncio.gather(*(one() for _ in range(n)))

    found = asyncio.run(all_of_them())
    assert set(found) <= {200, 503} and found.count(200) >= 50
    assert service.get("/readyz")[0] == 200
    text = service.get("/metrics")[1]
    answered = float(text.split('dpsd_images_total{tier="open"} ')[1].split()[0])
    assert answered == found.count(200)


def test_a_kill_under_load_loses_no_charge(service):
    """The last test of this process."""
    answered, before = [0] * 4, charged(service)

    def ask(k):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        body = service.request(3).split(b"\r\n\r\n", 1)[1]
        head = {"Authorization": f"Bearer {service.key}", "Content-Type": "application/x-npy"}
        try:
            while True:
                connection.request("POST", "/v1/predict", body, head)
                answered[k] += len(json.loads(connection.getresponse().read())["labels"])
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 60
    while sum(answered) < 60 and time.monotonic() < until:
        time.sleep(0.01)
    service.process.send_signal(signal.SIGKILL)
    for thread in threads:
        thread.join()
    more = charged(service) - before
    # What was asked but not answered is charged; what was answered is, whatever happens.
    assert 60 <= sum(answered) <= more <= sum(answered) + 12
    assert SqliteStore(service.folder / "guard.sqlite").usable()


def charged(service):
    store = SqliteStore(service.folder / "guard.sqlite")
    found = sum(store.spent(account.id) for account in store.accounts())
    store.close()
    return found
