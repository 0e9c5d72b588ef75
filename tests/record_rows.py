"""The recipe of tests/data/rows.npz: logits of llama.cpp for families of attention alone, in shapes that the
reference models do not have.

    PYTHON tests/record_rows.py

As record_llama_cpp.py, whose environment it needs and whose functions it uses; models are written by
make_tiny_model.py.
"""

import tempfile
from pathlib import Path

import numpy as np
from record_llama_cpp import DATA, checksum, make_tiny_model

RECORD = DATA / "rows.npz"
IDS = np.random.RandomState(3).randint(3, 288, 60)
POSITIONS = [1, 20, 59]
LONG = np.random.RandomState(4).randint(3, 288, 8300)  # past the length of llama4's chunks
BLOCKS_OF_256 = {"width": 256, "ff": 256, "heads": 4, "kv_heads": 1, "head_width": 64}
SLIM = {"width": 16, "heads": 2, "kv_heads": 1, "ff": 16}
YARN = {"rope_scaling": "yarn", "rope_factor": 8.0, "rope_context": 32}
PLE = {"per_layer": 8, "shared_layers": 3, "layers": 6}

# name: (family, options of make_tiny_model.make)
VARIANTS = {
    "qwen2vl": ("qwen2vl", {"kv_heads": 1}),
    "qwen3vl": ("qwen3vl", {"heads": 2, "ff": 33}),
    "qwen3vlmoe": ("qwen3vlmoe", {"experts": 12, "experts_used": 5}),
    "mistral3": ("mistral3", {}),
    "mistral3-plain": ("mistral3", {"rope_scaling": None, "temperature": False, "tied": True}),
    "mistral3-rising": (
        "mistral3",
        {"rope_scaling": None, "set": {"rope.scaling.original_context_length": 5}},
    ),
    "mistral3-multiplier": ("mistral3", {**YARN, "set": {"rope.scaling.yarn_log_multiplier": 0.5}}),
    "gemma4": ("gemma4", {"shared_layers": 2}),
    "gemma4-every-2": (
        "gemma4",
        {"full_every": 2, "layers": 7, "shared_layers": 3, "window": 3, "kv_heads": 4},
    ),
    "gemma4-keys-as-values": ("gemma4", {"keys_as_values": True, "layers": 6}),
    "gemma4-ple": ("gemma4", {**PLE, "set": {"feed_forward_length": [32] * 6}}),
    "gemma4-ple-odd": (
        "gemma4",
        {"per_layer": 5, "width": 36, "heads": 6, "kv_heads": 2, "shared_layers": 2},
    ),
    "gemma4-moe": ("gemma4", {"experts": 6, "experts_used": 3, "expert_ff": 12}),
    "gemma4-moe-ple": ("gemma4", {**PLE, "experts": 4, "keys_as_values": True}),
    "gemma4-Q4_K": (
        "gemma4",
        {"type": "Q4_K", **BLOCKS_OF_256, "kv_heads": 2, "per_layer": 256, "shared_layers": 2},
    ),
    "glm4": ("glm4", {"rope_dims": 4, "kv_heads": 1, "layers": 3}),
    "glm4-sections": ("glm4", {"set": {"rope.dimension_sections": [2, 1, 1, 0]}}),
    "glm4moe": (
        "glm4moe",
        {"experts": 8, "experts_used": 3, "shared_experts": 2, "dense_layers": 2, "layers": 4},
    ),
    "seed_oss": ("seed_oss", {"heads": 2, "tied": True}),
    "granitemoe": ("granitemoe", {"experts": 8, "experts_used": 3}),
    "ernie4_5": ("ernie4_5", {"head_width": 8, "tied": True}),
    "ernie4_5-moe": ("ernie4_5-moe", {"dense_layers": 2, "layers": 4, "experts": 6, "experts_used": 3}),
    "minimax-m2": ("minimax-m2", {"rope_dims": 4, "kv_heads": 1, "experts": 8}),
    "dots1": ("dots1", {"experts": 8, "experts_used": 3, "shared_experts": 1}),
    "olmoe": ("olmoe", {"kv_heads": 4, "experts": 8, "experts_used": 3}),
    "phimoe": ("phimoe", {"experts": 8}),
    "phimoe-long": ("phimoe", {"rope_scaling": "longrope", "rope_context": 256}),
    "hunyuan-dense": ("hunyuan-dense", {"set": {"rope.scaling.alpha": 50.0}}),
    "hunyuan-moe": ("hunyuan-moe", {"experts": 8, "experts_used": 1}),
    "cohere2": ("cohere2", {"layers": 5, "window": 3, "kv_heads": 1}),
    "cohere2-every-2": ("cohere2", {"set": {"attention.sliding_window_pattern": 2}}),
    "exaone4": ("exaone4", {"layers": 3}),
    "exaone4-windows": ("exaone4", {"layers": 64, "window": 5, **SLIM}),
    "bitnet": ("bitnet", {"kv_heads": 1}),
    "bitnet-TQ2_0": ("bitnet", {"type": "TQ2_0", "width": 256, "ff": 256}),
    "smallthinker": ("smallthinker", {"layers": 6, "experts": 8}),
    "smallthinker-full": ("smallthinker", {"set": {"attention.sliding_window": 0}}),
    "llama4": ("llama4", {"experts": 8, "experts_used": 2}),
    "llama4-every-1": ("llama4", {"experts_every": 1, "layers": 5}),
    "llama4-128": ("llama4", {"experts": 128, "expert_ff": 4}),
    "llama4-long": ("llama4", {**SLIM, "context": 16384}),
    "gptneox": ("gptneox", {"layers": 3}),
    "gptneox-serial": ("gptneox", {"set": {"use_parallel_residual": False}}),
    "phi2": ("phi2", {"rope_dims": 8}),
    "falcon": ("falcon", {"kv_heads": 2}),
    "falcon-two-norms": ("falcon", {"two_norms": True, "kv_heads": 2}),
    "stablelm": ("stablelm", {"rope_dims": 8}),
}


def text_of(name: str) -> tuple[np.ndarray, list[int]]:
    """The ids of a variant's text, and the positions whose logits are kept."""
    return (LONG, [8190, 8192, 8299]) if name == "llama4-long" else (IDS, POSITIONS)


def logits(path: Path, ids: np.ndarray) -> np.ndarray:
    """What llama.cpp computes with the file's own numbers for YaRN; the package puts others there."""
    from llama_cpp import Llama  # only the environment that records has it

    own = {"yarn_beta_fast": -1.0, "yarn_beta_slow": -1.0, "yarn_attn_factor": -1.0, "yarn_ext_factor": -1.0}
    size = max(512, len(ids) + 100)
    llm = Llama(
        str(path), n_ctx=size, logits_all=True, type_k=0, type_v=0, verbose=False, swa_full=True, **own
    )
    llm.eval(ids.tolist())
    result = np.array(llm.scores[: len(ids)], np.float32)
    llm.close()
    return result


def main() -> None:
    """Write the record."""
    checksums, recorded = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, (family, options) in VARIANTS.items():
            path = Path(folder) / f"{name}.gguf"
            make_tiny_model.make(family, path, **options)
            checksums.append(checksum(path))
            if options.get("type", "F32") != "F32":
                make_tiny_model.make(family, path, **options, as_float32=True, force=True)
            ids, positions = text_of(name)
            recorded.append(logits(path, ids)[positions])
            print(f"{name:24} standard deviation {recorded[-1].std():6.3f}", flush=True)
    names, checksums = list(VARIANTS), np.array(checksums, np.uint32)
    np.savez_compressed(RECORD, names=names, ids=IDS, checksums=checksums, logits=np.array(recorded))
    print(f"wrote {RECORD.name}: {len(VARIANTS)} variants, {RECORD.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
