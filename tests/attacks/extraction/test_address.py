"""A victim behind an HTTP address: only on this machine, and only where it answers as agreed."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from products import copy_of, tiny_run

from dpsd.attacks.extraction import attack as module
from dpsd.attacks.extraction.address import address_victim
from dpsd.attacks.extraction.attack import ExtractionBudget
from dpsd.attacks.extraction.clone import Holdings
from dpsd.attacks.extraction.endpoint import Service, VictimFailed
from dpsd.attacks.extraction.matrix import Cell, run_cell
from dpsd.attacks.extraction.victim import Victim
from dpsd.cli import main
from dpsd.config import PublicFacts
from dpsd.errors import UserError
from dpsd.runs.release import Labeller, load_student

FACTS = PublicFacts(shape=(1, 4, 4), classes=3, class_names=("a", "b", "c"))
IMAGES = torch.arange(300 * 16).reshape(300, 1, 4, 4).to(torch.uint8)
ABOUT = {"shape": [1, 4, 4], "classes": 3, "output": "probabilities"}

Reply = Callable[[np.ndarray], Any]


def honest(pixels: np.ndarray) -> dict[str, Any]:
    scores = pixels.reshape(len(pixels), -1)[:, :3].astype(float) + 1
    return {"probabilities": (scores / scores.sum(1, keepdims=True)).tolist()}


@contextmanager
def served(reply: Reply = honest, about: Any = ABOUT) -> Iterator[tuple[str, list[Any]]]:
    """A stub of the service on the loopback; it notes keys and numbers of images."""
    seen: list[Any] = []

    class Stub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send(200, about)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            pixels = np.load(io.BytesIO(body), allow_pickle=False)
            seen.append((self.path, self.headers["Authorization"], len(pixels)))
            answer = reply(pixels)
            self.send(429 if "error" in answer else 200, answer)

        def send(self, code: int, tree: Any) -> None:
            text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
            self.send_response(code)
            if code == 302:
                self.send_header("Location", "http://192.0.2.1/")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_answers_come_through_with_the_key_and_every_image_is_counted() -> None:
    with served() as (url, seen):
        victim = address_victim(url + "/", "secret", FACTS)
        with (service := Service(victim.ask, FACTS, budget=400)) as api:
            answers = api.ask(IMAGES)
            assert api.gives == "probabilities" and service.asked == 300
    pixels = IMAGES.numpy()
    assert np.allclose(answers, honest(pixels)["probabilities"], atol=1e-6)
    assert seen == [("/v1/predict", "Bearer secret", 256), ("/v1/predict", "Bearer secret", 44)]


def test_labels_alone() -> None:
    with served(lambda x: {"labels": [2] * len(x)}, ABOUT | {"output": "labels"}) as (url, _):
        victim = address_victim(url, "k", FACTS)
        assert victim.labels_only and victim.ask(IMAGES[:2]).tolist() == [[0, 0, 1]] * 2


@pytest.mark.parametrize(
    "url",
    ["http://192.0.2.1:8000", "http://example.com", "https://127.0.0.1:8000", "ftp://127.0.0.1",
     "http://127.0.0.1.example.com", "http://user@127.0.0.1:1", "http://127.0.0.1:port", "nothing",
     "http://0.0.0.0:80", "http://2130706433"],
)  # fmt: skip
def test_other_machines_are_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"^url: .*accepted: http://127\.0\.0\.1:PORT"):
        address_victim(url, "k", FACTS)


@pytest.mark.parametrize(
    ("reply", "about", "text"),
    [
        (honest, ABOUT | {"classes": 4}, "4 classes; accepted"),
        (honest, b"<html>", "answered something else"),
        (honest, [1], "answered something else"),
        (lambda x: {"probabilities": [[0.5, 0.5]] * len(x)}, ABOUT, r"probabilities \[B, 3\]"),
        (lambda x: {"labels": [7] * len(x)}, ABOUT, "answered something else"),
        (
            lambda x: {"probabilities": [[-3.0, 1, 4]] * len(x)},
            ABOUT,
            "numbers that are not from 0",
        ),
        (lambda x: {"labels": "many"}, ABOUT, "answered something else"),
        (lambda x: {}, ABOUT, "answered something else"),
        (lambda x: {"error": {"message": "slow down"}}, ABOUT, r"refused \(429\): slow down"),
    ],
)
def test_something_else_behind_the_address(reply: Reply, about: Any, text: str) -> None:
    with served(reply, about) as (url, _), pytest.raises(UserError, match=text):
        address_victim(url, "k", FACTS).ask(IMAGES[:3])


def test_nobody_there_and_a_redirect_elsewhere() -> None:
    with served() as (url, _):
        pass
    with pytest.raises(UserError, match="no answer"):
        address_victim(url, "k", FACTS)


def test_no_redirect_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", "http://192.0.2.1/v1/model")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setenv("http_proxy", "http://192.0.2.1:3128")  # nor is a proxy asked
    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = Thread(target=server.handle_request, daemon=True)
    thread.start()
    with pytest.raises(UserError, match=r"refused \(302\)"):
        address_victim(f"http://localhost:{server.server_port}", "k", FACTS)
    thread.join(5)
    server.server_close()


@pytest.fixture
def student(tmp_path, tmp_path_factory, monkeypatch):
    """A run, what its service says of itself, and the reply of its student."""
    spend = ExtractionBudget("cnn-tiny", (20, 60), 1, 3, 60, ("basic", "accounts"), (), 80)
    monkeypatch.setitem(module.BUDGETS, "fast", spend)
    run = copy_of(tiny_run(tmp_path_factory), tmp_path / "run")
    facts = run.config.facts
    about = {"shape": list(facts.shape), "classes": facts.classes, "output": "probabilities"}
    ask = Labeller(load_student(run), torch.device("cpu")).predict
    return run, about, lambda pixels: {"probabilities": ask(torch.from_numpy(pixels)).tolist()}


def attacked(run, url: str, *more: str) -> int:
    return main(
        ["attack", "extraction", str(run.path), "--fast", "--url", url, "--key", "k", *more]
    )


def test_a_served_student_is_attacked_anew_each_time(student) -> None:
    run, about, reply = student
    for _ in range(2):  # somebody else may answer there by now
        with served(reply, about) as (url, seen):
            assert attacked(run, url) == 0
        assert sum(n for _, _, n in seen) == 60 and {k for _, k, _ in seen} == {"Bearer k"}
    report = json.loads((run.private / "attacks" / "extraction" / "report.json").read_text())
    assert report["url"].startswith("http://127.0.0.1:")
    cells = {c["attack"]: c for c in report["cells"]}
    assert [c["asked"] for c in cells["basic"]["curve"]] == [20, 60]
    assert "needs from 2" in cells["accounts"]["refused"]  # one key is one account


def test_a_service_that_stops_answering_ends_the_attack(student, capsys) -> None:
    run, about, reply = student
    left = [1]

    def once(pixels: np.ndarray) -> Any:
        left[0] -= 1
        return reply(pixels) if left[0] >= 0 else {"error": {"message": "slow down"}}

    with served(once, about) as (url, _):
        assert attacked(run, url) == 2
        assert attacked(run, url, "--target", "teacher") == 2
    first, second = capsys.readouterr().err.strip().splitlines()[-2:]
    assert "refused (429): slow down" in first and "target: teacher with --url" in second
    assert not (run.private / "attacks" / "extraction" / "report.json").exists()


def test_a_failing_victim_leaves_nothing_behind(tmp_path) -> None:
    fails = [True]

    def ask(images: torch.Tensor) -> torch.Tensor:
        if fails[0]:
            raise OSError("gone")
        return torch.full((len(images), 3), 1 / 3)

    victim = Victim("v", lambda x: torch.full((len(x), 3), 1 / 3), FACTS, far=ask)
    holdings = Holdings(IMAGES, (20,), "cnn-tiny", passes=1, least_steps=1)
    how: dict[str, Any] = {"folder": tmp_path, "identity": "", "say": lambda text: None}
    cell = Cell("v", "basic", "none", 0)
    with pytest.raises(VictimFailed, match="gone"):
        run_cell(cell, victim, holdings, IMAGES[:5], **how)
    fails[0] = False
    assert run_cell(cell, victim, holdings, IMAGES[:5], **how)["asked"].tolist() == [20]
