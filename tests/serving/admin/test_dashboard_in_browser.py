"""The dashboard in a real headless browser: widths, dark and light, keys, script, access."""

import socket
import threading
import time

import pytest
import uvicorn
from browser import axe_violations, launch
from dashboard_data import make_board

from dpsd.serving.admin.app import make_admin

playwright = pytest.importorskip("playwright.sync_api")
WIDTHS = {"desktop": (1280, 800), "phone": (390, 844)}


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        browser = launch(started)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def desk(chromium, tmp_path_factory):
    """The address of a running dashboard, its board, key and ids."""
    board, key, ids = make_board(tmp_path_factory.mktemp("dashboard"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(make_admin(board), log_level="error"))
        running = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        running.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", board, key, ids
        server.should_exit = True
        running.join(20)
    board.store.close()


class Visit:
    """A page of a browser that notes all that it fetches and all that goes wrong."""

    def __init__(self, context, home):
        self.page, self.home = context.new_page(), home
        self.wrong, self.fetched = [], []
        self.page.on("pageerror", lambda e: self.wrong.append(str(e)))
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type == "error" else None)
        self.page.on("request", lambda r: self.fetched.append(r.url))

    def go(self, path):
        answer = self.page.goto(self.home + path)
        assert answer.ok, (path, answer.status)

    def log_in(self, key):
        """By a request that shares the page's cookies."""
        request = self.page.context.request
        answer = request.post(self.home + "/login", form={"key": key}, max_redirects=0)
        assert answer.status == 303


@pytest.fixture
def visit(chromium, desk):
    """Open a context of a width and scheme, logged in; all are closed at the end."""
    opened = []

    def start(width="desktop", scheme="light", script=True):
        size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
        context = chromium.new_context(viewport=size, color_scheme=scheme,
                                       java_script_enabled=script)  # fmt: skip
        opened.append(context)
        made = Visit(context, desk[0])
        made.log_in(desk[2])
        return made

    yield start
    for context in opened:
        context.close()


def paths(ids):
    return ("/", "/suspicious", "/clusters", "/accounts", "/log", f"/accounts/{ids['Fern']}")


def luminance(colour):
    """Of `rgb(r, g, b)`, after WCAG 2.2."""
    parts = [int(x) / 255 for x in colour[4:-1].split(",")]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_and_loads_from_here_alone(visit, desk, width, scheme):
    seen = visit(width, scheme)
    for path in ("/", "/clusters", "/accounts", f"/accounts/{desk[3]['Fern']}"):
        seen.go(path)
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width][0], path
        ground = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = seen.page.evaluate("getComputedStyle(document.body).color")
        light, dark = sorted((luminance(ground), luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 7 and (luminance(ground) > 0.5) == (
            scheme == "light"
        )
    assert seen.wrong == [] and all(url.startswith(desk[0]) for url in seen.fetched)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit, desk, scheme):
    seen = visit("phone" if scheme == "dark" else "desktop", scheme)
    for path in (*paths(desk[3]), "/login"):
        if path == "/login":
            seen.page.context.clear_cookies()
        seen.go(path)
        assert axe_violations(seen.page) == [], path


def test_all_can_be_reached_by_keys_and_focus_is_seen(visit, desk):
    seen = visit()
    seen.go(f"/accounts/{desk[3]['Fern']}")
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.className") == "skip"
    assert seen.page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    reached = set()
    count = (
        "document.querySelectorAll('main a, main button:enabled, main select, main summary').length"
    )
    for _ in range(60):
        seen.page.keyboard.press("Tab")
        what, outline = seen.page.evaluate(
            "[document.activeElement.outerHTML,"
            " getComputedStyle(document.activeElement).outlineWidth]"
        )
        if what.startswith("<body"):
            break
        assert outline == "3px", what
        reached.add(what)
    words = " ".join(reached)
    for name in ("clear", "slow", "mark", "block"):
        assert f'value="{name}"' in words
    assert len(reached) >= seen.page.evaluate(count)


def test_the_key_lets_in_and_another_does_not(visit, desk):
    seen = visit("phone")
    seen.page.context.clear_cookies()
    seen.go("/login")
    for key in ("dpsd_admin_wrong", desk[2]):
        seen.page.fill("#secret", key)
        seen.page.keyboard.press("Enter")
        wanted = ".login [role=alert]" if key != desk[2] else "nav [aria-current=page]"
        seen.page.wait_for_selector(wanted)
    assert seen.page.url == desk[0] + "/"


def test_a_button_pressed_by_key_blocks_and_undo_takes_it_back(visit, desk):
    _, board, _, ids = desk
    seen = visit("phone")
    seen.go(f"/accounts/{ids['Iris Clinic']}")
    seen.page.focus('button[value="block"]')
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector(".said.done")
    assert board.store.by_id(ids["Iris Clinic"]).state == "blocked"
    seen.page.click('button[value="undo"]')
    seen.page.wait_for_selector('button[value="block"]')
    assert board.store.by_id(ids["Iris Clinic"]).state == "active"
    assert seen.wrong == []


@pytest.mark.parametrize("script", [True, False])
def test_an_account_is_added_with_and_without_script(visit, desk, script):
    seen = visit(script=script)
    seen.go("/accounts")
    name = f"With script {script}"
    seen.page.fill("#name", name)
    seen.page.select_option("#tier", "verified")
    seen.page.click("text=Add and show its key once")
    key = seen.page.text_content("#key")
    assert desk[1].store.by_name(name).id == key.split("_")[1]
    if script:
        seen.page.wait_for_selector("[data-copy=key]")  # the script shows it
    assert seen.page.is_visible("[data-copy=key]") == script
    seen.page.reload()
    assert key not in seen.page.content()


def test_the_script_brings_fresh_numbers_and_notices_the_end_of_a_session(visit, desk):
    seen = visit()
    seen.page.clock.install(time=time.time())
    seen.go("/")
    before = seen.page.text_content(".tiles dd")
    desk[1].traffic.answered(4_321)
    with seen.page.expect_response("**/live"):
        seen.page.clock.run_for(10_500)
    seen.page.wait_for_function(f"document.querySelector('.tiles dd').textContent !== '{before}'")
    seen.page.context.clear_cookies()
    seen.page.clock.run_for(10_500)
    seen.page.wait_for_url("**/login")
    assert seen.wrong == []


def test_an_injected_script_does_not_run(visit, desk):
    seen = visit()
    seen.go("/")
    seen.page.evaluate("""() => {
        const made = document.createElement("script");
        made.textContent = "document.title = 'taken'";
        document.body.append(made);
    }""")
    assert seen.page.title() != "taken"
    assert any("Content Security Policy" in text for text in seen.wrong)
