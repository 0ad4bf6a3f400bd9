"""The admin routes: the key opens them, a cookie does not; what they do and refuse."""

import pytest
from dashboard_data import make_board
from fastapi.testclient import TestClient

from dpsd.guard.accounts import who
from dpsd.serving.admin.app import make_admin


@pytest.fixture
def desk(tmp_path):
    board, key, ids = make_board(tmp_path)
    client = TestClient(make_admin(board), base_url="http://localhost")
    client.headers["Authorization"] = f"Bearer {key}"
    yield client, board, ids
    board.store.close()


def test_only_the_admin_key_opens_them(desk):
    client, board, _ = desk
    key = client.headers.pop("Authorization").removeprefix("Bearer ")
    assert client.post("/login", data={"key": key}).status_code == 200
    assert client.cookies.get("dpsd_session")
    for header in ({}, {"Authorization": key}, {"Authorization": "Basic " + key},
                   {"Authorization": "Bearer é".encode()}):  # fmt: skip
        answer = client.post("/admin/v1/accounts", json={"name": "x"}, headers=header)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        error = answer.json()["error"]
        assert error["code"] == "bad_key" and error["request_id"] == answer.headers["x-request-id"]
    assert len(board.store.accounts()) == 12


def test_an_account_from_its_making_to_its_end(desk):
    client, board, _ = desk
    made = client.post("/admin/v1/accounts", json={"name": "Maple", "tier": "trial", "days": 3})
    assert made.status_code == 201
    id, key = made.json()["id"], made.json()["key"]
    assert who(board.store, board.pepper, key).name == "Maple"
    assert client.post(f"/admin/v1/accounts/{id}/tier", json={"tier": "trusted"}).json()[
        "tier"] == "trusted"  # fmt: skip
    fresh = client.post(f"/admin/v1/accounts/{id}/rotate").json()["key"]
    assert who(board.store, board.pepper, key) is None
    assert who(board.store, board.pepper, fresh).id == id
    assert client.post(f"/admin/v1/accounts/{id}/block").json()["state"] == "blocked"
    assert client.post(f"/admin/v1/accounts/{id}/unblock").json()["state"] == "active"
    kinds = [e["kind"] for e in client.get(f"/admin/v1/accounts/{id}").json()["events"]]
    assert kinds == ["added", "tier", "key rotated", "blocked", "unblocked"]
    assert "key_hash" not in client.get(f"/admin/v1/accounts/{id}").text
    assert client.delete(f"/admin/v1/accounts/{id}").json() == {"forgotten": id}
    assert client.get(f"/admin/v1/accounts/{id}").status_code == 404


def test_levels_are_set_and_taken_back(desk):
    client, _, ids = desk
    path = f"/admin/v1/accounts/{ids['Larch']}"
    slowed = client.post(f"{path}/slow").json()
    assert (slowed["level"], slowed["held"]) == ("slow", True)
    assert client.post(f"{path}/undo").json()["level"] == ""
    assert client.post(f"{path}/undo").status_code == 400
    answer = client.post(f"{path}/jail")
    assert (
        answer.status_code == 400 and "accepted: clear, slow" in answer.json()["error"]["message"]
    )


def test_what_is_listed(desk):
    client, _, _ = desk
    accounts = client.get("/admin/v1/accounts").json()
    fern = next(a for a in accounts if a["name"] == "Fern")
    assert fern["images"] == 822 and fern["suspicion"] == 1.42 and fern["level"] == "slow"
    assert len(client.get("/admin/v1/events?most=3").json()) == 3
    minutes = client.get("/admin/v1/traffic").json()
    assert len(minutes) == 60 and set(minutes[0]) == {"at", "requests", "refused", "images"}


def test_bad_bodies_are_refused_with_a_code(desk):
    client, board, _ = desk
    for status, body in (
        (400, b"{"), (400, b"[]"), (400, b"[" * 60_000), (413, b" " * 70_000), (400, b""),
        (400, b'{"name": 7, "tier": "trial"}'), (400, b'{"name": "x", "tier": "gold"}'),
        (400, b'{"name": "x", "tier": "trial", "days": 1e99}'),
        (400, b'{"name": "x", "tier": "trial", "days": true}'),
        (400, b'{"name": "\\ud800", "tier": "trial"}'),
    ):  # fmt: skip
        kind = {"Content-Type": "application/json"}
        answer = client.post("/admin/v1/accounts", content=body, headers=kind)
        assert answer.status_code == status and answer.json()["error"]["code"], body[:50]
    assert client.post("/admin/v1/accounts", data={"name": "x"}).status_code == 415
    assert len(board.store.accounts()) == 12
