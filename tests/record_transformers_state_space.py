"""What `transformers` computes on tiny random state-space models, and those models as GGUF files.

    TORCH/bin/python tests/record_transformers_state_space.py  # tests/data/state_space: models and logits.npz

As record_transformers.py, whose environment it needs and whose functions it uses. Where transformers
and llama.cpp differ, we follow llama.cpp: transformers' nemotron_h takes no step below `time_step_min`,
here 1e-9. Falcon-H1's factors, which the converter folds into the weights, are powers of two here, so
that bfloat16 holds the products.
"""

import re

import numpy as np
from record_transformers import ROOT, Family, permute_qk, random_model, shorten, write_model

OUTPUT = ROOT / "tests/data/state_space"
IDS = np.random.default_rng(0).integers(3, 288, 90)  # more than a chunk of 64

# A name of transformers, without model. or backbone. and with blk for layers -> the file's; the first counts.
NAMES = {
    r"(embed_tokens|embeddings)\.weight": "token_embd.weight",
    r"lm_head\.weight": "output.weight",
    r"(norm|norm_f|final_layernorm)\.weight": "output_norm.weight",
    r"blk\.\d+\.(input_layernorm|norm)\.weight": "attn_norm.weight",
    r".*\.post_attention_layernorm\.weight": "ffn_norm.weight",
    r".*\.pre_ff_layernorm\.weight": "ffn_norm",
    r".*\.(mamba|mixer)\.A_log": "ssm_a",
    r".*\.(mamba|mixer)\.D": "ssm_d",
    r".*\.(mamba|mixer)\.dt_bias": "ssm_dt.bias",
    r".*\.mixer\.dt_proj\.(weight|bias)": r"ssm_dt.\1",
    r".*\.mixer\.x_proj\.weight": "ssm_x.weight",
    r".*\.(?:mamba|mixer)\.conv1d\.(weight|bias)": r"ssm_conv1d.\1",
    r".*\.(?:mamba|mixer)\.in_proj\.(weight|bias)": r"ssm_in.\1",
    r".*\.(?:mamba|mixer)\.out_proj\.(weight|bias)": r"ssm_out.\1",
    r".*\.(mamba|mixer)\.norm\.weight": "ssm_norm.weight",
    r".*\.([qkv])_proj\.(weight|bias)": r"attn_\1.\2",
    r".*\.o_proj\.(weight|bias)": r"attn_output.\1",
    r".*\.(router|mixer\.gate)\.weight": "ffn_gate_inp.weight",
    r".*\.gate\.e_score_correction_bias": "exp_probs_b.bias",
    r".*\.fc1_latent_proj\.weight": "ffn_latent_down.weight",
    r".*\.fc2_latent_proj\.weight": "ffn_latent_up.weight",
    r".*\.experts\.(gate|up|down)_proj": r"ffn_\1_exps.weight",
    r".*\.shared_(?:experts|mlp)\.(gate|up|down)_proj\.weight": r"ffn_\1_shexp.weight",
    r".*\.(gate|up|down)_proj\.(weight|bias)": r"ffn_\1.\2",
}


def file_name(name):
    """The name of a tensor in the file."""
    name = re.sub(r"^(model|backbone)\.(layers(?=\.\d))?", lambda match: "blk" if match[2] else "", name)
    layer = re.match(r"blk\.\d+\.", name)
    for pattern, ours in NAMES.items():
        if match := re.fullmatch(pattern, name):
            return (layer[0] if layer else "") + match.expand(ours)
    raise ValueError(f"what is {name}?")


MAMBA1 = ("mamba", "falcon_mamba")

# Steps as in record_transformers.py: (name, array, config) -> [(name, array), ...]


def state_space(name, x, config):
    """A = -exp(A_log); A and d of Mamba-2 as columns; convolution without its empty axis; norm by groups."""
    column = slice(None) if config.model_type in MAMBA1 else (slice(None), None)
    if name.endswith("A_log"):
        return [(name, -np.exp(x)[column])]
    if name.endswith(("mixer.D", "mamba.D")):
        return [(name, x[column])]
    if name.endswith("conv1d.weight"):
        return [(name, x[:, 0])]
    if name.endswith(("mixer.norm.weight", "mamba.norm.weight")):
        return [(name, x.reshape(n_groups(config), -1))]
    return [(name, x)]


def n_groups(config):
    """Groups of heads that share B and C."""
    return getattr(config, "n_groups", None) or getattr(config, "mamba_n_groups", None)


def split_granite(name, x, config):
    """Granite keeps gate above up; what it calls the shared expert is the feed-forward of a dense model."""
    if not config.num_local_experts:
        name = name.replace("shared_mlp", "mlp")
    name = name.replace("output_linear", "down_proj")
    if not name.endswith(("input_linear.weight", "gate_up_proj")):
        return [(name, x)]
    gate, up = np.split(x, 2, axis=-2)
    name = name.replace("input_linear", "gate_up_proj")
    return [(name.replace("gate_up", "gate"), gate), (name.replace("gate_up", "up"), up)]


def fold_factors(name, x, config):
    """Falcon-H1's factors go into the weights."""
    c, (gate, down) = config, config.mlp_multipliers
    factors = {"gate_proj": gate, "down_proj": down, "q_proj": c.attention_in_multiplier}
    factors |= {"k_proj": c.attention_in_multiplier * c.key_multiplier, "v_proj": c.attention_in_multiplier}
    factors |= {"o_proj": c.attention_out_multiplier, "out_proj": c.ssm_out_multiplier}
    factors |= {"lm_head": c.lm_head_multiplier, "embed_tokens": c.embedding_multiplier}
    if name.endswith("in_proj.weight"):
        n_state = c.mamba_n_groups * c.mamba_d_state
        widths = [c.mamba_d_ssm, c.mamba_d_ssm, n_state, n_state, c.mamba_n_heads]
        return [(name, x * c.ssm_in_multiplier * np.repeat(np.float32(c.ssm_multipliers), widths)[:, None])]
    return [(name, x * factors.get(name.split(".")[-2], 1.0))]


# Keys beside those of record_transformers.common_keys


def mamba_keys(config):
    """Mamba and Mamba-2 have no attention and no feed-forward."""
    mamba1 = config.model_type in MAMBA1
    return {
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "attention.head_count_kv": None,
        "attention.key_length": None,
        "attention.value_length": None,
        "attention.layer_norm_rms_epsilon": config.layer_norm_epsilon,
        "ssm.conv_kernel": config.conv_kernel,
        "ssm.inner_size": config.intermediate_size if mamba1 else config.num_heads * config.head_dim,
        "ssm.state_size": config.state_size,
        "ssm.time_step_rank": config.time_step_rank if mamba1 else config.num_heads,
        "ssm.group_count": n_groups(config),
        "ssm.dt_b_c_rms": config.model_type == "falcon_mamba" or None,
    }


def hybrid_keys(config):
    """Granite and Falcon-H1."""
    c = config
    inner = getattr(c, "mamba_d_ssm", None) or c.mamba_n_heads * c.mamba_d_head
    return {
        "ssm.conv_kernel": c.mamba_d_conv,
        "ssm.inner_size": inner,
        "ssm.state_size": c.mamba_d_state,
        "ssm.time_step_rank": c.mamba_n_heads,
        "ssm.group_count": c.mamba_n_groups,
    }


def granite_keys(config):
    """Layers without key/value heads are recurrent; hybrid models have no RoPE unless they ask for it."""
    c = config
    attends = [kind in ("attention", "full_attention") for kind in c.layer_types]
    return hybrid_keys(c) | {
        "attention.head_count_kv": [c.num_key_value_heads * yes for yes in attends],
        "rope.scaling.finetuned": c.position_embedding_type == "rope",
        "embedding_scale": c.embedding_multiplier,
        "residual_scale": c.residual_multiplier,
        "attention.scale": c.attention_multiplier,
        "logit_scale": c.logits_scaling,
        "feed_forward_length": c.intermediate_size if c.num_local_experts else c.shared_intermediate_size,
        "expert_count": c.num_local_experts or None,
        "expert_used_count": c.num_experts_per_tok if c.num_local_experts else None,
        "expert_shared_feed_forward_length": c.shared_intermediate_size if c.num_local_experts else None,
    }


def nemotron_keys(config):
    """One half of a block a layer."""
    c, moe = config, "moe" in config.layers_block_type
    n_ff = {"mlp": c.intermediate_size, "moe": c.moe_intermediate_size}
    attends = [kind in ("attention", "full_attention") for kind in c.layers_block_type]
    keys = {
        "block_count": len(c.layers_block_type),
        "attention.layer_norm_epsilon": c.layer_norm_epsilon,
        "attention.layer_norm_rms_epsilon": None,
        "attention.head_count_kv": [c.num_key_value_heads * yes for yes in attends],
        "feed_forward_length": [n_ff.get(kind, 0) for kind in c.layers_block_type],
        "ssm.conv_kernel": c.conv_kernel,
        "ssm.inner_size": c.mamba_num_heads * c.mamba_head_dim,
        "ssm.state_size": c.ssm_state_size,
        "ssm.time_step_rank": c.mamba_num_heads,
        "ssm.group_count": c.n_groups,
        "expert_count": c.n_routed_experts if moe else None,
        "expert_used_count": c.num_experts_per_tok if moe else None,
    }
    experts = {
        "expert_feed_forward_length": c.moe_intermediate_size,
        "expert_shared_feed_forward_length": c.moe_shared_expert_intermediate_size,
        "expert_weights_norm": c.norm_topk_prob,
        "expert_weights_scale": float(c.routed_scaling_factor),
        "expert_group_count": c.n_group,
        "expert_group_used_count": c.topk_group,
        "moe_latent_size": c.moe_latent_size,
    }
    return keys | (experts if moe else {})


GRANITE = {
    "layer_types": ["mamba", "attention", "mamba"],
    "num_hidden_layers": 3,
    **{"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 6, "mamba_n_groups": 2, "mamba_d_conv": 3},
    **{"mamba_chunk_size": 16, "shared_intermediate_size": 24},
    **{
        "embedding_multiplier": 6.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.4,
        "logits_scaling": 1.5,
    },
}
NEMOTRON = {
    **{"mamba_num_heads": 4, "mamba_head_dim": 6, "n_groups": 2, "ssm_state_size": 5, "conv_kernel": 4},
    **{
        "head_dim": 8,
        "chunk_size": 16,
        "layer_norm_epsilon": 1e-3,
        "time_step_min": 1e-9,
        "num_hidden_layers": None,
    },
    **{"tie_word_embeddings": False},
}
FALCON = {
    **{"mamba_d_ssm": 24, "mamba_n_heads": 4, "mamba_d_head": 6, "mamba_d_state": 5, "mamba_chunk_size": 16},
    **{
        "lm_head_multiplier": 0.5,
        "embedding_multiplier": 2.0,
        "mlp_multipliers": [2.0, 0.5],
        "key_multiplier": 0.5,
    },
    **{"attention_in_multiplier": 2.0, "attention_out_multiplier": 0.5, "ssm_in_multiplier": 0.5},
    **{
        "ssm_out_multiplier": 2.0,
        "ssm_multipliers": [2.0, 1.0, 0.5, 4.0, 0.25],
        "tie_word_embeddings": False,
    },
}
MAMBA = {"state_size": 6, "layer_norm_epsilon": 1e-3, "intermediate_size": 32, "tie_word_embeddings": True}
FAMILIES = {
    "granitehybrid": Family(
        "granitehybrid",
        "GraniteMoeHybrid",
        GRANITE | {"num_local_experts": 0},
        (state_space, split_granite),
        granite_keys,
    ),
    "granitehybrid-moe": Family(
        "granitehybrid",
        "GraniteMoeHybrid",
        GRANITE | {"num_local_experts": 4, "num_experts_per_tok": 2, "position_embedding_type": "rope"},
        (state_space, permute_qk, split_granite),
        granite_keys,
    ),
    "nemotron_h": Family(
        "nemotron_h",
        "NemotronH",
        NEMOTRON | {"layers_block_type": ["mamba", "mlp", "attention", "mamba"]},
        (state_space,),
        nemotron_keys,
    ),
    "nemotron_h_moe": Family(
        "nemotron_h_moe",
        "NemotronH",
        NEMOTRON
        | {
            "layers_block_type": ["mamba", "moe", "attention", "moe"],
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
        }
        | {"moe_intermediate_size": 12, "moe_shared_expert_intermediate_size": 14, "moe_latent_size": 8}
        | {"routed_scaling_factor": 1.7, "n_group": 4, "topk_group": 2},
        (state_space,),
        nemotron_keys,
    ),
    "falcon-h1": Family("falcon-h1", "FalconH1", FALCON, (state_space, fold_factors), hybrid_keys),
    "falcon-h1-norm": Family(
        "falcon-h1",
        "FalconH1",
        FALCON | {"mamba_rms_norm": True, "mamba_norm_before_gate": False, "mamba_n_groups": 2},
        (state_space, fold_factors),
        hybrid_keys,
    ),
    "mamba2": Family(
        "mamba2",
        "Mamba2",
        MAMBA | {"num_heads": 4, "head_dim": 8, "n_groups": 2, "chunk_size": 16},
        (state_space,),
        mamba_keys,
    ),
    "mamba": Family("mamba", "Mamba", MAMBA | {"time_step_rank": 3}, (state_space,), mamba_keys),
    "mamba-falcon": Family(
        "mamba",
        "FalconMamba",
        MAMBA | {"time_step_rank": 3, "mixer_rms_eps": 1e-3},
        (state_space,),
        mamba_keys,
    ),
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
        tensors = {file_name(name): x for name, x in pairs}
        assert len(tensors) == len(pairs), "a name is given twice"
        path = OUTPUT / f"{name}.gguf"
        write_model(path, family, config, tensors, float32=False)
        print(f"{name:18} {path.stat().st_size:7,} bytes  logits +-{arrays[name].std():.2f}")
    np.savez_compressed(OUTPUT / "logits.npz", **arrays)
    print(f"{sum(file.stat().st_size for file in OUTPUT.iterdir()):,} bytes in all")


if __name__ == "__main__":
    main()
