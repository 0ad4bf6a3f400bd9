"""The API: right answers, clear errors, nothing that a client sends is a 500."""

import base64
import io
import sqlite3
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from dpsd.config import PublicFacts
from dpsd.guard.accounts import add_account
from dpsd.guard.storage.sqlite_store import SqliteStore
from dpsd.serving.app import Service, make_app
from dpsd.serving.settings import LimitSettings, ServeSettings, TierSettings

FACTS = PublicFacts(shape=(1, 6, 5), classes=3, class_names=("a", "b", "c"))
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 1, 6, 5), np.uint8)
PEPPER, SECRET = bytes(32), bytes(range(32))


def model(images):
    """A model whose answers follow from the pixels."""
    features = images.float().flatten(1)[:, :3] / 100
    return features.softmax(1), features


def wanted(images=IMAGES):
    return model(torch.from_numpy(images))[0].numpy()


SETTINGS = ServeSettings(
    tiers={
        "open": TierSettings(per_minute=10_000),
        "closed": TierSettings(per_minute=10_000, defences=("labels",)),
        "few": TierSettings(per_minute=5),
    },
    limits=LimitSettings(images_per_request=8, body_bytes=20_000, pixels=10_000),
)


@pytest.fixture
def served(tmp_path):
    store = SqliteStore(tmp_path / "guard.sqlite")
    about = {"card": "# card", "statement": {"unit": "answer"}}
    service = Service(FACTS, model, about, SETTINGS, store, PEPPER, SECRET)
    keys = {t: add_account(store, PEPPER, t, t)[1] for t in SETTINGS.tiers}
    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        yield client, keys, store
    store.close()


def npy(array=IMAGES):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def png(array, format="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, format)
    return file.getvalue()


def post(served, body, kind="application/x-npy", tier="open", **headers):
    client, keys, _ = served
    headers = {"Authorization": f"Bearer {keys[tier]}", "Content-Type": kind} | headers
    return client.post("/v1/predict", content=body, headers=headers)


def error(response, status):
    assert response.status_code == status, response.text
    known = response.json()["error"]
    assert known["request_id"] == response.headers["x-request-id"] and known["message"]
    return known["code"]


def test_all_forms_of_images_give_the_same_answers(served):
    client, keys, store = served
    head = {"Authorization": f"Bearer {keys['open']}"}
    pictures = [png(image[0]) for image in IMAGES]
    answers = [
        post(served, npy()),
        client.post("/v1/predict", headers=head,
                    json={"images": [base64.b64encode(p).decode() for p in pictures]}),
        client.post("/v1/predict", headers=head,
                    files=[("images", ("x.png", p)) for p in pictures]),
    ]  # fmt: skip
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert np.allclose(answer.json()["probabilities"], wanted(), atol=1e-6)
        assert answer.json()["labels"] == wanted().argmax(1).tolist()
    one = post(served, pictures[2], "image/png")
    assert np.allclose(one.json()["probabilities"], wanted()[2:3], atol=1e-6)
    assert store.spent(store.by_name("open").id) == 13  # images, not requests


def test_a_larger_colour_jpeg_is_made_to_fit(served):
    picture = np.full((30, 40, 3), 128, np.uint8)
    assert post(served, png(picture, "JPEG"), "image/jpeg").json()["labels"] == [0]


def test_a_tier_that_shows_labels_alone(served):
    found = post(served, npy(), tier="closed").json()
    assert found == {"labels": wanted().argmax(1).tolist()}
    client, keys, _ = served
    for tier, output in (("closed", "labels"), ("open", "probabilities")):
        head = {"Authorization": f"Bearer {keys[tier]}"}
        about = client.get("/v1/model", headers=head).json()
        assert about["output"] == output and about["shape"] == [1, 6, 5]
        assert about["statement"] == {"unit": "answer"} and not about["wrong_labels_on_purpose"]


def test_keys_are_needed_and_guessing_is_slowed(served):
    client, _, _ = served
    for header in ({}, {"Authorization": "Bearer dpsd_1_2"}, {"Authorization": "Basic abc"}):
        answer = client.post("/v1/predict", content=npy(), headers=header)
        assert error(answer, 401) == "bad_key" and answer.headers["www-authenticate"] == "Bearer"
    for _ in range(7):
        client.get("/v1/model", headers={"Authorization": "Bearer x"})
    assert error(post(served, npy()), 429) == "too_many_keys"  # even with the right key


def test_a_blocked_or_expired_account_is_told_so(served):
    _, _, store = served
    account = store.by_name("open")
    store.change(replace(account, state="blocked"))
    assert error(post(served, npy()), 403) == "blocked"
    store.change(replace(account, expires=time.time() - 1))
    assert error(post(served, npy()), 403) == "expired"
    store.change(replace(account, expires=time.time() + 60))
    assert post(served, npy()).status_code == 200


def test_limits_say_when_to_come_back_and_charge_nothing(served):
    _, _, store = served
    assert post(served, npy(), tier="few").status_code == 200
    answer = post(served, npy(), tier="few")
    assert error(answer, 429) == "rate_limited" and 1 <= int(answer.headers["retry-after"]) <= 61
    assert store.spent(store.by_name("few").id) == 4


def header_bomb():
    """A header that claims more than there is."""
    return npy().replace(b"(4, 1, 6, 5)", b"(8, 1, 6, 5)")


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"", "application/x-npy", 400, "bad_npy"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70_000, "application/x-npy", 413, "too_large"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16, "application/x-npy", 400, "bad_npy"),
        (npy(IMAGES.astype(object)), "application/x-npy", 400, "bad_shape"),  # would be a pickle
        (npy(IMAGES.astype(np.float32)), "application/x-npy", 400, "bad_shape"),
        (npy(IMAGES[:, :, :5]), "application/x-npy", 400, "bad_shape"),
        (npy(IMAGES[:0]), "application/x-npy", 400, "bad_count"),
        (npy(np.concatenate([IMAGES] * 3)), "application/x-npy", 413, "bad_count"),
        (header_bomb(), "application/x-npy", 400, "bad_npy"),
        (npy()[:-1], "application/x-npy", 400, "bad_npy"),
        (b"{", "application/json", 400, "bad_json"),
        (b"[1]", "application/json", 400, "bad_json"),
        (b'{"images": "x"}', "application/json", 400, "bad_json"),
        (b'{"images": ["$$"]}', "application/json", 400, "bad_json"),
        (b'{"images": []}', "application/json", 400, "bad_count"),
        (b'{"images": ["AAAA"]}', "application/json", 400, "bad_picture"),
        (b"[" * 19_000, "application/json", 400, "bad_json"),
        (png(np.zeros((200, 200), np.uint8)), "image/png", 413, "too_many_pixels"),
        (png(IMAGES.reshape(12, 10))[:90], "image/png", 400, "bad_picture"),
        (b"GIF89a" + bytes(40), "image/png", 400, "bad_picture"),
        (b"x", "text/plain", 415, "bad_type"),
        (b"x", "multipart/form-data", 400, "bad_form"),
        (b"--b--\r\n", "multipart/form-data; boundary=b", 400, "bad_count"),
    ],
)  # fmt: skip
def test_bad_bodies_are_4xx_with_a_code_and_are_not_charged(served, body, kind, status, code):
    assert error(post(served, body, kind), status) == code
    _, _, store = served
    assert store.spent(store.by_name("open").id) == 0


def test_nothing_is_answered_while_charges_cannot_be_written(served, monkeypatch):
    client, _, store = served
    asked = []

    def broken(*_):
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(store, "charge", broken)
        patch.setattr(store, "usable", lambda: False)
        answer = post(served, npy())
        assert error(answer, 503) == "store_unavailable" and "labels" not in answer.text
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200 and not asked
    assert post(served, npy()).status_code == 200


def test_metrics_and_unknown_paths(served):
    client, _, _ = served
    post(served, npy())
    assert client.get("/nothing").status_code == 404
    text = client.get("/metrics").text
    assert 'dpsd_images_total{tier="open"} 4.0' in text
    assert (
        'dpsd_requests_total{code="404",path="other"} 1.0' in text
    )  # no label a client can choose
    assert "/v1/predict" in client.get("/openapi.json").text
