"""The dashboard without a browser: who gets in, what forms do, what a page may load."""

import re
import sqlite3

import pytest
from dashboard_data import make_board
from fastapi.testclient import TestClient

from dpsd.guard.admin_key import make_admin_key
from dpsd.guard.policy import Policy
from dpsd.guard.storage.store import StoreError
from dpsd.serving.admin import sessions as sessions_module
from dpsd.serving.admin import views
from dpsd.serving.admin.app import make_admin

PATHS = ("/", "/suspicious", "/clusters", "/accounts", "/log", "/live")
HOME = "http://127.0.0.1:8001"


class Desk:
    """A browser of few words, and the board behind it."""

    def __init__(self, folder, **changes):
        self.board, self.key, self.ids = make_board(folder, **changes)
        self.store = self.board.store
        self.client = TestClient(make_admin(self.board), base_url=HOME, follow_redirects=False)

    def log_in(self):
        answer = self.client.post("/login", data={"key": self.key})
        assert answer.status_code == 303 and answer.headers["location"] == "/"
        return answer

    def page(self, path):
        answer = self.client.get(path)
        assert answer.status_code == 200, (path, answer.text[:200])
        return answer.text

    def token(self):
        return re.search(r'name="csrf" value="([^"]+)"', self.page("/log")).group(1)

    def send(self, path, csrf=None, headers=None, **fields):
        data = {"csrf": self.token() if csrf is None else csrf} | fields
        return self.client.post(path, data=data, headers=headers)


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path)
    desk.log_in()
    yield desk
    desk.store.close()


def events(desk, name):
    return [e["kind"] for e in desk.store.events(desk.ids[name]) if e.get("by") == "dashboard"]


def test_nothing_is_shown_without_a_login(tmp_path):
    desk = Desk(tmp_path)
    fern = desk.ids["Fern"]
    for path in (*PATHS, f"/accounts/{fern}"):
        answer = desk.client.get(path)
        assert answer.status_code == 303 and answer.headers["location"] == "/login"
    for path in ("/act", "/accounts", "/logout", f"/accounts/{fern}/rotate"):
        assert desk.client.post(path, data={"csrf": ""}).headers["location"] == "/login"
    assert "Fern" not in desk.client.get("/login").text
    desk.store.close()


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(tmp_path):
    for secure in (False, True):
        desk = Desk(tmp_path / str(secure), secure=secure)
        cookie = desk.log_in().headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        assert ("Secure" in cookie) == secure
        desk.store.close()


def test_every_page_has_strict_headers_and_loads_nothing_from_elsewhere(desk):
    for path in (*PATHS, "/nothing", f"/accounts/{desk.ids['Fern']}", "/static/dashboard.css"):
        answer = desk.client.get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert not re.findall(r'(?:src|href|action|srcset)="(?!/|#)[^"]*"', answer.text)
        assert " style=" not in answer.text and "<style" not in answer.text
        assert (
            not re.findall(r"<script(?! src=)", answer.text) and " on" + "click" not in answer.text
        )


def test_names_that_are_not_this_machine_are_refused(tmp_path):
    desk = Desk(tmp_path, hosts=("guard.example",))
    for host, status in (("evil.example", 421), ("127.0.0.1.evil.example", 421), ("", 421),
                         ("localhost:8001", 200), ("[::1]:8001", 200), ("GUARD.example", 200),
                         ("[::1].evil.example", 421), ("evil.example:127.0.0.1", 421)):  # fmt: skip
        assert desk.client.get("/login", headers={"Host": host}).status_code == status, host
    desk.store.close()


def test_forms_need_the_session_s_own_token(desk):
    fern = desk.ids["Fern"]
    other = TestClient(desk.client.app, base_url=HOME, follow_redirects=False)
    other.post("/login", data={"key": desk.key})
    foreign = re.search(r'name="csrf" value="([^"]+)"', other.get("/log").text).group(1)
    for csrf in ("", "x", "é", foreign):
        answer = desk.send("/act", csrf=csrf, account=fern, action="block")
        assert answer.status_code == 403 and "out of date" in answer.text
    site = {"Sec-Fetch-Site": "cross-site"}
    assert desk.send("/act", headers=site, account=fern, action="block").status_code == 403
    assert desk.client.get("/act").status_code == 405
    assert desk.store.by_id(fern).state == "active" and events(desk, "Fern") == []


def test_buttons_act_are_logged_and_are_taken_back(desk):
    fern = desk.ids["Fern"]
    for action, kind, check in (
        ("block", "blocked", lambda: desk.store.by_id(fern).state == "blocked"),
        ("undo", "undone", lambda: desk.store.by_id(fern).state == "active"),
        ("mark", "held", lambda: desk.store.watched(fern).level == "marked"),
        ("undo", "undone", lambda: desk.store.watched(fern).level == "slow"),
        ("slow", "held", lambda: desk.store.watched(fern).held == 1),
        ("release", "released", lambda: desk.store.watched(fern).held == 0),
        ("clear", "cleared", lambda: desk.store.watched(fern).suspicion == 0),
    ):
        answer = desk.send("/act", account=fern, action=action, back="/suspicious")
        assert answer.status_code == 303 and answer.headers["location"] == "/suspicious"
        assert check(), action
        assert events(desk, "Fern")[-1] == kind
        assert f"Fern: {action}." in desk.page("/suspicious")
    assert f"Fern: {action}." not in desk.page("/suspicious")  # said once


def test_a_cluster_is_blocked_at_once(desk):
    group = desk.board.groups()[0]
    assert "5 accounts" in desk.page("/clusters")
    desk.send("/act", account=list(group.members), action="block", back="/clusters")
    assert all(desk.store.by_id(id).state == "blocked" for id in group.members)
    assert "5 accounts: block." in desk.page("/clusters")


def test_a_button_without_a_level_is_off_and_says_why(tmp_path):
    desk = Desk(tmp_path, policy=Policy())
    desk.log_in()
    text = desk.page(f"/accounts/{desk.ids['Fern']}")
    assert re.search(r'value="slow"[^>]*lowers the rate"[^>]*disabled', text)
    assert "Dry run" in text
    desk.send("/act", account=desk.ids["Fern"], action="mark")
    assert "no level that has the defence account_marks" in desk.page("/")
    desk.store.close()


def test_traffic_that_others_count_is_not_shown_as_none(tmp_path):
    for counted in (True, False):
        desk = Desk(tmp_path / str(counted), counted=counted)
        desk.log_in()
        for path in ("/", "/live"):
            text = desk.page(path)
            assert ("Images this minute" in text) == counted and "<dt>Accounts</dt>" in text
            assert ("Several workers answer" in text) != counted
        desk.store.close()


def test_forms_come_back_to_the_dashboard_alone(desk):
    for back in ("https://evil.example/", "//evil.example", "/\\evil.example", "javascript:x", ""):
        answer = desk.send("/act", account=desk.ids["Fern"], action="slow", back=back)
        assert answer.headers["location"] == "/", back


def test_what_accounts_are_called_is_text(desk):
    desk.send("/accounts", name='<img src=x onerror="alert(1)">', tier="trial")
    for path in ("/accounts", "/log"):
        text = desk.page(path)
        assert "&lt;img src=x" in text and "<img" not in text
    desk.store.note(desk.ids["Fern"], "level", 2e9, reason="<script>alert(1)</script>")
    assert "<script>alert" not in desk.page("/log")


def test_an_account_is_added_rotated_moved_and_deleted(desk):
    answer = desk.send("/accounts", name="Maple", tier="verified", days="30", reference="c-7")
    path = answer.headers["location"]
    key = re.search(r"dpsd_[0-9a-f]{16}_[\w-]{43}", desk.page(path)).group()
    assert key not in desk.page(path)  # shown once
    account = desk.store.by_name("Maple")
    assert account.tier == "verified" and account.reference == "c-7"
    assert account.expires - account.made == pytest.approx(30 * 86_400, abs=60)
    desk.send(f"{path}/rotate")
    fresh = re.search(r"dpsd_[0-9a-f]{16}_[\w-]{43}", desk.page(path)).group()
    assert fresh != key and desk.store.by_name("Maple").key_hash != account.key_hash
    desk.send(f"{path}/tier", tier="trusted")
    assert desk.store.by_name("Maple").tier == "trusted"
    kinds = [e["kind"] for e in desk.store.events(account.id)]
    assert kinds == ["added", "key rotated", "tier"]
    assert "nothing was deleted" in desk.page(desk.send(f"{path}/forget", name="maple")
                                              .headers["location"])  # fmt: skip
    desk.send(f"{path}/forget", name="Maple")
    assert desk.store.by_id(account.id) is None and "Maple" not in str(desk.store.recent_events(99))
    assert desk.client.get(path).status_code == 404


def test_bad_input_is_said_on_the_page(desk):
    for fields, says in (({"name": "Fern", "tier": "trial"}, "is there already"),
                         ({"name": "", "tier": "trial"}, "1 to 100 printable"),
                         ({"name": "x", "tier": "gold"}, "accepted: trial, verified, trusted"),
                         ({"name": "x", "tier": "trial", "days": "-1"}, "accepted: 1 to 36,500"),
                         ({"name": "x", "tier": "trial", "reference": "r" * 201},
                          "at most 200")):  # fmt: skip
        desk.send("/accounts", **fields)
        assert says in desk.page("/accounts"), fields
    assert desk.client.get("/accounts?start=x").status_code == 422
    assert desk.client.get("/accounts?start=-5&q=%00").status_code == 200
    assert desk.client.post("/act", content=b"x" * 70_000, headers={
        "Content-Type": "application/x-www-form-urlencoded"}).status_code == 413  # fmt: skip
    assert desk.client.post("/act", json={}).status_code == 415
    assert desk.client.post("/act", content=b"a=b&" * 3_001, headers={
        "Content-Type": "application/x-www-form-urlencoded"}).status_code == 400  # fmt: skip


def test_guessing_is_slowed_for_forms_and_routes_together(tmp_path):
    desk = Desk(tmp_path)
    for _ in range(6):
        assert desk.client.post("/login", data={"key": "dpsd_admin_x"}).status_code == 403
    for _ in range(4):
        head = {"Authorization": "Bearer dpsd_admin_x"}
        assert desk.client.get("/admin/v1/accounts", headers=head).status_code == 401
    assert desk.client.post("/login", data={"key": desk.key}).status_code == 429
    desk.store.close()


def test_sessions_end_with_log_out_and_with_another_key(tmp_path):
    desk = Desk(tmp_path)
    desk.log_in()
    cookie = desk.client.cookies["dpsd_session"]
    desk.send("/logout")
    desk.client.cookies.set("dpsd_session", cookie)  # kept by a thief
    assert desk.client.get("/").status_code == 303
    desk.client.cookies.clear()
    desk.log_in()
    make_admin_key(tmp_path, desk.board.pepper)
    assert desk.client.get("/").status_code == 303
    desk.store.close()


def test_a_session_that_is_not_used_ends_and_the_script_does_not_keep_it_open(tmp_path):
    make_admin_key(tmp_path, bytes(32))
    now = [0.0]
    sessions = sessions_module.Sessions(tmp_path, bytes(32), clock=lambda: now[0])
    token = sessions.open()
    for _ in range(3):
        now[0] += sessions_module.IDLE - 1
        assert sessions.find(token) is not None
    now[0] += sessions_module.IDLE - 1
    assert sessions.find(token, touch=False) is not None
    now[0] += 2
    assert sessions.find(token) is None
    token, start = sessions.open(), now[0]
    while now[0] - start < sessions_module.LONGEST:
        assert sessions.find(token) is not None
        now[0] += 1_000
    assert sessions.find(token) is None
    tokens = [sessions.open() for _ in range(40)]
    assert sessions.find(tokens[0]) is None and sessions.find(tokens[-1]) is not None


@pytest.mark.parametrize("error", [sqlite3.OperationalError, StoreError])
def test_a_store_that_cannot_be_used_is_said(desk, monkeypatch, error):
    def broken(*_, **__):
        raise error("disk I/O error")

    token = desk.token()
    monkeypatch.setattr(desk.store, "note", broken)
    answer = desk.send("/act", csrf=token, account=desk.ids["Fern"], action="block")
    assert answer.status_code == 503 and "nothing was changed" in answer.text
    assert desk.store.by_id(desk.ids["Fern"]).state == "active"


def test_accounts_are_found_and_shown_in_pages(desk, monkeypatch):
    monkeypatch.setattr(views, "ROWS", 5)
    text = desk.page("/accounts?start=5")
    assert "12 accounts" in text and "6 to 10" in text and "start=0" in text and "start=10" in text
    assert "Fern" in text and "Ada Labs" not in text
    text = desk.page("/accounts?q=gannet")
    assert "Gannet GmbH" in text and "Juniper" not in text
    assert "No account matches" in desk.page("/accounts?q=zebra")
