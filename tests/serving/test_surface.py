"""The API's whole surface: what the OpenAPI schema allows, and what it does not, is never a 500."""

import asyncio
import base64
import io
import json
import struct
import threading
import zlib

import httpx
import numpy as np
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from tiny_service import FACTS, PEPPER, SECRET, SETTINGS, model

from dpsd.guard.accounts import add_account
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.serving.app import Service, make_app
from dpsd.serving.decode import read_pictures


class Surface:
    """One service in this process."""

    def __init__(self, folder):
        self.store = SqliteStore(folder / "guard.sqlite")
        self.account, self.key = add_account(self.store, PEPPER, "alice", "open")
        self.head = {"Authorization": f"Bearer {self.key}"}
        self.app = make_app(Service(FACTS, model, {}, SETTINGS, self.store, PEPPER, SECRET))
        self.client = TestClient(self.app, raise_server_exceptions=False)

    def post(self, body, kind="application/x-npy"):
        return self.client.post("/v1/predict", content=body, headers=self.head | {
            "Content-Type": kind})  # fmt: skip


@pytest.fixture
def surface(tmp_path):
    found = Surface(tmp_path)
    with found.client:
        yield found
    found.store.close()


def test_no_request_is_a_server_error(surface):
    schema = schemathesis.openapi.from_asgi("/openapi.json", surface.app)
    seen = set()
    for operation in schema.get_all_operations():
        strategy = operation.ok().as_strategy()
        examples = 30 if operation.ok().path == "/v1/predict" else 3

        @given(case=strategy)
        @settings(max_examples=examples, deadline=None, derandomize=True, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        def check(case):
            reply = case.call(headers=surface.head)
            seen.add((case.path, reply.status_code))
            case.validate_response(reply, checks=[not_a_server_error])

        check()
    paths = {path for path, _ in seen}
    assert paths >= {"/v1/predict", "/v1/model", "/healthz", "/readyz", "/metrics"}
    assert {("/v1/predict", 400), ("/v1/model", 200)} <= seen  # the key was accepted


def code(reply, status):
    assert reply.status_code == status, reply.text
    return reply.json()["error"]["code"]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, more=b"", depth=8):
    """A PNG that claims a size; its pixels are zeros, if there are any."""
    rows = zlib.compress(bytes((width * depth // 8 + 1) * height)) if width * height < 1e6 else b""
    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", rows)
            + chunk(b"IEND", b""))  # fmt: skip


def test_bombs_are_refused_before_they_are_decoded(surface):
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**7), 9))  # 10 kB that are 10 MB
    cases = [
        (png(60_000, 60_000), 400),  # 3.6 billion pixels: Pillow's own limit
        (png(2**31 - 1, 1), 400),
        (png(9_000, 9_000), 413),
        (png(101, 100), 413),  # one more than is allowed
        (png(6, 5, text), 400),
        (png(6, 5)[:-30] + bytes(10), 400),
        (b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + bytes(30), 400),  # JPEG
    ]
    for body, status in cases:
        kind = "image/png" if body[:1] == b"\x89" else "image/jpeg"
        code(surface.post(body, kind), status)
    many = {"images": [base64.b64encode(png(99, 40)).decode()] * 3}  # together too many pixels
    assert code(surface.post(json.dumps(many), "application/json"), 413) == "too_many_pixels"
    assert surface.store.spent(surface.account.id) == 0


class Evil:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (open, ("/tmp/E-should-not-exist", "w"))


def test_pickles_and_long_headers_in_npy_are_not_read(surface, monkeypatch):
    monkeypatch.setattr("pickle.load", lambda *_, **__: pytest.fail("unpickled"))
    monkeypatch.setattr("pickle.loads", lambda *_, **__: pytest.fail("unpickled"))
    file = io.BytesIO()
    np.save(file, np.array([Evil()], object), allow_pickle=True)
    assert code(surface.post(file.getvalue()), 400) == "bad_shape"
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 6, 5), }"
    body = bytes(30)
    for version, size in ((b"\x01\x00", "<H"), (b"\x02\x00", "<I")):
        for padding, status in ((0, 200), (5_000, 400)):
            text = header + b" " * padding + b"\n"
            whole = b"\x93NUMPY" + version + struct.pack(size, len(text)) + text + body
            assert surface.post(whole).status_code == status
    lies = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + header  # four gigabytes of header
    assert code(surface.post(lies), 400) == "bad_npy"
    program = b"__import__('os').getcwd()    \n"
    whole = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(program)) + program
    assert code(surface.post(whole), 400) == "bad_npy"


@pytest.mark.parametrize(
    "path",
    ["/private", "/private/report.json", "/../private/report.json", "/%2e%2e/private/report.json",
     "/release/../private/report.json", "/guard/guard.sqlite", "/guard/pepper", "//etc/passwd",
     "/v1/../guard/pepper", "/v1/model/..%2f..%2fguard%2fpepper", "/static/../guard/pepper",
     "/.git/config", "/docs/../../guard/pepper", "/v1/predict%00.json"],
)  # fmt: skip
def test_no_path_names_a_file(surface, path):
    for head in ({}, surface.head):
        assert surface.client.get(path, headers=head).status_code in (404, 405)


def test_neither_keys_nor_pepper_nor_paths_show_in_any_answer(surface, tmp_path):
    secret = surface.key.split("_", 2)[2]
    replies = [
        surface.client.get(path, headers=surface.head)
        for path in ("/v1/model", "/metrics", "/readyz", "/healthz", "/openapi.json", "/x")
    ]
    replies += [surface.post(b"x"), surface.post(b"[", "application/json")]  # fmt: skip
    for reply in replies:
        text = reply.text + str(reply.headers)
        assert secret not in text and surface.account.key_hash not in text
        assert str(surface.store.path.parent) not in text and "Traceback" not in text
        assert "server" not in reply.headers


def test_wrong_keys_take_no_work_and_tell_nothing(surface):
    """Unknown accounts and wrong secrets get one answer, and the model is not asked."""
    other = surface.key.replace(surface.account.id, "0" * 16)
    bodies = set()
    near = surface.key[:-1] + ("A" if surface.key[-1] != "A" else "B")
    for key in (other, near, "", "x" * 5_000):
        reply = surface.client.post("/v1/predict", content=b"x" * 10**6,
                                    headers={"Authorization": f"Bearer {key}"})  # fmt: skip
        assert code(reply, 401) == "bad_key"
        bodies.add(reply.json()["error"]["message"])
    assert len(bodies) == 1


def test_a_spoofed_forwarding_header_gives_no_new_network(surface):
    """The limit on wrong keys holds whatever a client writes there."""
    for k in range(12):
        head = {"Authorization": "Bearer no", "X-Forwarded-For": f"10.{k}.0.1",
                "X-Real-IP": f"10.{k}.0.1", "Forwarded": f"for=10.{k}.0.1"}  # fmt: skip
        last = surface.client.get("/v1/model", headers=head)
    assert code(last, 429) == "too_many_keys"


def test_others_are_answered_while_a_picture_is_decoded(surface, monkeypatch):
    going, done = threading.Event(), threading.Event()
    decode = read_pictures

    def slow(*what):
        going.set()
        assert done.wait(20)
        return decode(*what)

    monkeypatch.setattr("dpsd.serving.app.read_pictures", slow)

    async def both():
        transport = httpx.ASGITransport(surface.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            head = surface.head | {"Content-Type": "image/png"}
            first = asyncio.create_task(client.post("/v1/predict", content=png(6, 5), headers=head))
            await asyncio.to_thread(going.wait, 20)
            other = await client.get("/healthz")
            assert not first.done()
            done.set()
            return other.status_code, (await first).status_code

    assert asyncio.run(both()) == (200, 200)


def test_a_body_that_takes_too_long_is_told_so(surface, monkeypatch):
    monkeypatch.setattr("dpsd.serving.app._BODY_SECONDS", 0.05)
    sent = []

    async def trickle():
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(b"authorization", surface.head["Authorization"].encode()),
               (b"content-type", b"application/x-npy")]  # fmt: skip
    scope = {"type": "http", "method": "POST", "path": "/v1/predict", "headers": headers,
             "query_string": b"", "client": ("127.0.0.1", 1), "http_version": "1.1"}  # fmt: skip
    asyncio.run(surface.app(scope, trickle, send))
    assert sent[0]["status"] == 408 and json.loads(sent[1]["body"])["error"]["code"] == "too_slow"


def test_a_store_that_is_gone_answers_nothing_and_shows(surface):
    question = io.BytesIO()
    np.save(question, np.zeros((2, 1, 6, 5), np.uint8))
    assert surface.post(question.getvalue()).status_code == 200
    aside = surface.store.path.with_suffix(".aside")
    surface.store.path.rename(aside)
    assert code(surface.post(question.getvalue()), 503) == "store_unavailable"
    ready = surface.client.get("/readyz")
    assert ready.status_code == 503 and ready.json()["store"] == "unavailable"
    assert surface.client.get("/healthz").status_code == 200
    text = surface.client.get("/metrics").text
    assert 'dpsd_requests_total{code="503",path="/v1/predict"} 1.0' in text
    aside.rename(surface.store.path)
    assert surface.client.get("/readyz").status_code == 200
    assert surface.post(question.getvalue()).status_code == 200
    assert surface.store.spent(surface.account.id) == 4
