"""What several tests need: where the reference models are, and one loaded copy of each."""

import functools
from pathlib import Path

import numpy as np
import pytest

import llmcore

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests" / "data"
SHARED = ROOT.parent / "shared"


def reference(name):
    """A tiny model and what llama.cpp computed from it: (path, ids (T,), logits (T, V)); skips if it is not here."""
    for folder in (DATA, SHARED / "reference" / "tiny"):
        if (folder / f"{name}.gguf").exists():
            recorded = np.load(folder / f"{name}.npz")
            return folder / f"{name}.gguf", recorded["ids"], recorded["logits"]
    pytest.skip(f"the reference model {name} is not in ../shared/reference/tiny")


@functools.cache
def real_model(file):
    """A real model, loaded once for all tests; skips if it was not fetched."""
    path = ROOT / "models" / file
    if not path.exists():
        pytest.skip(f"models/{file} is not here; python scripts/fetch_model.py gets it")
    return llmcore.load(path)


@pytest.fixture(scope="session")
def llama_path():
    return DATA / "llama.gguf"


@pytest.fixture(scope="session")
def llama(llama_path):
    return llmcore.load(llama_path)
