"""What several tests need: models, and what other engines computed from them."""

import functools
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

# Several processes of tests, each with a thread of BLAS for every core, would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

import llmcore
from llmcore.cache import KVCache
from llmcore.mixers.step import make_step

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests" / "data"
SHARED = ROOT.parent / "shared"

sys.path.insert(0, str(ROOT / "scripts"))
from make_tiny_model import make  # noqa: E402

FOLDER = tempfile.TemporaryDirectory(prefix="llmcore-tests-")


def reference(name):
    """A tiny model and what llama.cpp computed from it: (path, ids (T,), logits (T, V)); skips if it is not
    here.
    """
    path = SHARED / "reference" / "tiny" / f"{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path.name} is not in ../shared/reference/tiny; test_variants.py covers its family")
    recorded = np.load(path.with_suffix(".npz"))
    return path, recorded["ids"], recorded["logits"]


def real_model(file, weights="float32"):
    """A real model, loaded once for all tests; skips if it was not fetched."""
    path = ROOT / "models" / file
    if not path.exists():
        pytest.skip(f"models/{file} is not here; python scripts/fetch_model.py gets it")
    return load_once(path, weights)


@functools.cache
def load_once(path, weights):
    return llmcore.load(path, weights=weights)


def step_of(texts=()):
    """A step of these texts, [(rows, cache)], for what asks nothing else of it; nobody looks on."""
    return replace(make_step([(np.zeros(1, int), KVCache([]))], [], None), texts=texts)


@functools.cache
def tiny_llama():
    """The path of a random llama model of three layers, 64 wide."""
    path = Path(FOLDER.name) / "llama.gguf"
    make("llama", path, layers=3, width=64, heads=4, kv_heads=2, ff=96, tied=False)
    return path


@pytest.fixture(scope="module")  # for a session it would keep asyncio from all other tests
def browser():
    """Debian's chromium; tests/browser.py says what the tests that take it need."""
    from browser import BROWSER, FLAGS
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


@functools.cache
def family_model(family):
    """A random model of a family of make_tiny_model, made once for all tests."""
    path = Path(FOLDER.name) / f"family-{family}.gguf"
    make(family, path)
    return llmcore.load(path)


@pytest.fixture(scope="session")
def llama_path():
    return tiny_llama()


@pytest.fixture(scope="session")
def llama(llama_path):
    return llmcore.load(llama_path)
