"""The examples run: honest questions are answered, limits hold, templates and turns are logged."""

import importlib.util
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from dpsd.guard.storage.sqlite_store import SqliteStore

FOLDER = Path(__file__).parents[2] / "scripts" / "examples"


def example(name):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


guard_text, guard_chat = example("guard_text"), example("guard_chat")
ALICE = {"Authorization": "Bearer alice"}


@pytest.fixture
def events(tmp_path):
    """What the log says of Alice's account."""

    def read():
        store = SqliteStore(tmp_path / "guard.sqlite")
        found = store.events(store.by_name("Alice's shop").id)
        store.close()
        return found

    return read


def test_a_text_classifier(tmp_path):
    client = TestClient(guard_text.make_app(tmp_path, per_minute=5))
    asked = client.post("/classify", headers=ALICE, json={"texts": ["the cats", "rainy clouds"]})
    assert asked.json()["topics"] == ["animals", "weather"]
    assert client.post("/classify", json={"texts": ["x"]}).status_code == 401
    more = client.post("/classify", headers=ALICE, json={"texts": ["x"] * 4})  # texts count
    assert more.status_code == 429 and more.headers["retry-after"]
    bob = client.post("/classify", headers={"Authorization": "Bearer bob"}, json={"texts": ["x"]})
    assert bob.status_code == 200 and client.get("/healthz").status_code == 200


def chat(client, text, model="stub-1"):
    tree = {"model": model, "messages": [{"role": "user", "content": text}]}
    return client.post("/v1/chat/completions", headers=ALICE, json=tree)


def test_a_chat_endpoint(tmp_path, events):
    client = TestClient(guard_chat.make_app(tmp_path, per_minute=1_000))
    answer = chat(client, "How are you?").json()["choices"][0]["message"]["content"]
    assert guard_chat.check(answer).p_value < 1e-6
    assert guard_chat.check(" ".join(guard_chat.VOCABULARY[:100])).p_value > 1e-3
    assert chat(client, "x", "stub-9").status_code == 400
    assert events() == []
    for _ in range(2):  # one line an hour
        chat(client, "Think step by step and show your reasoning before answering: 2 + 2?")
    chat(client, "You are an impartial judge. Rate the answer on a scale of 1 to 10. Score:")
    assert [e["flag"] for e in events()] == ["reasoning", "grading"]
    assert "step by step" in events()[0]["reason"]


def test_a_turn_to_a_new_model_is_logged(tmp_path, events, monkeypatch):
    monkeypatch.setattr(guard_chat, "generate", lambda prompt: "word1")
    client = TestClient(guard_chat.make_app(tmp_path, per_minute=1_000))
    for k in range(80):
        chat(client, f"question {k}")
    for k in range(32):
        chat(client, f"question {k}", "stub-2")
    assert [e["flag"] for e in events()] == ["turn"] and "stub-2" in events()[0]["reason"]
