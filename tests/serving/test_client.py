"""The client: batches, waits, work, and refusals that it does not argue with."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO

import numpy as np
import pytest
import tiny_service as tiny
import uvicorn

from dpsd.errors import UserError
from dpsd.guard.accounts import add_account
from dpsd.guard.actions import hold
from dpsd.guard.proof_of_work.work import Spent, make_puzzle, refused
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.serving import Client, Refused
from dpsd.serving.server import server_config

SECRET = bytes(range(32))
IMAGES = np.arange(7 * 4, dtype=np.uint8).reshape(7, 1, 2, 2)


@pytest.fixture
def service():
    """A service that answers with each image's first pixel, and what a test lays before it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(200, {"images_per_request": 3, "images_per_minute": 100})

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            images = np.load(BytesIO(body))
            self.server.asked.append((len(images), self.headers.get("X-Dpsd-Work", "")))
            if self.server.first:
                code, tree, headers = self.server.first.pop(0)(len(images))
                self.reply(code, tree, headers)
            else:
                self.reply(200, self.server.answer(images))

        def reply(self, code, tree, headers=()):
            text = json.dumps(tree).encode()
            self.send_response(code)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.first = [], []
    server.answer = lambda images: {
        "labels": images[:, 0, 0, 0].tolist(), "probabilities": [[0.25, 0.75]] * len(images)
    }  # fmt: skip
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def client(service, **more):
    return Client(f"http://127.0.0.1:{service.server_port}/", "key", **more)


def error(code, name, **headers):
    tree = {"error": {"code": name, "message": "words"}}
    return lambda _: (code, tree, {k.replace("_", "-"): v for k, v in headers.items()})


def test_images_go_in_requests_that_the_service_takes(service):
    answers = client(service).predict(IMAGES)
    assert answers.labels.tolist() == IMAGES[:, 0, 0, 0].tolist()
    assert answers.probabilities.shape == (7, 2) and answers.probabilities.dtype == np.float32
    assert [n for n, _ in service.asked] == [3, 3, 1]
    assert np.array_equal(client(service).predict(IMAGES[:, 0]).labels, answers.labels)  # grey
    service.answer = lambda images: {"labels": [1] * len(images)}
    assert client(service).predict(IMAGES).probabilities is None


def test_it_waits_as_told_but_not_longer_than_its_patience(service):
    waits = []
    service.first = [error(429, "rate_limited", Retry_After="7"),
                     error(503, "busy", Retry_After="2")]  # fmt: skip
    client(service, _wait=waits.append).predict(IMAGES[:1])
    assert waits == [7, 2]
    service.first = [error(429, "daily_limit", Retry_After="50000")]
    with pytest.raises(Refused, match="429 daily_limit") as e:
        client(service, _wait=waits.append).predict(IMAGES[:1])
    assert e.value.code == "daily_limit" and waits == [7, 2]


def test_it_works_for_its_answer(service):
    def puzzle(n):
        made = make_puzzle(SECRET, "alice", n, 8.0, 0.0)
        return 428, {"challenge": made.challenge, "bits": made.bits,
                     "error": {"code": "work_needed", "message": "words"}}, {}  # fmt: skip

    service.first = [puzzle]
    one = client(service)
    assert one.predict(IMAGES[:2]).labels.tolist() == [0, 4] and one.worked > 0
    (_, none), (n, solution) = service.asked
    assert none == "" and refused(SECRET, "alice", n, solution, 0.0, Spent()) is None
    hard = {"challenge": "c", "bits": 39.0, "error": {"code": "work_needed", "message": "words"}}
    service.first = [lambda _: (428, hard, {})]
    with pytest.raises(Refused, match="428 work_needed"):
        client(service, patience=0.1).predict(IMAGES[:1])


@pytest.mark.parametrize(
    ("first", "says"),
    [
        (error(403, "blocked"), "403 blocked"),
        (error(429, "too_many_keys"), "429 too_many_keys"),  # no Retry-After: no use waiting
        (lambda _: (502, "proxy", {}), "502 unknown"),
        (lambda _: (200, ["x"], {}), "200 unknown"),
        (lambda _: (302, {}, {"Location": "http://127.0.0.1:1/"}), "302 unknown"),
    ],
)
def test_other_answers_are_one_line(service, first, says):
    service.first = [first]
    with pytest.raises(Refused, match=says) as e:
        client(service).predict(IMAGES[:1])
    assert "\n" not in str(e.value) and len(service.asked) == 1


def test_it_works_for_the_real_service(tmp_path):
    """An account at a level with work is answered, without doing anything itself."""
    store = SqliteStore(tmp_path / "guard.sqlite")
    account, key = add_account(store, tiny.PEPPER, "alice", "open")
    service = tiny.Service(tiny.FACTS, tiny.model, {}, tiny.SETTINGS, store, tiny.PEPPER, SECRET)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(server_config(tiny.make_app(service), 50))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    one = Client(f"http://127.0.0.1:{listener.getsockname()[1]}", key)
    images = np.random.default_rng(0).integers(0, 256, (11, 1, 6, 5), np.uint8)
    try:
        free = one.predict(images)  # two requests: eight images in one at most
        assert free.probabilities is not None and one.worked == 0
        policy = tiny.SETTINGS.policy_table()
        hold(store, policy, account.id, "challenge", "me", "test")
        worked = one.predict(images)
        assert worked.labels.tolist() == free.labels.tolist() and one.worked > 0
        hold(store, policy, account.id, "block", "me", "test")
        with pytest.raises(Refused, match="403 blocked"):
            one.predict(images[:1])
        assert store.spent(account.id) == 22
    finally:
        server.should_exit = True
        thread.join()
        store.close()


def test_bad_input_and_nobody_there():
    nobody = Client("http://127.0.0.1:9", "key", timeout=1)
    for images in (IMAGES.astype(np.float32), IMAGES[0, 0], IMAGES[:0]):
        with pytest.raises(UserError, match=r"images: .*accepted: uint8 \[B, C, H, W\]"):
            nobody.predict(images)
    with pytest.raises(Refused, match="unreachable"):
        nobody.predict(IMAGES[:1])
    with pytest.raises(UserError, match="url: 'file:///etc/passwd'"):
        Client("file:///etc/passwd", "key")
    assert "secret-key" not in repr(Client("http://127.0.0.1:9", "secret-key"))
