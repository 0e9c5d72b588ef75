"""The recipe of tests/data/trained.npz: a model that scripts/train.py trained, and what llama.cpp makes of
it.

    python tests/record_trained.py PYTHON

writes the file anew; PYTHON is the interpreter of an environment with llama-cpp-python (0.3.36 wrote it) and
numpy. Kept are the bytes of m_final.gguf, llama.cpp's ids of a few texts, and its logits of the first tokens
of the first.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "tests" / "data" / "trained.npz"
LINES = [
    "It was the best of times, it was the worst of times, "
    "it was the age of wisdom, it was the age of foolishness,",
    "it was the epoch of belief, it was the epoch of incredulity, "
    "it was the season of Light, it was the season of",
    "Darkness, it was the spring of hope, it was the winter of despair.   Zażółć gęślą jaźń!",
]
TEXT = "\n".join(LINES) * 4
TEXTS = [
    TEXT[:300],
    "it was the best",
    " it  was",
    "the\ttime\n\n of 1859",
    "Łódź ≠ 😀",
    "unseen Zebra; x = f(y)!",
    "</s> is text, <0x41> too",
    "e\u0301 ▁",
]
SIZES = {"layers": 2, "width": 16, "heads": 2, "kv-heads": 1, "ff": 24, "vocab": 310, "context": 32}
OPTIONS = {**SIZES, "steps": 60, "batch": 8, "seed": 7}


def trained(folder: Path) -> Path:
    """The m_final.gguf that TEXT and OPTIONS make."""
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    options = [text for name, value in OPTIONS.items() for text in (f"--{name}", str(value))]
    command = [
        sys.executable,
        ROOT / "scripts" / "train.py",
        folder / "text.txt",
        "--out",
        folder / "out",
        *options,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "out" / "m_final.gguf"


def record(path: str) -> None:
    """Ask llama.cpp, with float32 weights and a float32 cache."""
    from llama_cpp import Llama  # only the environment that records has it

    llm = Llama(path, n_ctx=256, logits_all=True, type_k=0, type_v=0, verbose=False)
    ids = [np.array(llm.tokenize(text.encode(), add_bos=True, special=False)) for text in TEXTS]
    llm.eval(ids[0][: SIZES["context"]].tolist())
    logits = np.array(llm.scores[: SIZES["context"]], np.float32)
    llm.close()
    model = np.fromfile(path, np.uint8)
    np.savez_compressed(
        RECORD, model=model, logits=logits, **{f"ids {i}": array for i, array in enumerate(ids)}
    )
    print(f"wrote {RECORD}: {logits.shape} logits, {RECORD.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    if sys.argv[1].endswith(".gguf"):
        record(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.argv[1], __file__, trained(Path(folder))], check=True)
