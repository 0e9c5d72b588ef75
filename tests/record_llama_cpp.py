"""The recipe of tests/data/variants.npz: logits of llama.cpp for variants that the reference models do not
reach.

    PYTHON tests/record_llama_cpp.py

writes the file anew and prints a line for each variant; PYTHON is the interpreter of an environment with
llama-cpp-python (0.3.36 wrote it), gguf (0.19.0) and numpy (2.4.6). Models are made by
scripts/make_tiny_model.py and forgotten. Kept are the logits at three positions, as float32, and a checksum
of each file, which tells a script that writes other models now from an engine that computes other logits.

llama.cpp rounds activations to 8 or 16 bits before it multiplies them with weights that are not float32. So
it gets quantized variants with the same weights expanded to float32, and llmcore gets the quantized file.
"""

import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
import make_tiny_model  # noqa: E402

DATA = ROOT / "tests" / "data"
RECORD = DATA / "variants.npz"
POSITIONS = [0, 9, 29]
IDS = np.random.RandomState(0).randint(3, 288, 30)
CONTEXT = 512  # which matters to longrope

YARN = {"rope_scaling": "yarn", "rope_factor": 8.0, "rope_context": 32}
LINEAR = {"rope_scaling": "linear", "rope_factor": 2.5}
BLOCKS_OF_256 = {"layers": 1, "width": 256, "ff": 256, "heads": 4, "kv_heads": 1}
MANY_EXPERTS = {"experts": 16, "experts_used": 4}
# Layers of a real model and hardly any width.
SLIM = {"width": 16, "heads": 2, "kv_heads": 1, "ff": 16}

# name: (family, options of make_tiny_model.make)
VARIANTS = {
    "llama-one-head": ("llama", {"heads": 1, "kv_heads": 1, "layers": 1}),
    "llama-one-kv-head": ("llama", {"width": 64, "heads": 8, "kv_heads": 1, "tied": True}),
    "llama-odd-sizes": ("llama", {"width": 24, "heads": 3, "kv_heads": 3, "head_width": 10, "ff": 33}),
    "llama-fused-biases": ("llama", {"fused_qkv": True, "biases": True, "kv_heads": 1}),
    "llama-freqs-linear": ("llama", {"rope_freqs": True, **LINEAR}),
    "llama-freqs-yarn": ("llama", {"rope_freqs": True, **YARN}),
    "llama-attn-factor": ("llama", {**YARN, "set": {"rope.scaling.attn_factor": 1.3}}),
    "llama-factor-alone": ("llama", {"set": {"rope.scaling.factor": 3.0, "rope.scaling.attn_factor": 0.8}}),
    "llama-scale-linear": ("llama", {"set": {"rope.scale_linear": 3.0}}),
    "llama-scaling-none": ("llama", {"rope_scaling": "none", "set": {"rope.scaling.factor": 3.0}}),
    "llama-longrope": ("llama", {"rope_scaling": "longrope"}),
    "llama-ignored-window": ("llama", {"set": {"attention.sliding_window": 4}}),
    "llama-yarn-context": (
        "llama",
        {"context": 64, **YARN, "set": {"rope.scaling.original_context_length": None}},
    ),
    "llama-ff-array": ("llama", {"layers": 3, "set": {"feed_forward_length": [64, 64, 64]}}),
    "llama-F16": ("llama", {"type": "F16", "biases": True}),
    "llama-Q4_0": ("llama", {"type": "Q4_0"}),
    "llama-Q4_K": ("llama", {"type": "Q4_K", **BLOCKS_OF_256}),
    "llama-moe-sixteen": ("llama-moe", {**MANY_EXPERTS, "ff": 24}),
    "llama-moe-all-used": ("llama-moe", {"experts": 3, "experts_used": 3}),
    "llama-moe-one-used": ("llama-moe", {"experts_used": 1, "tied": True, **YARN}),
    "llama-moe-MXFP4": ("llama-moe", {"type": "MXFP4", "ff": 32}),
    "qwen2-odd-sizes": ("qwen2", {"width": 36, "heads": 6, "kv_heads": 2, "ff": 33, "tied": True}),
    "qwen2-yarn": ("qwen2", YARN),
    "qwen2-IQ4_NL": ("qwen2", {"type": "IQ4_NL", "kv_heads": 4}),
    "qwen2moe-sixteen": ("qwen2moe", {**MANY_EXPERTS, "expert_ff": 20, "shared_ff": 36, "kv_heads": 4}),
    "qwen2moe-default-widths": (
        "qwen2moe",
        {"set": {"expert_feed_forward_length": None, "expert_shared_feed_forward_length": None}},
    ),
    "qwen2moe-Q5_1": ("qwen2moe", {"type": "Q5_1", "layers": 1}),
    "qwen3-one-kv-head": ("qwen3", {"heads": 8, "kv_heads": 1, "head_width": 6, "tied": True}),
    "qwen3-yarn": ("qwen3", YARN),
    "qwen3-Q6_K": ("qwen3", {"type": "Q6_K", **BLOCKS_OF_256, "head_width": 64}),
    "qwen3moe-sixteen": ("qwen3moe", {**MANY_EXPERTS, "expert_ff": 20, "kv_heads": 1}),
    "qwen3moe-three-used": ("qwen3moe", {"experts": 8, "experts_used": 3, "tied": True, **LINEAR}),
    "gemma-one-head": ("gemma", {"heads": 1, "kv_heads": 1, "head_width": 24, "ff": 33}),
    "gemma-partial-rotary": ("gemma", {"rope_dims": 6, **LINEAR}),
    "gemma2-window-3": ("gemma2", {"window": 3, "layers": 3, "kv_heads": 1}),
    "gemma2-window-64": ("gemma2", {"window": 64, "kv_heads": 4, **YARN}),
    "gemma2-base-swa": ("gemma2", {"set": {"rope.freq_base_swa": 500.0}, "rope_dims": 10}),
    "gemma2-no-caps": ("gemma2", {"set": {"attn_logit_softcapping": None, "final_logit_softcapping": None}}),
    "gemma2-27b": ("gemma2", {"layers": 46, **SLIM, "head_width": 12}),
    "gemma3-one-layer": ("gemma3", {"layers": 1, "window": 3, "heads": 1, "kv_heads": 1, "tied": False}),
    "gemma3-window-64": ("gemma3", {"window": 64, "kv_heads": 4, "rope_dims": 6}),
    "gemma3-no-window": ("gemma3", {"layers": 2, "set": {"attention.sliding_window": None}}),
    "gemma3-pattern-2": ("gemma3", {"layers": 4, "set": {"attention.sliding_window_pattern": 2}, **LINEAR}),
    "gemma3-pattern-array": (
        "gemma3",
        {"layers": 4, "set": {"attention.sliding_window_pattern": [False, True, True, False]}, **YARN},
    ),
    "gemma3-base-swa": ("gemma3", {"layers": 3, "set": {"rope.freq_base_swa": 500.0}}),
    "gemma3-final-cap": ("gemma3", {"layers": 2, "set": {"final_logit_softcapping": 4.0}}),
    "gemma3-27b": ("gemma3", {"layers": 62, **SLIM, "head_width": 12}),
    "gemma3-Q8_0": ("gemma3", {"layers": 2, "type": "Q8_0"}),
    "phi3-window": ("phi3", {"kv_heads": 4, "set": {"attention.sliding_window": 4}}),
    "phi3-partial-linear": ("phi3", {"rope_dims": 6, "tied": True, **LINEAR}),
    "phi3-longrope-long": ("phi3", {"rope_scaling": "longrope", "kv_heads": 1, "ff": 33}),
    "phi3-longrope-short": ("phi3", {"rope_scaling": "longrope", "rope_context": 512}),
    "phi3-longrope-factor": ("phi3", {"rope_scaling": "longrope", "set": {"rope.scaling.factor": 3.0}}),
    "gpt2-one-head": ("gpt2", {"heads": 1, "width": 28, "ff": 33, "tied": True, "context": 512}),
    "gpt2-BF16": ("gpt2", {"type": "BF16", "context": 512}),
    "deepseek2-plain-query": ("deepseek2", {"q_lora": 0, "gating": "softmax", "router_bias": False}),
    "deepseek2-joined": ("deepseek2", {"joined_kv_b": True, "heads": 1, "kv_lora": 20, "dense_layers": 0}),
    "deepseek2-groups": (
        "deepseek2",
        {"experts": 16, "experts_used": 4, "groups": 4, "groups_used": 2, "shared_experts": 2, "layers": 3},
    ),
    "deepseek2-groups-softmax": (
        "deepseek2",
        {
            "gating": "softmax",
            "router_bias": False,
            "experts": 12,
            "experts_used": 3,
            "groups": 3,
            "groups_used": 2,
        },
    ),
    "deepseek2-bare": (
        "deepseek2",
        {"set": {"expert_weights_scale": None, "expert_weights_norm": None, "expert_gating_func": None}},
    ),
    "deepseek2-all-dense": (
        "deepseek2",
        {"dense_layers": 2, "tied": True, "value_width": 10, "rope_dims": 12},
    ),
    "deepseek2-yarn": ("deepseek2", YARN),
    "deepseek2-yarn-log": ("deepseek2", {**YARN, "set": {"rope.scaling.yarn_log_multiplier": 0.1}}),
    "deepseek2-yarn-log-joined": (
        "deepseek2",
        {
            **YARN,
            "joined_kv_b": True,
            "set": {"rope.scaling.yarn_log_multiplier": 0.0707, "rope.scaling.attn_factor": 1.3},
        },
    ),
    "deepseek2-Q8_0": ("deepseek2", {"type": "Q8_0", "head_width": 48, "rope_dims": 16, "value_width": 32}),
    "olmo2-one-kv-head": ("olmo2", {"kv_heads": 1, **YARN}),
    "olmo2-window": ("olmo2", {"layers": 4, "window": 8, "kv_heads": 4, **YARN}),
    "granite-bare": (
        "granite",
        {
            "width": 24,
            "head_width": 10,
            "tied": False,
            "set": {"residual_scale": None, "embedding_scale": None, "attention.scale": None},
        },
    ),
    # Granite 4.0 without Mamba layers: its converter writes an array, and that RoPE is on.
    "granite-4": ("granite", {"set": {"attention.head_count_kv": [2, 2], "rope.scaling.finetuned": True}}),
    "granite-linear": ("granite", {"heads": 1, "kv_heads": 1, **LINEAR}),
    "command-r-partial": ("command-r", {"kv_heads": 4, "rope_dims": 6, "set": {"logit_scale": None}}),
    "command-r-plus": ("command-r", {"layers": 64, **SLIM}),
    "starcoder2-yarn": ("starcoder2", {"kv_heads": 1, "ff": 33, "tied": True, **YARN}),
    "smollm3-untied": (
        "smollm3",
        {"layers": 9, "tied": False, "width": 24, "ff": 33, "head_width": 10, **YARN},
    ),
    "gpt-oss-window-64": ("gpt-oss", {"window": 64, "heads": 1, "kv_heads": 1, "rope_scaling": None}),
    "gpt-oss-sixteen": ("gpt-oss", {**MANY_EXPERTS, "expert_ff": 20, "window": 3, "layers": 3}),
    "gpt-oss-pattern-array": (
        "gpt-oss",
        {
            "layers": 3,
            "set": {"attention.sliding_window_pattern": [False, True, True], "rope.scaling.attn_factor": 1.3},
        },
    ),
    "gpt-oss-base-swa": (
        "gpt-oss",
        {"set": {"rope.freq_base_swa": 500.0}, "heads": 8, "kv_heads": 1, **LINEAR},
    ),
    "gpt-oss-MXFP4": ("gpt-oss", {"type": "MXFP4", "layers": 1}),
}


def logits(path: Path, ids: np.ndarray = IDS) -> np.ndarray:
    """What llama.cpp computes for the ids, float32 (T, V): float32 weights, float32 cache."""
    from llama_cpp import Llama  # only the environment that records has it

    llm = Llama(str(path), n_ctx=CONTEXT, logits_all=True, type_k=0, type_v=0, verbose=False)
    llm.eval(ids.tolist())
    result = np.array(llm.scores[: len(ids)], np.float32)
    llm.close()
    return result


def checksum(path: Path) -> int:
    """The CRC-32 of a file."""
    return zlib.crc32(path.read_bytes())


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
            rows = logits(path)[POSITIONS]
            recorded.append(rows)
            path.unlink()
            print(
                f"{name:30} standard deviation {rows.std():6.3f}, largest {np.abs(rows).max():6.2f}",
                flush=True,
            )
    checksums = np.array(checksums, np.uint32)
    np.savez_compressed(RECORD, names=list(VARIANTS), ids=IDS, checksums=checksums, logits=np.array(recorded))
    print(f"wrote {RECORD}: {len(VARIANTS)} variants, {RECORD.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
