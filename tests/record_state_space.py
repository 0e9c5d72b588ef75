"""The recipe of tests/data/state_space.npz: logits of llama.cpp for state-space models that
make_tiny_model.py writes.

    PYTHON tests/record_state_space.py

As record_llama_cpp.py, whose environment it needs and whose functions it uses; the text is longer than
two chunks.
"""

import tempfile
from pathlib import Path

import numpy as np
from record_llama_cpp import DATA, checksum, logits, make_tiny_model
from record_transformers import shorten

RECORD = DATA / "state_space.npz"
IDS = np.random.RandomState(1).randint(3, 288, 150)
POSITIONS = [0, 63, 64, 149]  # about the ends of chunks of 64
BLOCKS_OF_256 = {"width": 256, "ff": 256, "ssm_inner": 512, "ssm_state": 16, "ssm_heads": 8}

# name: (family, options of make_tiny_model.make)
VARIANTS = {
    "granitehybrid": ("granitehybrid", {}),
    "granitehybrid-rope": ("granitehybrid", {"rope": True, "attention_every": 2, "tied": False}),
    "granitehybrid-moe": ("granitehybrid", {"experts": 4, "ff": 24, "ssm_heads": 8, "ssm_groups": 4}),
    "granitehybrid-odd": (
        "granitehybrid",
        {
            "width": 36,
            "heads": 3,
            "kv_heads": 1,
            "head_width": 10,
            "ff": 33,
            "ssm_state": 5,
            "ssm_heads": 6,
            "conv": 3,
        }
        | {"ssm_groups": 3, "layers": 3, "set": {"residual_scale": None, "logit_scale": None}},
    ),
    "granitehybrid-Q8_0": ("granitehybrid", {"type": "Q8_0"}),
    "granitehybrid-Q4_K": ("granitehybrid", {"type": "Q4_K", **BLOCKS_OF_256}),
    "nemotron_h": ("nemotron_h", {}),
    "nemotron_h-biases": (
        "nemotron_h",
        {"biases": True, "layers": 7, "ssm_groups": 1, "ssm_state": 7, "tied": True},
    ),
    "nemotron_h-wide-state": (
        "nemotron_h",
        {"ssm_inner": 24, "ssm_state": 64, "ssm_heads": 12, "head_width": 12},
    ),
    "nemotron_h-rms-eps": ("nemotron_h", {"set": {"attention.layer_norm_rms_epsilon": 0.3}}),
    "nemotron_h_moe": ("nemotron_h_moe", {}),
    "nemotron_h_moe-plain": (
        "nemotron_h_moe",
        {"latent": 0, "experts": 16, "experts_used": 5, "expert_ff": 20}
        | {"set": {"expert_weights_norm": None, "expert_weights_scale": None}},
    ),
    "falcon-h1": ("falcon-h1", {}),
    "falcon-h1-no-norm": (
        "falcon-h1",
        {"ssm_norm": False, "ssm_groups": 2, "heads": 3, "kv_heads": 3, "head_width": 6},
    ),
    "falcon-h1-partial": (
        "falcon-h1",
        {"rope_dims": 4, "tied": True, "ssm_inner": 40, "ssm_heads": 5, "conv": 2},
    ),
    "falcon-h1-Q8_0": ("falcon-h1", {"type": "Q8_0"}),
    "rwkv7": ("rwkv7", {}),
    "rwkv7-heads": ("rwkv7", {"width": 128, "layers": 3, "ff": 40, "q_lora": 5}),
    "mamba2": ("mamba2", {}),
    "mamba2-groups": (
        "mamba2",
        {"ssm_heads": 8, "ssm_groups": 8, "ssm_state": 17, "layers": 3, "tied": True},
    ),
    "mamba2-one-head": ("mamba2", {"ssm_heads": 1, "ssm_inner": 20}),
    "mamba": ("mamba", {}),
    "mamba-odd": (
        "mamba",
        {"width": 20, "ssm_state": 3, "ssm_heads": 5, "conv": 2, "tied": True, "layers": 3},
    ),
    "mamba-falcon": ("mamba", {"set": {"ssm.dt_b_c_rms": True}}),
    "mamba-Q8_0": ("mamba", {"type": "Q8_0", "ssm_heads": 32}),
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
            recorded.append(shorten(logits(path, IDS)[POSITIONS]))
            print(f"{name:24} standard deviation {recorded[-1].std():6.3f}", flush=True)
    names, checksums = list(VARIANTS), np.array(checksums, np.uint32)
    np.savez_compressed(RECORD, names=names, ids=IDS, checksums=checksums, logits=np.array(recorded))
    print(f"wrote {RECORD.name}: {len(VARIANTS)} variants, {RECORD.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
