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
    package = importlib.util.find_spec("axe_playwright_python")
    home = Path(package.origin).parent if package else Path(os.environ.get("DPSD_AXE", "."))
    if not (home / "axe.min.js").is_file():
        _skip("NOT TESTED WITH AXE-CORE: install axe-playwright-python, or name the folder of "
              "axe.min.js with DPSD_AXE")  # fmt: skip
    page.evaluate((home / "axe.min.js").read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        (v["id"], v["impact"], v["nodes"][0]["html"][:200], v["nodes"][0]["failureSummary"][:200])
        for v in found["violations"]
    ]


def _skip(text):
    warnings.warn(text, stacklevel=3)
    pytest.skip(text)
