"""A real browser for tests, and axe-core in it; or a loud skip."""

import importlib.util
import os
import shutil
import warnings
from pathlib import Path

import pytest

ARGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def axe_file():
    """axe-core: where DPSD_AXE says, else in the package axe-playwright-python."""
    found = importlib.util.find_spec("axe_playwright_python")
    packaged = "" if found is None else str(Path(found.origin).parent / "axe.min.js")
    return Path(os.environ.get("DPSD_AXE", packaged))


def launch(playwright):
    """Headless Chromium: the system's, or what playwright installed.

    Where there is none, the test is skipped with a warning that pytest prints.
    """
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        return playwright.chromium.launch(executable_path=found, args=[*ARGS])
    except Exception as e:
        _skip(f"NOT TESTED IN A BROWSER: no Chromium starts ({str(e).splitlines()[0]})")


def axe_violations(page):
    """What axe-core finds on a page: rule and first element of each violation."""
    axe = axe_file()
    if not axe.is_file():
        _skip("ACCESSIBILITY NOT TESTED: no axe-core (pip install axe-playwright-python)")
    page.evaluate(axe.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        (v["id"], v["impact"], v["nodes"][0]["html"][:200], v["nodes"][0]["failureSummary"][:200])
        for v in found["violations"]
    ]


def _skip(text):
    warnings.warn(text, stacklevel=3)
    pytest.skip(text)
