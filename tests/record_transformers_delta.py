"""What `transformers` computes on tiny random models with short convolutions or delta rules, as GGUF files.

    TORCH/bin/python tests/record_transformers_delta.py     # tests/data/delta: NAME.gguf and logits.npz

As record_transformers.py, whose environment it needs and whose functions it uses. transformers adds 1e-6 to
the squared length of queries and keys, llama.cpp and we the epsilon of the norms, which here is the same.
"""

import re

import numpy as np
from record_transformers import ROOT, Family, random_model, shorten, split_experts, write_model

OUTPUT = ROOT / "tests/data/delta"
IDS = np.random.default_rng(1).integers(3, 288, 90)  # more than a chunk of 64

# What a name of transformers ends with, behind model. and the layer -> the file's name; the first counts.
NAMES = {
    r"embed_tokens\.weight": "token_embd.weight",
    r"lm_head\.weight": "output.weight",
    r"norm\.weight": "output_norm.weight",
    r"embedding_norm\.weight": "token_embd_norm.weight",
    r".*\.(input_layernorm|operator_norm)\.weight": "attn_norm.weight",
    r".*\.ffn_norm\.weight": "ffn_norm.weight",
    r".*\.post_attention_layernorm\.weight": "post_attention_norm.weight",
    r".*\.conv\.(conv|in_proj|out_proj)\.weight": r"shortconv.\1.weight",
    r".*\.self_attn\.([qk])_(layer)?norm\.weight": r"attn_\1_norm.weight",
    r".*\.linear_attn\.A_log|.*\.forget_gate\.A_log": "ssm_a",
    r".*\.dt_bias": "ssm_dt.bias",
    r".*\.linear_attn\.conv1d\.weight": "ssm_conv1d.weight",
    r".*\.linear_attn\.norm\.weight|.*\.o_norm\.weight": "ssm_norm.weight",
    r".*\.linear_attn\.out_proj\.weight": "ssm_out.weight",
    r".*\.in_proj_qkv\.weight": "attn_qkv.weight",
    r".*\.in_proj_z\.weight": "attn_gate.weight",
    r".*\.in_proj_b\.weight|.*\.self_attn\.b_proj\.weight": "ssm_beta.weight",
    r".*\.in_proj_a\.weight": "ssm_alpha.weight",
    r".*\.in_proj_qkvz\.weight": "ssm_in.weight",
    r".*\.in_proj_ba\.weight": "ssm_ba.weight",
    r".*\.conv1d_([qkv])\.weight": r"ssm_conv1d_\1.weight",
    r".*\.([fg]_[ab])_proj\.weight": r"ssm_\1.weight",
    r".*\.kv_a_proj_with_mqa\.weight": "attn_kv_a_mqa.weight",
    r".*\.kv_a_layernorm\.weight": "attn_kv_a_norm.weight",
    r".*\.([kv]_b)_proj\.weight": r"attn_\1.weight",
    r".*\.([qkv])_proj\.weight": r"attn_\1.weight",
    r".*\.(o|self_attn\.out)_proj\.weight": "attn_output.weight",
    r".*\.shared_expert_gate\.weight": "ffn_gate_inp_shexp.weight",
    r".*\.shared_experts?\.(gate|up|down)_proj\.weight": r"ffn_\1_shexp.weight",
    r".*\.experts\.(gate|up|down)_proj\.weight": r"ffn_\1_exps.weight",
    r".*\.gate\.weight": "ffn_gate_inp.weight",
    r".*\.(expert_bias|e_score_correction_bias)": "exp_probs_b.bias",
    r".*\.(gate_proj|w1)\.weight": "ffn_gate.weight",
    r".*\.(up_proj|w3)\.weight": "ffn_up.weight",
    r".*\.(down_proj|w2)\.weight": "ffn_down.weight",
}


def file_name(name, config):
    """The name of a tensor in the file."""
    name = name.removeprefix("model.")
    layer = re.match(r"layers\.(\d+)\.", name)
    for pattern, ours in NAMES.items():
        if match := re.fullmatch(pattern, name):
            ours = f"blk.{layer[1]}.{match.expand(ours)}" if layer else match.expand(ours)
            kimi = config.model_type == "kimi_linear"
            return ours.replace("post_attention_norm", "ffn_norm") if kimi else ours
    raise ValueError(f"what is {name}?")


# Steps as in record_transformers.py: (name, array, config) -> [(name, array), ...]


def without_empty_axis(name, x, config):
    """Convolutions are (C, 1, W)."""
    return [(name, x[:, 0] if name.endswith(("conv.conv.weight", "conv1d.weight")) else x)]


def qwen_next(name, x, config):
    """a = -exp(A_log); norms multiply by 1 + weight, but for that of the delta net."""
    if name.endswith("A_log"):
        return [(name, -np.exp(x))]
    return [(name, x + 1 if name.endswith("norm.weight") and "linear_attn" not in name else x)]


def tile_value_heads(name, x, config):
    """Value heads stand key head by key head, in the file one of each key head after one of each."""
    H, K, P = config.linear_num_value_heads, config.linear_num_key_heads, config.linear_value_head_dim

    def tiled(x, axis=0):
        x = np.moveaxis(x, axis, 0)
        return np.moveaxis(x.reshape(K, H // K, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape), 0, axis)

    if "linear_attn" not in name or name.endswith("linear_attn.norm.weight"):
        return [(name, x)]
    if name.endswith(("in_proj_qkv.weight", "conv1d.weight")):
        qk, v = np.split(x, [2 * K * P])
        return [(name, np.concatenate([qk, tiled(v)]))]
    return [(name, tiled(x, 1 if name.endswith("out_proj.weight") else 0))]


def split_qkvz(name, x, config):
    """Newer files have attn_qkv and attn_gate for what stands together here, key head by key head."""
    if not name.endswith("in_proj_qkvz.weight") or config.linear_conv_kernel_dim != 4:
        return [(name, x)]
    K, P, U = config.linear_num_key_heads, config.linear_key_head_dim, x.shape[1]
    J = config.linear_num_value_heads // K
    parts = np.split(x.reshape(K, -1, U), np.cumsum([P, P, J * P]), axis=1)
    q, k, v, z = (part.reshape(-1, U) for part in parts)
    return [(name.replace("qkvz", "qkv"), np.concatenate([q, k, v])), (name.replace("qkvz", "z"), z)]


def kimi(name, x, config):
    """A convolution each for q, k and v; a = -exp(A_log); kv_b in two, as record_transformers.split_kv_b."""
    if name.endswith("A_log"):
        return [(name, -np.exp(x))]
    if name.endswith("conv1d.weight"):
        parts = np.split(x[None], 3, axis=1)
        return [(name.replace("conv1d", f"conv1d_{y}"), part) for y, part in zip("qkv", parts, strict=True)]
    if not name.endswith("kv_b_proj.weight"):
        return [(name, x)]
    x = x.reshape(config.num_attention_heads, -1, config.kv_lora_rank)
    k, v = np.split(x, [config.qk_nope_head_dim], axis=1)
    return [(name.replace("kv_b", "k_b"), k.swapaxes(1, 2)), (name.replace("kv_b", "v_b"), v)]


# Keys beside those of record_transformers.common_keys


def lfm_keys(config):
    """Layers without key/value heads are convolutions."""
    c, moe = config, config.model_type == "lfm2_moe"
    keys = {
        "attention.head_count_kv": [c.num_key_value_heads * (kind != "conv") for kind in c.layer_types],
        "attention.layer_norm_rms_epsilon": c.norm_eps,
        "shortconv.l_cache": c.conv_L_cache,
    }
    experts = {"leading_dense_block_count": c.num_dense_layers, "expert_gating_func": 2} if moe else {}
    return keys | experts | ({"expert_feed_forward_length": c.moe_intermediate_size} if moe else {})


def qwen_next_keys(config):
    """Which layers are recurrent an array says here."""
    c = config
    n_rot = int(c.head_dim * c.rope_parameters["partial_rotary_factor"])
    keys = {
        "attention.recurrent_layers": [kind == "linear_attention" for kind in c.layer_types],
        "rope.dimension_count": n_rot,
        "ssm.conv_kernel": c.linear_conv_kernel_dim,
        "ssm.inner_size": c.linear_num_value_heads * c.linear_value_head_dim,
        "ssm.state_size": c.linear_key_head_dim,
        "ssm.time_step_rank": c.linear_num_value_heads,
        "ssm.group_count": c.linear_num_key_heads,
    }
    if c.model_type != "qwen3_next":
        keys["rope.dimension_sections"] = [*(len(range(n_rot // 2)[start::3]) for start in range(3)), 0]
    if hasattr(c, "moe_intermediate_size"):
        keys["feed_forward_length"] = None
        keys["expert_feed_forward_length"] = c.moe_intermediate_size
        keys["expert_shared_feed_forward_length"] = c.shared_expert_intermediate_size
    return keys


def kimi_keys(config):
    """Layers without key/value heads are recurrent."""
    c = config
    return {
        "attention.head_count_kv": [int(kind == "full_attention") for kind in c.layer_types],
        "attention.key_length": c.kv_lora_rank + c.qk_rope_head_dim,
        "attention.value_length": c.kv_lora_rank,
        "attention.key_length_mla": c.qk_nope_head_dim + c.qk_rope_head_dim,
        "attention.value_length_mla": c.v_head_dim,
        "attention.kv_lora_rank": c.kv_lora_rank,
        "rope.dimension_count": c.qk_rope_head_dim,
        "kda.head_dim": c.linear_head_dim,
        "ssm.conv_kernel": c.linear_conv_kernel_dim,
        "leading_dense_block_count": c.mlp_layer_types.count("dense"),
        "expert_feed_forward_length": c.moe_intermediate_size,
        "expert_shared_count": c.n_shared_experts,
        "expert_weights_scale": float(c.routed_scaling_factor),
        "expert_gating_func": 2,
    }


LFM = {
    "layer_types": ["conv", "full_attention", "conv"],
    "num_hidden_layers": 3,
    "conv_L_cache": 3,
    "norm_eps": 1e-3,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
QWEN = {
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    **{"linear_num_value_heads": 6, "linear_num_key_heads": 3, "linear_conv_kernel_dim": 4},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8, "head_dim": 16, "rms_norm_eps": 1e-6},
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
}
QWEN_EXPERTS = QWEN | EXPERTS | {"shared_expert_intermediate_size": 10, "tie_word_embeddings": False}
KIMI = {
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    **{"kv_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6, "v_head_dim": 5},
    **{"linear_head_dim": 6, "linear_num_heads": 4, "linear_conv_kernel_dim": 4, "rms_norm_eps": 1e-6},
    **{
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 12,
        "tie_word_embeddings": False,
    },
}
FAMILIES = {
    "lfm2": Family(
        "lfm2", "Lfm2", LFM | {"block_auto_adjust_ff_dim": False}, (without_empty_axis,), lfm_keys
    ),
    "lfm2moe": Family(
        "lfm2moe",
        "Lfm2Moe",
        LFM | EXPERTS | {"num_dense_layers": 1, "use_expert_bias": True},
        (without_empty_axis, split_experts),
        lfm_keys,
    ),
    "qwen35": Family(
        "qwen35", "Qwen3_5", QWEN, (without_empty_axis, qwen_next, tile_value_heads), qwen_next_keys
    ),
    "qwen35moe": Family(
        "qwen35moe",
        "Qwen3_5Moe",
        QWEN_EXPERTS,
        (without_empty_axis, qwen_next, tile_value_heads, split_experts),
        qwen_next_keys,
    ),
    "qwen3next": Family(
        "qwen3next",
        "Qwen3Next",
        QWEN_EXPERTS,
        (without_empty_axis, qwen_next, split_qkvz, split_experts),
        qwen_next_keys,
    ),
    # As older files have it: ssm_in whole.
    "qwen3next-joined": Family(
        "qwen3next",
        "Qwen3Next",
        QWEN_EXPERTS | {"linear_conv_kernel_dim": 3},
        (without_empty_axis, qwen_next, split_qkvz, split_experts),
        qwen_next_keys,
    ),
    "kimi-linear": Family("kimi-linear", "KimiLinear", KIMI, (kimi, split_experts), kimi_keys),
}


def main():
    """Write every model, and the logits of all in one file."""
    import torch

    OUTPUT.mkdir(parents=True, exist_ok=True)
    arrays = {"ids": IDS}
    for seed, (name, family) in enumerate(FAMILIES.items()):
        model, config = random_model(family, seed)
        with torch.no_grad():
            arrays[name] = shorten(model(torch.from_numpy(IDS)[None], use_cache=False).logits[0].numpy()[::8])
        pairs = [(name, x.detach().numpy()) for name, x in model.state_dict().items()]
        pairs = [(name, x) for name, x in pairs if name != "lm_head.weight" or not config.tie_word_embeddings]
        for step in family.steps:
            pairs = [new for name, x in pairs for new in step(name, x, config)]
        tensors = {file_name(name, config): x for name, x in pairs}
        assert len(tensors) == len(pairs), "a name is given twice"
        path = OUTPUT / f"{name}.gguf"
        write_model(path, family, config, tensors, float32=False)
        print(f"{name:18} {path.stat().st_size:7,} bytes  logits +-{arrays[name].std():.2f}")
    np.savez_compressed(OUTPUT / "logits.npz", **arrays)
    print(f"{sum(file.stat().st_size for file in OUTPUT.iterdir()):,} bytes in all")


if __name__ == "__main__":
    main()
