"""Debian's chromium, for tests of pages: playwright brings none here, and axe-core comes with
axe-playwright-python (both are in the extra dev).
"""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason='pip install "llmcore[dev]"')
pytest.importorskip("axe_playwright_python", reason='pip install "llmcore[dev]"')
import axe_playwright_python

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MARKS = [pytest.mark.slow, pytest.mark.skipif(not BROWSER, reason="there is no chromium here")]
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-quic", "--disable-component-update", "--disable-sync"]
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


def assert_axe_finds_nothing(page):
    """Of the faults that axe-core knows, in the page as it stands now."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run()")
    assert found["passes"]
    told = [(fault["id"], [node["html"][:120] for node in fault["nodes"]]) for fault in found["violations"]]
    assert told == []
