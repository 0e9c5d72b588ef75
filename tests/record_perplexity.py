"""The recipe of tests/data/perplexity.json: llama.cpp's perplexity of the real models on a fixed public text.

    PYTHON tests/record_perplexity.py [MODEL.gguf ...]

PYTHON is the interpreter of an environment with llama-cpp-python (0.3.36 wrote the file), gguf and numpy. The
text is the GNU General Public License, version 3, as Debian ships it in /usr/share/common-licenses/GPL-3
(sha256 below).

llama.cpp's own tool, llama-perplexity, is not part of llama-cpp-python; what it computes is written out here
(its tools/perplexity/perplexity.cpp): chunks of 512, the first token of each replaced by BOS where the model
wants one, the second half scored. The cache is float32. Models are rewritten to float32 first (rewrite.py),
since llama.cpp rounds activations to 8 bits before it multiplies them with quantized weights. With MODELs
given, these are measured just as they are, 8-bit activations and all, and printed, not recorded.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RECORD = ROOT / "tests" / "data" / "perplexity.json"
TEXT = Path("/usr/share/common-licenses/GPL-3")
SHA256 = "3972dc9744f6499f0f9b2dbf76696f2ae7ad8af9b23dde66d6af86c9dfb36986"
MODELS = ("SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf")
CONTEXT = 512


def public_text() -> bytes:
    """The text, checked."""
    text = TEXT.read_bytes()
    assert hashlib.sha256(text).hexdigest() == SHA256, f"{TEXT} is another edition"
    return text


def measure(path) -> dict:
    """llama.cpp's figures for a file: tokens, scored tokens, perplexity, its standard error, and -ln p by
    chunk.
    """
    from llama_cpp import Llama  # only the environment that records has it
    from llama_cpp import llama_cpp as c

    llm = Llama(str(path), n_ctx=CONTEXT, n_batch=CONTEXT, logits_all=True, type_k=0, type_v=0, verbose=False)
    vocab = c.llama_model_get_vocab(llm._model.model)
    add_bos = c.llama_vocab_get_add_bos(vocab)
    ids = llm.tokenize(public_text().removesuffix(b"\n"), add_bos=True, special=False)
    by_chunk, values = [], []
    for start in range(0, len(ids) - CONTEXT + 1, CONTEXT):
        chunk = ids[start : start + CONTEXT]
        llm.reset()
        llm.eval([llm.token_bos() if add_bos else chunk[0], *chunk[1:]])
        for position in range(CONTEXT // 2, CONTEXT - 1):
            logits = llm.scores[position].astype(np.float64)
            top = logits.max()
            values.append(float(np.log(np.exp(logits - top).sum()) + top - logits[chunk[position + 1]]))
        by_chunk.append(float(np.mean(values[len(by_chunk) * (CONTEXT - 1 - CONTEXT // 2) :])))
    llm.close()
    mean, square = np.mean(values), np.mean(np.square(values))
    error = np.sqrt((square - mean**2) / (len(values) - 1))
    result = {"tokens": len(ids), "scored": len(values), "perplexity": float(np.exp(mean))}
    return result | {"error": float(np.exp(mean) * error), "chunks": [round(nll, 7) for nll in by_chunk]}


def main() -> None:
    """Write the record, or print the figures of the files given."""
    for path in sys.argv[1:]:
        found = measure(path)
        print(f"{found['perplexity']:.4f} +/- {found['error']:.4f}  {path}", flush=True)
    if sys.argv[1:]:
        return
    from rewrite import rewrite

    record = {"text": TEXT.name, "sha256": SHA256, "context": CONTEXT, "models": {}}
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(rewrite(ROOT / "models" / name, Path(folder) / "float32.gguf"))
        record["models"][name] = found
        print(
            f"{found['perplexity']:.4f} +/- {found['error']:.4f}  "
            f"{name} in float32, {found['tokens']} tokens",
            flush=True,
        )
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
