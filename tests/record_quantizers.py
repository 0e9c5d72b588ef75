"""The recipe of tests/data/quantizers.npz: errors of llama.cpp's own quantizers, and the real weights they
had.

    PYTHON tests/record_quantizers.py

PYTHON is the interpreter of an environment with llama-cpp-python (0.3.36 wrote the file: ggml 0.25.3), gguf
and numpy. The function measured is ggml_quantize_chunk of its libggml-base, without an importance matrix, as
llama-quantize calls it. Errors are relative: RMS of the errors over RMS of the weights.
"""

import ctypes
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from llmcore.loader import read_gguf  # noqa: E402
from llmcore.quants import dequantize  # noqa: E402

RECORD = ROOT / "tests" / "data" / "quantizers.npz"
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
TYPES = {"Q4_K": 12, "Q6_K": 14}
# What is quantized: rows of a tensor of the model (its rows of 576 one after another make blocks of 256 too).
REAL = {
    "embedding": ("token_embd.weight", slice(20_000, 20_032)),
    "down": ("blk.14.ffn_down.weight", slice(100, 112)),
}


def random_weights() -> dict[str, np.ndarray]:
    """Made-up weights, (rows, 1024): normal, with a few large ones, and far from zero."""
    rng = np.random.RandomState(6)
    normal = rng.standard_normal((256, 1024)).astype(np.float32)
    heavy = rng.standard_t(3, (64, 1024)).astype(np.float32)
    shifted = (normal[:64] + 2 * rng.standard_normal((64, 1))).astype(np.float32)
    return {"normal": normal, "heavy": heavy, "shifted": shifted}


def real_weights(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The recorded rows, in blocks: {name: (raw uint8, type)} -> {name: float32 (blocks, 256)}."""
    types = {"embedding": "Q8_0", "down": "Q4_1"}
    return {name: dequantize(raw[name], types[name]).reshape(-1, 256) for name in REAL}


def relative_error(weights: np.ndarray, back: np.ndarray) -> float:
    """RMS(back - weights) / RMS(weights), in float64."""
    weights = weights.astype(np.float64)
    return float(np.sqrt(((back - weights) ** 2).sum() / (weights**2).sum()))


def by_ggml(weights: np.ndarray, type: str) -> np.ndarray:
    """float32 (rows, n) -> uint8 (rows, bytes of a row), by llama.cpp's library."""
    import llama_cpp  # only the environment that records has it

    ggml = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_row_size.restype = ctypes.c_size_t
    rows, n = weights.shape
    out = np.empty((rows, ggml.ggml_row_size(TYPES[type], ctypes.c_int64(n))), np.uint8)
    pointers = (ctypes.c_void_p(array.ctypes.data) for array in (weights, out))
    size = ggml.ggml_quantize_chunk(TYPES[type], *pointers, *map(ctypes.c_int64, (0, rows, n)), None)
    assert size == out.nbytes
    return out


def main() -> None:
    """Write the record, and print it."""
    tensors = read_gguf(ROOT / "models" / MODEL).tensors
    raw = {name: tensors[tensor].data[rows] for name, (tensor, rows) in REAL.items()}
    errors = {}
    for name, weights in (random_weights() | real_weights(raw)).items():
        for type in TYPES:
            error = relative_error(weights, dequantize(by_ggml(weights, type), type))
            errors[f"{type} {name}"] = error
            print(f"{type} {name:10} {error:.6f}")
    np.savez_compressed(RECORD, names=list(errors), errors=list(errors.values()), **raw)
    print(f"wrote {RECORD.name}: {RECORD.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
