"""The recipe of tests/data/delta.npz: logits of llama.cpp for models with short convolutions and delta rules.

    PYTHON tests/record_delta.py

As record_llama_cpp.py, whose environment it needs and whose functions it uses; the text is longer than two
chunks. The models are written by make_tiny_model.py, in shapes that the reference models do not have.
"""

import tempfile
from pathlib import Path

import numpy as np
from record_llama_cpp import DATA, checksum, logits, make_tiny_model

RECORD = DATA / "delta.npz"
IDS = np.random.RandomState(2).randint(3, 288, 150)
POSITIONS = [1, 16, 64, 149]  # about the ends of chunks of 16 and of 64
BLOCKS_OF_256 = {"width": 256, "ff": 256}
DELTA_OF_256 = {**BLOCKS_OF_256, "ssm_state": 64, "ssm_heads": 4, "heads": 4, "head_width": 64}

# name: (family, options of make_tiny_model.make)
VARIANTS = {
    "lfm2": ("lfm2", {}),
    "lfm2-window": ("lfm2", {"window": 5, "layers": 3, "attention_every": 3, "tied": False}),
    "lfm2-odd": ("lfm2", {"width": 36, "heads": 6, "kv_heads": 3, "ff": 33, "conv": 5, "layers": 5}),
    "lfm2-conv-2": ("lfm2", {"conv": 2, "attention_every": 4, "rope_base": None}),
    "lfm2-yarn": ("lfm2", {"rope_scaling": "yarn", "rope_factor": 8.0, "rope_context": 32}),
    "lfm2-Q8_0": ("lfm2", {"type": "Q8_0"}),
    "lfm2-Q4_K": ("lfm2", {"type": "Q4_K", **BLOCKS_OF_256}),
    "lfm2moe": ("lfm2moe", {}),
    "lfm2moe-all": ("lfm2moe", {"experts": 12, "experts_used": 5, "expert_ff": 20, "dense_layers": 2}),
    "lfm2moe-no-dense": ("lfm2moe", {"dense_layers": 0, "attention_every": 3, "layers": 3, "tied": False}),
    "lfm2moe-Q8_0": ("lfm2moe", {"type": "Q8_0"}),
    "qwen35": ("qwen35", {}),
    "qwen35-every-4": ("qwen35", {"interval": 4, "layers": 5, "ssm_heads": 6, "ssm_groups": 3, "conv": 3}),
    "qwen35-array": ("qwen35", {"set": {"attention.recurrent_layers": [True, False, True, False]}}),
    "qwen35-one-head": ("qwen35", {"ssm_heads": 1, "ssm_groups": 1, "ssm_state": 12, "kv_heads": 2}),
    "qwen35-tiled": ("qwen35", {"ssm_heads": 8, "ssm_groups": 2, "ssm_state": 4, "rope_dims": 12, "ff": 33}),
    "qwen35-wide-state": ("qwen35", {"ssm_state": 64, "ssm_heads": 2, "ssm_groups": 1, "tied": False}),
    "qwen35-Q8_0": ("qwen35", {"type": "Q8_0"}),
    "qwen35-Q4_K": ("qwen35", {"type": "Q4_K", **DELTA_OF_256}),
    "qwen35moe": ("qwen35moe", {}),
    "qwen35moe-many": ("qwen35moe", {"experts": 16, "experts_used": 5, "expert_ff": 20, "shared_ff": 28}),
    "qwen35moe-Q8_0": ("qwen35moe", {"type": "Q8_0", "expert_ff": 32, "shared_ff": 64}),
    "qwen3next": ("qwen3next", {}),
    "qwen3next-grouped": ("qwen3next", {"ssm_heads": 8, "ssm_groups": 2, "ssm_state": 4, "interval": 4}),
    "qwen3next-joined": ("qwen3next", {"joined_in": True, "ssm_heads": 6, "ssm_groups": 2}),
    "qwen3next-Q8_0": ("qwen3next", {"type": "Q8_0", "expert_ff": 32, "shared_ff": 64}),
    "kimi-linear": ("kimi-linear", {}),
    "kimi-linear-wide": ("kimi-linear", {"ssm_state": 32, "interval": 3, "layers": 4, "conv": 3, "heads": 3}),
    "kimi-linear-many": (
        "kimi-linear",
        {"experts": 12, "experts_used": 4, "shared_experts": 2, "rope_dims": 6},
    ),
    "kimi-linear-F16": ("kimi-linear", {"type": "F16"}),
}


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
            recorded.append(logits(path, IDS)[POSITIONS])
            print(f"{name:24} standard deviation {recorded[-1].std():6.3f}", flush=True)
    names, checksums = list(VARIANTS), np.array(checksums, np.uint32)
    np.savez_compressed(RECORD, names=names, ids=IDS, checksums=checksums, logits=np.array(recorded))
    print(f"wrote {RECORD.name}: {len(VARIANTS)} variants, {RECORD.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
