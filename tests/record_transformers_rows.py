"""What `transformers` computes on tiny random models of the families of attention alone, and those models as
GGUF files.

    TORCH/bin/python tests/record_transformers_rows.py     # tests/data/rows: NAME.gguf.gz and logits.npz

As record_transformers.py, whose environment it needs and whose functions it uses. Where transformers and
llama.cpp differ we follow transformers in qwen2vl's epsilon, which llama.cpp does not read, and llama.cpp in
phimoe, which takes RMS norms for LayerNorms and makes the weights of the chosen experts sum to 1: there is no
such model here.
"""

import gzip
import math
import re
from types import SimpleNamespace

import numpy as np
from record_transformers import COMMON, ROOT, WIDE_HEADS, Family, permute_qk, shorten, write_model

OUTPUT = ROOT / "tests/data/rows"
IDS = np.random.default_rng(0).integers(3, 288, 60)
STEP = 20  # the logits of every so manyth token are kept

# A name of transformers, without model. and with blk for layers -> the file's; the first counts.
NAMES = {
    r"(embed_tokens|word_embeddings|embed_in)\.weight": "token_embd.weight",
    r"(lm_head|embed_out)\.(weight|bias)": r"output.\2",
    r"(norm|ln_f|final_layernorm|final_layer_norm)\.(weight|bias)": r"output_norm.\2",
    r"embed_tokens_per_layer\.weight": "per_layer_token_embd.weight",
    r"per_layer_model_projection\.weight": "per_layer_model_proj.weight",
    r"per_layer_projection_norm\.weight": "per_layer_proj_norm.weight",
    r".*\.layer_scalar": "layer_output_scale.weight",
    r".*\.per_layer_input_gate\.weight": "inp_gate.weight",
    r".*\.per_layer_projection\.weight": "proj.weight",
    r".*\.post_per_layer_input_norm\.weight": "post_norm.weight",
    r".*\.router\.scale": "ffn_gate_inp.scale",
    r".*\.router\.per_expert_scale": "ffn_down_exps.scale",
    r".*\.post_feedforward_layernorm_([12])\.weight": r"post_ffw_norm_\1.weight",
    r".*\.pre_feedforward_layernorm_2\.weight": "pre_ffw_norm_2.weight",
    r".*\.pre_feedforward_layernorm\.weight": "ffn_norm.weight",
    r".*\.(post_feedforward_layernorm|post_mlp_layernorm)\.weight": "post_ffw_norm.weight",
    r".*\.post_self_attn_layernorm\.weight": "post_attention_norm.weight",
    r".*\.input_layernorm\.(weight|bias)": r"attn_norm.\1",
    r".*\.([qk])_(norm|layernorm)\.weight": r"attn_\1_norm.weight",
    r".*\.(query|key)_layernorm\.weight": lambda match: f"attn_{match[1][0]}_norm.weight",
    r".*\.([qkv])_proj\.(weight|bias)": r"attn_\1.\2",
    r".*\.query_key_value\.(weight|bias)": r"attn_qkv.\1",
    r".*\.(?:o_proj|dense|self_attn\.dense|attention\.dense)\.(weight|bias)": r"attn_output.\1",
    r".*\.(attn|ffn)_sub_norm\.weight": r"\1_sub_norm.weight",
    r".*\.(?:e_score_correction_bias|moe_statics\.e_score_correction_bias)": "exp_probs_b.bias",
    r".*\.(?:router|gate|gate\.wg|router\.proj|router\.layer)\.weight": "ffn_gate_inp.weight",
    r".*\.experts\.(gate|up|down)_proj": r"ffn_\1_exps.weight",
    r".*\.shared_(?:experts|mlp|expert)\.(gate|up|down)_proj\.weight": r"ffn_\1_shexp.weight",
    r".*\.gate_up_proj\.weight": "ffn_up.weight",
    r".*\.(gate|up|down)_proj\.(weight|bias)": r"ffn_\1.\2",
    r".*\.(?:fc1|dense_h_to_4h)\.(weight|bias)": r"ffn_up.\1",
    r".*\.(?:fc2|dense_4h_to_h)\.(weight|bias)": r"ffn_down.\1",
}


def file_name(name, second_norm):
    """The name of a tensor in the file; `second_norm` is what it calls post_attention_layernorm."""
    name = re.sub(
        r"^(model|transformer|gpt_neox)\.((layers|h)(?=\.\d))?", lambda m: "blk" if m[2] else "", name
    )
    layer = re.match(r"blk\.\d+\.", name)
    names = {r".*\.post_attention_layernorm\.(weight|bias)": rf"{second_norm}.\1"} | NAMES
    for pattern, ours in names.items():
        if match := re.fullmatch(pattern, name):
            return (layer[0] if layer else "") + (ours(match) if callable(ours) else match.expand(ours))
    raise ValueError(f"what is {name}?")


# Steps as in record_transformers.py: (name, array, config) -> [(name, array), ...]


def split_experts(name, x, config):
    """transformers stacks gate above up, in each expert (E, out, in)."""
    if not name.endswith("experts.gate_up_proj"):
        return [(name, x)]
    base, (gate, up) = name.removesuffix("gate_up_proj"), np.split(x, 2, axis=1)
    return [(base + "gate_proj", gate), (base + "up_proj", up)]


def transpose_experts(name, x, config):
    """Llama 4 keeps (E, in, out)."""
    return split_experts(name, x.swapaxes(1, 2) if ".experts." in name else x, config)


def by_kind(name, x, config):
    """GPT-NeoX has query, key and value of a head together; the file those of all heads."""
    if ".query_key_value." not in name:
        return [(name, x)]
    heads = x.reshape(config.num_attention_heads, 3, -1, *x.shape[1:])
    return [(name, heads.swapaxes(0, 1).reshape(x.shape))]


def own_keys(**keys):
    """A function of the configuration: `keys`, some of which are functions of it as well."""
    return lambda config: {
        name.replace("__", "."): value(config) if callable(value) else value for name, value in keys.items()
    }


def gemma4_keys(config):
    """Widths and RoPE by kind of layer."""
    full = [kind == "full_attention" for kind in config.layer_types]
    wide = 2 * WIDE_HEADS["head_dim"]
    kv = [1 if f and config.attention_k_eq_v else 2 for f in full]
    ropes = config.rope_parameters
    shared = config.num_kv_shared_layers
    ff = [20 * (2 if config.use_double_wide_mlp and i >= len(full) - shared else 1) for i in range(len(full))]
    return {
        "attention.head_count_kv": kv,
        "feed_forward_length": ff,
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": [not f for f in full],
        "attention.shared_kv_layers": shared,
        "attention.key_length": wide,
        "attention.value_length": wide,
        "attention.key_length_swa": WIDE_HEADS["head_dim"],
        "attention.value_length_swa": WIDE_HEADS["head_dim"],
        "rope.dimension_count": wide,
        "rope.dimension_count_swa": WIDE_HEADS["head_dim"],
        "rope.freq_base": ropes["full_attention"]["rope_theta"],
        "rope.freq_base_swa": ropes["sliding_attention"]["rope_theta"],
        "rope.scaling.type": None,
        "final_logit_softcapping": config.final_logit_softcapping,
        "embedding_length_per_layer_input": config.hidden_size_per_layer_input,
        "expert_count": config.num_experts if config.enable_moe_block else None,
        "expert_used_count": config.top_k_experts if config.enable_moe_block else None,
        "expert_feed_forward_length": config.moe_intermediate_size if config.enable_moe_block else None,
    }


def gemma4_tensors(config):
    """Of a wide head 4 of 16 dimensions rotate; the file divides the other angles by 1e30."""
    return {"rope_freqs.weight": np.array([1] * 2 + [1e30] * 6)}


GEMMA4 = WIDE_HEADS | {
    "num_hidden_layers": 5,
    "global_head_dim": 16,
    "sliding_window": 8,
    "final_logit_softcapping": 5.0,
    "layer_types": [
        "sliding_attention",
        "sliding_attention",
        "full_attention",
        "sliding_attention",
        "full_attention",
    ],
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 288,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 2000.0},
    },
}
HALF = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}}
MOE = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 8, "tie_word_embeddings": False}
NEOX_KEYS = own_keys(
    attention__layer_norm_epsilon=1e-3, attention__layer_norm_rms_epsilon=None, rope__dimension_count=2
)
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 8.0, "original_max_position_embeddings": 16}
YARN |= {
    "beta_fast": 3.0,
    "beta_slow": 0.5,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.3,
}

# name: (family, what the file calls post_attention_layernorm)
FAMILIES = {
    "gemma4": (
        Family("gemma4", "Gemma4", GEMMA4, (split_experts,), gemma4_keys, gemma4_tensors),
        "post_attention_norm",
    ),
    "gemma4-ple": (
        Family(
            "gemma4",
            "Gemma4",
            GEMMA4
            | {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 4, "use_double_wide_mlp": True},
            (split_experts,),
            gemma4_keys,
            gemma4_tensors,
        ),
        "post_attention_norm",
    ),
    "gemma4-moe": (
        Family(
            "gemma4",
            "Gemma4",
            GEMMA4
            | {
                "enable_moe_block": True,
                "num_experts": 4,
                "top_k_experts": 2,
                "moe_intermediate_size": 8,
                "attention_k_eq_v": True,
                "num_global_key_value_heads": 1,
            },
            (split_experts,),
            gemma4_keys,
            gemma4_tensors,
        ),
        "post_attention_norm",
    ),
    "mistral3": (
        Family(
            "mistral3",
            "Ministral3",
            WIDE_HEADS | {"rope_parameters": YARN},
            (permute_qk,),
            own_keys(
                rope__dimension_count=8,
                attention__temperature_scale=0.3,
                rope__scaling__yarn_beta_fast=3.0,
                rope__scaling__yarn_beta_slow=0.5,
                rope__scaling__yarn_log_multiplier=1.0,
            ),
        ),
        "ffn_norm",
    ),
    "glm4": (
        Family(
            "glm4",
            "Glm4",
            WIDE_HEADS | HALF | {"attention_bias": True},
            (),
            own_keys(rope__dimension_count=4),
        ),
        "ffn_norm",
    ),
    "glm4moe": (
        Family(
            "glm4moe",
            "Glm4Moe",
            WIDE_HEADS
            | HALF
            | MOE
            | {
                "n_routed_experts": 6,
                "n_shared_experts": 1,
                "first_k_dense_replace": 1,
                "use_qk_norm": True,
                "attention_bias": True,
                "routed_scaling_factor": 1.7,
                "norm_topk_prob": True,
                "n_group": 1,
                "topk_group": 1,
            },
            (split_experts,),
            own_keys(
                rope__dimension_count=4,
                expert_count=6,
                expert_shared_count=1,
                expert_feed_forward_length=8,
                leading_dense_block_count=1,
                expert_weights_scale=1.7,
                expert_weights_norm=True,
            ),
        ),
        "post_attention_norm",
    ),
    "seed_oss": (
        Family("seed_oss", "SeedOss", WIDE_HEADS | {"attention_bias": True, "attention_out_bias": False}),
        "post_attention_norm",
    ),
    "granitemoe": (
        Family(
            "granitemoe",
            "GraniteMoe",
            {
                "num_local_experts": 4,
                "num_experts_per_tok": 2,
                "embedding_multiplier": 1.5,
                "attention_multiplier": 0.3,
                "residual_multiplier": 0.6,
                "logits_scaling": 1.25,
            },
            (split_experts, permute_qk),
            own_keys(
                rope__dimension_count=4,
                attention__scale=0.3,
                embedding_scale=1.5,
                residual_scale=0.6,
                logit_scale=1.25,
            ),
        ),
        "ffn_norm",
    ),
    "ernie4_5": (Family("ernie4_5", "Ernie4_5", WIDE_HEADS | {"use_bias": False}), "ffn_norm"),
    "ernie4_5-moe": (
        Family(
            "ernie4_5-moe",
            "Ernie4_5_Moe",
            {
                "num_hidden_layers": 3,
                "moe_num_experts": 6,
                "moe_k": 3,
                "moe_num_shared_experts": 2,
                "moe_intermediate_size": 8,
                "moe_layer_start_index": 1,
                "moe_layer_interval": 1,
                "use_bias": False,
                "tie_word_embeddings": False,
            },
            (split_experts,),
            own_keys(
                expert_count=6,
                expert_used_count=3,
                expert_feed_forward_length=8,
                expert_shared_feed_forward_length=16,
                leading_dense_block_count=1,
                interleave_moe_layer_step=1,
            ),
        ),
        "ffn_norm",
    ),
    "minimax-m2": (
        Family(
            "minimax-m2",
            "MiniMaxM2",
            WIDE_HEADS
            | HALF
            | {
                "num_local_experts": 6,
                "num_experts_per_tok": 3,
                "intermediate_size": 8,
                "tie_word_embeddings": False,
            },
            (split_experts,),
            own_keys(rope__dimension_count=4, expert_feed_forward_length=8, expert_gating_func=2),
        ),
        "ffn_norm",
    ),
    "dots1": (
        Family(
            "dots1",
            "Dots1",
            WIDE_HEADS
            | MOE
            | {
                "n_routed_experts": 6,
                "n_shared_experts": 1,
                "first_k_dense_replace": 1,
                "routed_scaling_factor": 1.7,
                "norm_topk_prob": True,
                "n_group": 1,
                "topk_group": 1,
            },
            (split_experts,),
            own_keys(
                expert_count=6,
                expert_shared_count=1,
                expert_feed_forward_length=8,
                leading_dense_block_count=1,
                expert_weights_scale=1.7,
                expert_weights_norm=True,
                expert_gating_func=2,
            ),
        ),
        "ffn_norm",
    ),
    "olmoe": (
        Family(
            "olmoe",
            "Olmoe",
            {"num_experts": 6, "num_experts_per_tok": 3, "intermediate_size": 8, "norm_topk_prob": False},
            (split_experts,),
        ),
        "ffn_norm",
    ),
    "hunyuan-dense": (Family("hunyuan-dense", "HunYuanDenseV1", WIDE_HEADS), "ffn_norm"),
    "hunyuan-moe": (
        Family(
            "hunyuan-moe",
            "HunYuanMoEV1",
            WIDE_HEADS | {"num_experts": 4, "moe_topk": 2, "intermediate_size": 8},
            (split_experts,),
            own_keys(expert_used_count=2, expert_feed_forward_length=8, expert_shared_feed_forward_length=8),
        ),
        "ffn_norm",
    ),
    "cohere2": (
        Family(
            "cohere2",
            "Cohere2",
            {"num_hidden_layers": 4, "sliding_window": 8, "logit_scale": 0.25, "layer_norm_eps": 1e-3},
            (),
            own_keys(
                attention__layer_norm_epsilon=1e-3,
                attention__layer_norm_rms_epsilon=None,
                logit_scale=0.25,
                attention__sliding_window=8,
            ),
        ),
        "ffn_norm",
    ),
    "exaone4": (
        Family("exaone4", "Exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 2}),
        "post_attention_norm",
    ),
    "llama4": (
        Family(
            "llama4",
            "Llama4",
            WIDE_HEADS
            | {
                "num_hidden_layers": 4,
                "num_local_experts": 4,
                "num_experts_per_tok": 1,
                "intermediate_size": 8,
                "intermediate_size_mlp": 20,
                "interleave_moe_layer_step": 2,
                "use_qk_norm": True,
                "attn_temperature_tuning": True,
                "attention_chunk_size": 8192,
                "floor_scale": 8192,
                "attn_scale": 0.1,
            },
            (transpose_experts,),
            own_keys(
                feed_forward_length=20,
                rope__dimension_count=8,
                expert_feed_forward_length=8,
                interleave_moe_layer_step=2,
            ),
        ),
        "ffn_norm",
    ),
    "gptneox": (
        Family(
            "gptneox",
            "GPTNeoX",
            {
                "hidden_act": "gelu_new",
                "layer_norm_eps": 1e-3,
                "use_parallel_residual": True,
                "tie_word_embeddings": False,
                "num_key_value_heads": None,
                **HALF,
            },
            (by_kind,),
            own_keys(
                attention__layer_norm_epsilon=1e-3,
                attention__layer_norm_rms_epsilon=None,
                rope__dimension_count=2,
                use_parallel_residual=True,
            ),
        ),
        "ffn_norm",
    ),
    "phi2": (
        Family(
            "phi2",
            "Phi",
            {
                "hidden_act": "gelu_new",
                "layer_norm_eps": 1e-3,
                "tie_word_embeddings": False,
                "num_key_value_heads": 4,
                **HALF,
            },
            (),
            NEOX_KEYS,
        ),
        "ffn_norm",
    ),
    "falcon": (
        Family(
            "falcon",
            "Falcon",
            {
                "activation": "gelu_pytorch_tanh",
                "layer_norm_epsilon": 1e-3,
                "multi_query": True,
                "parallel_attn": True,
                "new_decoder_architecture": False,
                "alibi": False,
                "bias": False,
                "ffn_hidden_size": 20,
                "num_kv_heads": 1,
            },
            (),
            own_keys(
                attention__head_count_kv=1,
                feed_forward_length=20,
                attention__layer_norm_epsilon=1e-3,
                attention__layer_norm_rms_epsilon=None,
            ),
        ),
        "ffn_norm",
    ),
    "bitnet": (Family("bitnet", "BitNet", {"hidden_act": "silu"}), "ffn_norm"),
    "stablelm": (
        Family(
            "stablelm",
            "StableLm",
            {"layer_norm_eps": 1e-3, "tie_word_embeddings": False, "use_qkv_bias": True, **HALF},
            (),
            NEOX_KEYS,
        ),
        "ffn_norm",
    ),
}


def same_in_all(config):
    """The configuration without the numbers that are not the same in all layers, which transformers refuses
    to tell.
    """
    names = [
        name
        for name in config.to_dict()
        if not (name in ("head_dim", "num_key_value_heads") and "per_layer_config" in config.to_dict())
    ]
    return SimpleNamespace(**{name: getattr(config, name) for name in names})


def random_model(family, seed):
    """A transformers model all of whose numbers are random, none left at 0 or 1, and all of them bfloat16
    numbers.
    """
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    text = "Text" if hasattr(transformers, family.model + "TextConfig") else ""
    config = getattr(transformers, f"{family.model}{text}Config")(
        **COMMON | family.config, attn_implementation="eager"
    )
    model = getattr(transformers, f"{family.model}ForCausalLM")(config).float().eval()
    learned = ("e_score_correction_bias", "layer_scalar")
    with torch.no_grad():
        buffers = [(name, x) for name, x in model.named_buffers() if name.endswith(learned)]
        for name, x in (*model.named_parameters(), *buffers):
            if x.ndim == 1 or "correction_bias" in name:
                x += 0.3 * torch.randn(x.shape)
            else:
                fan_in = (
                    x.shape[-2]
                    if family.model == "Llama4" and "experts" in name and x.ndim == 3
                    else x.shape[-1]
                )
                x.copy_(torch.randn(x.shape) * (1.0 if "embed" in name else 1.5 / math.sqrt(fan_in)))
            x.copy_(x.bfloat16())
    return model, config


def main():
    """Write every model, and the logits of all in one file."""
    import torch

    OUTPUT.mkdir(parents=True, exist_ok=True)
    arrays = {"ids": IDS}
    for seed, (name, (family, second_norm)) in enumerate(FAMILIES.items()):
        model, config = random_model(family, seed)
        with torch.no_grad():
            arrays[name] = shorten(
                model(torch.from_numpy(IDS)[None], use_cache=False).logits[0].numpy()[::STEP]
            )
        pairs = [(name, x.detach().numpy()) for name, x in model.state_dict().items() if "rotary" not in name]
        tied = getattr(config, "tie_word_embeddings", False)
        pairs = [(name, x) for name, x in pairs if name != "lm_head.weight" or not tied]
        for step in family.steps:
            pairs = [new for name, x in pairs for new in step(name, x, config)]
        tensors = {file_name(name, second_norm): x for name, x in pairs} | family.tensors(config)
        plain, path = OUTPUT / f"{name}.gguf", OUTPUT / f"{name}.gguf.gz"
        write_model(plain, family, same_in_all(config), tensors, float32=False)
        path.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
        plain.unlink()
        print(f"{name:18} {path.stat().st_size:7,} bytes  logits +-{arrays[name].std():.2f}", flush=True)
    np.savez_compressed(OUTPUT / "logits.npz", **arrays)
    print(f"{sum(file.stat().st_size for file in OUTPUT.iterdir()):,} bytes in all")


if __name__ == "__main__":
    main()
