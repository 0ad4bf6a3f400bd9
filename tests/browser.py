"""A real browser for tests, or a loud skip."""

import shutil
import warnings

import pytest


def launch(playwright):
    """Headless Chromium: Debian's, or what playwright installed.

    Where there is none, the test is skipped with a warning that pytest prints.
    """
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        return playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
    except Exception as e:
        text = f"NOT TESTED IN A BROWSER: no Chromium starts ({str(e).splitlines()[0]})"
        warnings.warn(text, stacklevel=2)
        pytest.skip(text)
