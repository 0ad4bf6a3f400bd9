"""The page in a real browser: it works alone, on any width, in light and dark, for everybody."""

import pytest
from browser import axe_violations, launch
from products import few_config
from report_runs import add_attacks

from dpsd.evaluation.evaluate import evaluate
from dpsd.report.page import write_report
from dpsd.transcription.transcribe import transcribe

playwright = pytest.importorskip("playwright.sync_api", reason="NO BROWSER TESTS: no playwright")

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    transcribe(few_config(root, {"epsilon": 1.0}), out=root / "first")
    run = transcribe(
        few_config(root, {"mechanism": "gaussian", "epsilon": 2.0, "delta": 1e-6}), out=root / "run"
    )
    evaluate(run)
    add_attacks(run)
    return write_report(run.path, beside=[root / "first"]).as_uri()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = launch(started)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, address):
    """Open the page; complains at the end of messages, and of requests that left the file."""
    contexts, troubles = [], []

    def opened(size=WIDE, scheme="light", **options):
        context = browser.new_context(viewport=size, color_scheme=scheme, **options)
        context.set_default_timeout(120_000)  # a page may wait long for a busy core
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda r: r.url.startswith((address, "data:")) or troubles.append(r.url))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not troubles


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_looks_and_access(opened, size, scheme):
    page = opened(size, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = sum(map(int, background[4:-1].split(",")))
    assert lightness > 600 if scheme == "light" else lightness < 150
    broken = "[...document.images].filter((i) => !i.naturalWidth).length"
    assert page.evaluate(broken) == 0 and page.locator("svg.plot").count() > 5
    assert axe_violations(page) == []


def test_links_lead_to_sections(opened):
    page = opened()
    links = page.locator("a").all()
    assert len(links) == 8  # skip link, and seven sections with that of the other runs
    for link in links:
        assert page.locator(link.get_attribute("href")).count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "summary"


def test_slider(opened):
    page = opened()
    slider = page.locator("input[type=range]")
    said = page.locator("output.large").first
    assert page.locator("label output").text_content() == "1e-6"
    first = said.text_content()
    slider.focus()
    page.keyboard.press("Home")
    assert page.locator("label output").text_content() == "1e-3"
    assert said.text_content() != first and said.text_content().endswith(" per answer")
    assert "delta 1e-3" in slider.get_attribute("aria-valuetext")


def test_without_scripts_the_table_says_it(opened):
    page = opened(java_script_enabled=False)
    assert not page.locator("input[type=range]").is_visible()
    page.locator("summary").click()
    assert page.locator("tr.stated").is_visible()


def test_prints(opened):
    page = opened()
    assert page.pdf(prefer_css_page_size=True)[:5] == b"%PDF-"
