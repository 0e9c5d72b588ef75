"""A second, independent oracle: what `transformers` computes on tiny random models, and those models as GGUF
files.

The models of llama.cpp's recorded logits were written by hand for llama.cpp, so an error in a file convention
that llama.cpp and llmcore share would not show there. Here the model is born in transformers, in that
library's conventions, and goes through the conversion that llama.cpp's converter makes for published
checkpoints. Run from anywhere:

    TORCH/bin/python tests/record_transformers.py  # writes NAME.gguf and logits.npz
    TORCH/bin/python tests/record_transformers.py --float32 DIR    # and a float32 copy of every model in DIR
    LCPP/bin/python tests/record_transformers.py --llama-cpp DIR   # NMSE of llama.cpp on those copies

TORCH is an environment with torch, transformers and gguf, LCPP one with llama-cpp-python. Only --llama-cpp
needs the copies: llama.cpp rounds activations to the type of the weights, bfloat16 in the recorded files. The
weights themselves are bfloat16 numbers (as in published checkpoints), so both files hold the same model.

Recorded with transformers 5.23.0, torch 2.13.0+cpu, gguf 0.19.0; checked with llama-cpp-python 0.3.36.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = (
    ROOT.parent / "shared/reference/tiny/llama.gguf"
)  # 288 tokens; any GGUF file with as many would do
OUTPUT = ROOT / "tests/data/transformers"
IDS = np.random.default_rng(0).integers(3, 288, 24)


# Steps from a checkpoint's tensors to the file's: (name, array, config) -> [(name, array), ...], as the
# converter does.


def permute_qk(name, x, config):
    """RoPE pairs (i, i + H/2) become (2i, 2i + 1): the rows of each head of q and k are interleaved, biases
    too.
    """
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(
        name.split(".")[-2]
    )
    if heads:
        x = x.reshape(heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
    return [(name, x)]


def split_experts(name, x, config):
    """Experts are (E, out, in), a tensor each for gate, up and down; transformers stacks gate above up."""
    if not name.endswith("experts.gate_up_proj"):
        return [(name + ".weight" if name.endswith("experts.down_proj") else name, x)]
    gate, up = np.split(x, 2, axis=1)
    base = name.removesuffix("gate_up_proj")
    return [(base + "gate_proj.weight", gate), (base + "up_proj.weight", up)]


def split_gpt_oss(name, x, config):
    """gpt-oss keeps (E, in, out) with the columns of gate and up taking turns; the file wants (E, out, in),
    apart.
    """
    if name.endswith("sinks"):
        return [(name + ".weight", x)]
    if ".experts." not in name:
        return [(name, x)]
    base, kind = (name.removesuffix("_bias"), ".bias") if name.endswith("_bias") else (name, ".weight")
    x = x.swapaxes(-1, -2) if kind == ".weight" else x
    if base.endswith("down_proj"):
        return [(base + kind, x)]
    return [(base.replace("gate_up", half) + kind, x[:, i::2]) for i, half in enumerate(("gate", "up"))]


def add_one_to_norms(name, x, config):
    """Gemma multiplies by 1 + weight; the file holds the sum."""
    return [(name, x + 1 if name.endswith("norm.weight") else x)]


def transpose_conv1d(name, x, config):
    """GPT-2's Conv1D holds (in, out); the file holds (out, in) as for every other matrix."""
    return [(name, x.T if name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")) else x)]


def rename_expert_bias(name, x, config):
    """DeepSeek-V3's bias for the choice of experts is `exp_probs_b.bias`."""
    return [(name.replace("e_score_correction_bias", "e_score_correction.bias"), x)]


def split_kv_b(name, x, config):
    """kv_b (N (nope + v), rank) becomes attn_k_b (N, rank, nope), transposed to apply to q, and attn_v_b (N,
    v, rank).

    A file with these has key_length_mla; files from before keep kv_b whole.
    """
    if not name.endswith("kv_b_proj.weight"):
        return [(name, x)]
    x = x.reshape(config.num_attention_heads, -1, config.kv_lora_rank)
    k, v = np.split(x, [config.qk_nope_head_dim], axis=1)
    return [(name.replace("kv_b", "k_b"), k.swapaxes(1, 2)), (name.replace("kv_b", "v_b"), v)]


# Keys of the HEAD; `{arch}.` goes before each.


def common_keys(config):
    """Keys that the converter writes for every family, where the configuration has them."""
    rope = getattr(config, "rope_parameters", None) or {}
    rope_swa, rope = rope.get("sliding_attention", {}), rope.get("full_attention", rope)
    kind = {"linear": "linear", "yarn": "yarn", "longrope": "longrope"}.get(rope.get("rope_type"))
    keys = {
        "block_count": config.num_hidden_layers,
        "context_length": 512,
        "embedding_length": config.hidden_size,
        "vocab_size": config.vocab_size,
        "feed_forward_length": getattr(config, "intermediate_size", None),
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", None),
        "attention.key_length": getattr(config, "head_dim", None),
        "attention.value_length": getattr(config, "head_dim", None),
        "attention.layer_norm_rms_epsilon": getattr(config, "rms_norm_eps", None),
        "rope.freq_base": rope.get("rope_theta"),
        "rope.freq_base_swa": rope_swa.get("rope_theta"),
        "rope.scaling.type": kind,
        "expert_count": getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None),
        "expert_used_count": getattr(config, "num_experts_per_tok", None),
    }
    if kind in ("linear", "yarn"):
        keys["rope.scaling.factor"] = float(rope["factor"])
    if kind == "yarn":
        keys["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    return keys


def rope_dimension_keys(config):
    """`llama` and its relatives state the rotated width, which is the whole head."""
    return {
        "rope.dimension_count": getattr(config, "head_dim", None)
        or config.hidden_size // config.num_attention_heads
    }


def granite_keys(config):
    """Granite's multipliers: logits are divided by the logit scale."""
    return rope_dimension_keys(config) | {
        "attention.scale": config.attention_multiplier,
        "embedding_scale": config.embedding_multiplier,
        "residual_scale": config.residual_multiplier,
        "logit_scale": config.logits_scaling,
    }


def cohere_keys(config):
    """Command R: LayerNorm, so the other epsilon key; logits are multiplied by the logit scale."""
    return {
        "attention.layer_norm_epsilon": config.layer_norm_eps,
        "attention.layer_norm_rms_epsilon": None,
        "logit_scale": config.logit_scale,
        "rope.scaling.type": "none",
    }


def gpt2_keys(config):
    """GPT-2: the number of learned positions is the context length; the feed-forward width is 4 D."""
    return {
        "context_length": config.n_positions,
        "feed_forward_length": 4 * config.n_embd,
        "attention.layer_norm_epsilon": config.layer_norm_epsilon,
    }


def window_keys(config):
    """Gemma 2 and 3 and gpt-oss: a query sees `sliding_window` keys, its own among them."""
    return {
        "attention.sliding_window": config.sliding_window,
        "attn_logit_softcapping": getattr(config, "attn_logit_softcapping", None),
        "final_logit_softcapping": getattr(config, "final_logit_softcapping", None),
        "expert_feed_forward_length": config.intermediate_size
        if hasattr(config, "num_local_experts")
        else None,
    }


def phi3_keys(config):
    """Phi-3: a part of the head may rotate; longrope's gain on cos and sin comes from the two context
    lengths.
    """
    rope, head = config.rope_parameters, config.hidden_size // config.num_attention_heads
    original = rope.get("original_max_position_embeddings") or config.original_max_position_embeddings
    growth = config.max_position_embeddings / original
    gain = math.sqrt(1 + math.log(growth) / math.log(original)) if growth > 1 else 1.0
    return {
        "rope.dimension_count": int(rope["partial_rotary_factor"] * head),
        "rope.scaling.original_context_length": original,
        "rope.scaling.attn_factor": gain,
        "attention.sliding_window": 0,  # what the converter writes where a Phi has none
    }


def moe_keys(config):
    """Qwen's mixtures: widths of one expert and of the shared one."""
    return {
        "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_shared_feed_forward_length": getattr(config, "shared_expert_intermediate_size", None),
    }


def deepseek_keys(config):
    """DeepSeek with kv_b whole, as converted before 2025: heads and widths are those that keys and values
    unfold to.
    """
    return {
        "attention.head_count_kv": config.num_attention_heads,
        "attention.q_lora_rank": config.q_lora_rank,
        "attention.kv_lora_rank": config.kv_lora_rank,
        "attention.key_length": config.qk_nope_head_dim + config.qk_rope_head_dim,
        "attention.value_length": config.v_head_dim,
        "rope.dimension_count": config.qk_rope_head_dim,
        # 0.1 mscale_all_dim; cos and sin get no gain since mscale and mscale_all_dim are equal, as published.
        "rope.scaling.yarn_log_multiplier": 0.1 * config.rope_parameters["mscale_all_dim"],
        "leading_dense_block_count": config.first_k_dense_replace,
        "expert_count": config.n_routed_experts,
        "expert_shared_count": config.n_shared_experts,
        "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_weights_scale": config.routed_scaling_factor,
    }


def deepseek_mla_keys(config):
    """DeepSeek with kv_b split: one key head holds rank + rotated numbers, and `_mla` keys have the unfolded
    widths.
    """
    keys = deepseek_keys(config)
    return keys | {
        "attention.head_count_kv": 1,
        "attention.key_length_mla": keys["attention.key_length"],
        "attention.value_length_mla": keys["attention.value_length"],
        "attention.key_length": config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": config.kv_lora_rank,
        "expert_weights_norm": config.norm_topk_prob,
        "expert_gating_func": 2,  # sigmoid; without the key it is softmax
        "expert_group_count": config.n_group,
        "expert_group_used_count": config.topk_group,
    }


# Tensors that no checkpoint holds, but the file does.


def rope_factor_tensors(config):
    """Llama 3's divisors of the angles: 1 for short wavelengths, `factor` for long ones, a blend between."""
    rope, dim = config.rope_parameters, config.head_dim
    low, high, original = (
        rope["low_freq_factor"],
        rope["high_freq_factor"],
        rope["original_max_position_embeddings"],
    )
    turns = (
        original * rope["rope_theta"] ** (-np.arange(0, dim, 2) / dim) / (2 * np.pi)
    )  # in the original context
    blend = np.clip((turns - low) / (high - low), 0, 1)
    return {"rope_freqs.weight": 1 / ((1 - blend) / rope["factor"] + blend)}


def longrope_tensors(config):
    """Phi-3's divisors for contexts up to the original one, and beyond it."""
    return {
        f"rope_factors_{which}.weight": config.rope_parameters[f"{which}_factor"]
        for which in ("long", "short")
    }


@dataclass(frozen=True)
class Family:
    """One tiny model: where it comes from and how it is converted."""

    arch: str  # general.architecture
    model: str  # the class is {model}ForCausalLM or {model}LMHeadModel, its configuration {model}Config
    config: dict  # what differs from COMMON
    steps: tuple[Callable, ...] = ()  # from a checkpoint's tensors to the file's
    keys: Callable = lambda config: {}  # keys beside common_keys
    tensors: Callable = lambda config: {}  # tensors that the checkpoint does not hold


# Epsilon, RoPE base and most head widths are not what an engine would take where a key was missed.
COMMON = {
    "vocab_size": 288,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WIDE_HEADS = {"head_dim": 8}  # 4 heads of 8 on a model that is 16 wide
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 8.0, "original_max_position_embeddings": 64}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "partial_rotary_factor": 0.67,  # int(0.67 * 6) = 4 of 6 dimensions rotate
    "short_factor": [1.3, 1.9],
    "long_factor": [2.1, 3.7],
}
DEEPSEEK = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 8,
    "v_head_dim": 5,
    "first_k_dense_replace": 1,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 8,
    "n_routed_experts": 8,
    "routed_scaling_factor": 1.7,
    "rms_norm_eps": 1e-6,  # what transformers uses for the latents, whatever the configuration says
}
GPT2 = {
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "layer_norm_epsilon": 1e-3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

FAMILIES = {
    # q and k permuted, head width of its own, tied.
    "llama": Family("llama", "Llama", WIDE_HEADS, (permute_qk,), rope_dimension_keys),
    # Llama 3.1's RoPE in `rope_freqs`; biases wherever the family allows them (Bielik v3); a separate output
    # matrix.
    "llama3": Family(
        "llama",
        "Llama",
        WIDE_HEADS
        | {"rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
        (permute_qk,),
        rope_dimension_keys,
        rope_factor_tensors,
    ),
    # Mixtral is `llama` with experts; permuted too.
    "llama-moe": Family(
        "llama",
        "Mixtral",
        WIDE_HEADS | {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 12},
        (split_experts, permute_qk),
        rope_dimension_keys,
    ),
    # Biases on q, k and v; from here on q and k are not permuted unless said.
    "qwen2": Family("qwen2", "Qwen2", {}),
    # Expert weights are not renormalized; the shared expert has a gate of its own.
    "qwen2moe": Family(
        "qwen2moe",
        "Qwen2Moe",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 8,
            "shared_expert_intermediate_size": 16,
            "norm_topk_prob": False,
            "tie_word_embeddings": False,
        },
        (split_experts,),
        moe_keys,
    ),
    # A norm of each head of q and k.
    "qwen3": Family("qwen3", "Qwen3", WIDE_HEADS),
    # Expert weights are renormalized.
    "qwen3moe": Family(
        "qwen3moe",
        "Qwen3Moe",
        WIDE_HEADS
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 8,
            "norm_topk_prob": True,
            "tie_word_embeddings": False,
        },
        (split_experts,),
        moe_keys,
    ),
    "gemma": Family("gemma", "Gemma", WIDE_HEADS | {"num_key_value_heads": 1}, (add_one_to_norms,)),
    # Softcaps low enough to be felt; layers 0 and 2 see a window shorter than the text.
    "gemma2": Family(
        "gemma2",
        "Gemma2",
        WIDE_HEADS
        | {
            "num_hidden_layers": 3,
            "query_pre_attn_scalar": 8,
            "sliding_window": 8,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
        },
        (add_one_to_norms,),
        window_keys,
    ),
    # Layer 5 is global, the others see a window; each kind has a RoPE base, and only the global one is
    # scaled.
    "gemma3": Family(
        "gemma3",
        "Gemma3",
        WIDE_HEADS
        | {
            "num_hidden_layers": 7,
            "intermediate_size": 16,
            "query_pre_attn_scalar": 8,
            "sliding_window": 8,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 2000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
        },
        (add_one_to_norms,),
        window_keys,
    ),
    # q, k, v in one tensor, gate above up in another; longrope within the original context: short factors.
    # The file's context length is 512, whatever max_position_embeddings says, which only enters the gain.
    "phi3": Family(
        "phi3",
        "Phi3",
        {
            "hidden_size": 24,  # 4 heads of 6
            "rope_parameters": LONGROPE | {"original_max_position_embeddings": 512},
            "original_max_position_embeddings": 512,
            "max_position_embeddings": 4096,
        },
        (),
        phi3_keys,
        longrope_tensors,
    ),
    # longrope beyond the original context, 16 tokens: long factors.
    "phi3-long": Family(
        "phi3",
        "Phi3",
        {
            "hidden_size": 24,  # 4 heads of 6
            "rope_parameters": LONGROPE | {"original_max_position_embeddings": 16},
            "original_max_position_embeddings": 16,
        },
        (),
        phi3_keys,
        longrope_tensors,
    ),
    # LayerNorm with biases, learned positions (a context of 64 keeps the file small), q, k, v in one tensor,
    # no RoPE.
    "gpt2": Family(
        "gpt2",
        "GPT2",
        GPT2,
        (transpose_conv1d,),
        gpt2_keys,
    ),
    # Norms after attention and feed-forward instead of before; q and k normed over the whole row.
    "olmo2": Family("olmo2", "Olmo2", {"tie_word_embeddings": False}),
    # Permuted as llama; four multipliers.
    "granite": Family(
        "granite",
        "Granite",
        {
            "embedding_multiplier": 1.5,
            "attention_multiplier": 0.3,
            "residual_multiplier": 0.6,
            "logits_scaling": 1.25,
        },
        (permute_qk,),
        granite_keys,
    ),
    # transformers' own RoPE takes pairs (2i, 2i + 1) here, so nothing is permuted.
    "command-r": Family(
        "command-r", "Cohere", {"logit_scale": 0.25, "layer_norm_eps": 1e-3}, (), cohere_keys
    ),
    # LayerNorm and biases everywhere, GELU without a gate.
    "starcoder2": Family(
        "starcoder2",
        "Starcoder2",
        {"norm_epsilon": 1e-3, "use_bias": True},
        (),
        lambda config: {
            "attention.layer_norm_epsilon": config.norm_epsilon,
            "attention.layer_norm_rms_epsilon": None,
        },
    ),
    # Layer 3 has no RoPE; the converter permutes its q and k all the same.
    "smollm3": Family("smollm3", "SmolLM3", {"num_hidden_layers": 4}, (permute_qk,), rope_dimension_keys),
    # DeepSeek-V2-Lite: no low rank for q, softmax gating (no key says so), kv_b whole; RoPE pairs are (2i, 2i
    # + 1) as in transformers, so nothing is permuted.
    "deepseek2-lite": Family(
        "deepseek2",
        "DeepseekV2",
        DEEPSEEK
        | {
            "q_lora_rank": None,
            "topk_method": "greedy",
            "rope_parameters": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
        },
        (split_experts,),
        deepseek_keys,
    ),
    # DeepSeek-V3: low rank for q, sigmoid gating with a bias, 2 of 4 groups, weights renormalized; kv_b split
    # in two.
    "deepseek2": Family(
        "deepseek2",
        "DeepseekV3",
        DEEPSEEK
        | {
            "q_lora_rank": 10,
            "n_group": 4,
            "topk_group": 2,
            "norm_topk_prob": True,
            "num_nextn_predict_layers": 0,
            "rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
        },
        (split_experts, rename_expert_bias, split_kv_b),
        deepseek_mla_keys,
    ),
    # Sinks, a window on layer 0, YaRN with whole-numbered bounds (the published model's fractional ones,
    # `truncate` false, are not in the file format), experts with biases.
    "gpt-oss": Family(
        "gpt-oss",
        "GptOss",
        WIDE_HEADS
        | {
            "intermediate_size": 12,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 8,
            "rope_parameters": YARN | {"truncate": True},
            "tie_word_embeddings": False,
        },
        (split_gpt_oss,),
        window_keys,
    ),
}


def random_model(family, seed):
    """A transformers model all of whose numbers are random, none left at 0 or 1, and all of them bfloat16
    numbers.
    """
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    prefix = family.model + ("Text" if family.model in ("Gemma3", "Qwen3_5", "Qwen3_5Moe") else "")
    values = COMMON | family.config
    if family.model == "GPT2":
        values = {key: values[key] for key in ("vocab_size", *family.config)}
    config = getattr(transformers, prefix + "Config")(**values, attn_implementation="eager")
    kind = "LMHeadModel" if family.model == "GPT2" else "ForCausalLM"
    model = getattr(transformers, family.model + kind)(config).float().eval()
    with torch.no_grad():
        learned = [
            (name, x)
            for name, x in model.named_buffers()
            if name.endswith(("e_score_correction_bias", "expert_bias"))
        ]
        for name, x in (*model.named_parameters(), *learned):
            if x.ndim == 1:  # biases around 0, norm gains around 1 (around 0 in Gemma)
                x += 0.3 * torch.randn(x.shape)
            else:
                x.copy_(torch.randn(x.shape) * (1.0 if "embed" in name else 1.5 / math.sqrt(x.shape[-1])))
            if isinstance(config, transformers.GptOssConfig) and "gate_up" in name:
                x *= 4  # so that some activations pass the limit of 7
            x.copy_(x.bfloat16())
    return model, config


def file_tensors(family, model, config):
    """Tensors under GGUF's names, float32, in the file's conventions."""
    import gguf

    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == family.arch)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    pairs = [(name, x.detach().numpy()) for name, x in model.state_dict().items()]
    if config.tie_word_embeddings:
        pairs = [(name, x) for name, x in pairs if name != "lm_head.weight"]
    for step in family.steps:
        pairs = [new for name, x in pairs for new in step(name, x, config)]
    tensors = {names.get_name(name, try_suffixes=(".weight", ".bias")): x for name, x in pairs}
    assert len(tensors) == len(pairs), "a name is unknown or given twice"
    assert None not in tensors, [name for name, _ in pairs if not names.get_name(name, (".weight", ".bias"))]
    return tensors | {name: np.array(x) for name, x in family.tensors(config).items()}


def write_model(path, family, config, tensors, float32):
    """Write a whole model with the tiny vocabulary; matrices are bfloat16 unless `float32`, all else is
    float32.
    """
    import gguf

    writer = gguf.GGUFWriter(path, family.arch)
    writer.add_name("tiny random model")
    for key, value in (common_keys(config) | family.keys(config)).items():
        if value is not None:
            kind = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING", list: "ARRAY"}[type(value)]
            writer.add_key_value(f"{family.arch}.{key}", value, gguf.GGUFValueType[kind])
    for key, field in gguf.GGUFReader(VOCABULARY).fields.items():
        if key.startswith("tokenizer."):
            writer.add_key_value(key, field.contents(), field.types[0], field.types[-1])
    for name, x in tensors.items():
        x = np.ascontiguousarray(x[0] if x.shape[0] == 1 else x, np.float32)
        # The converter, too, leaves vectors, biases, routers, positions and the small tensors of Mamba in
        # float32.
        small = ("ffn_gate_inp", "position", "ssm_a", "ssm_d", "ssm_norm", "conv1d")
        if float32 or x.ndim == 1 or name.endswith(".bias") or any(part in name for part in small):
            writer.add_tensor(name, x)
        else:
            writer.add_tensor(
                name,
                gguf.quantize(x, gguf.GGMLQuantizationType.BF16),
                raw_dtype=gguf.GGMLQuantizationType.BF16,
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def shorten(logits):
    """Round float32 to 18 of its 24 bits, for a smaller file: NMSE 3e-12, little above float32's noise."""
    mantissa, exponent = np.frexp(logits)
    return np.ldexp(np.round(mantissa * 2**18), exponent - 18).astype(np.float32)


def record(float32_dir):
    """Write every model of FAMILIES, and the logits of all in one file."""
    import torch

    OUTPUT.mkdir(parents=True, exist_ok=True)
    arrays = {"ids": IDS}
    for seed, (name, family) in enumerate(FAMILIES.items()):
        model, config = random_model(family, seed)
        with torch.no_grad():
            arrays[name] = shorten(model(torch.from_numpy(IDS)[None], use_cache=False).logits[0].numpy())
        tensors = file_tensors(family, model, config)
        write_model(OUTPUT / f"{name}.gguf", family, config, tensors, float32=False)
        if float32_dir:
            write_model(float32_dir / f"{name}.gguf", family, config, tensors, float32=True)
        print(
            f"{name:15} {(OUTPUT / f'{name}.gguf').stat().st_size:7,} bytes  "
            f"logits +-{arrays[name].std():.2f}"
        )
    np.savez_compressed(OUTPUT / "logits.npz", **arrays)
    print(f"{sum(file.stat().st_size for file in OUTPUT.iterdir()):,} bytes in all")


def check_llama_cpp(directory):
    """Print the NMSE, sum((a - b)^2) / sum(b^2), of llama.cpp's logits against the recorded ones."""
    import llama_cpp

    recorded = np.load(OUTPUT / "logits.npz")
    for name in FAMILIES:
        # llama.cpp requires the rank unless there are 26 or 27 layers; the converter leaves it out where
        # there is none.
        overrides = {"deepseek2.attention.q_lora_rank": 0} if name == "deepseek2-lite" else None
        llm = llama_cpp.Llama(
            str(directory / f"{name}.gguf"),
            n_ctx=512,
            logits_all=True,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            n_threads=1,
            kv_overrides=overrides,
            verbose=False,
        )
        llm.eval(recorded["ids"].tolist())
        difference = llm.scores[: len(recorded["ids"])] - recorded[name]
        print(f"{name:15} {np.sum(difference**2) / np.sum(recorded[name] ** 2):.1e}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--float32", type=Path, metavar="DIR", help="also write float32 copies there")
    parser.add_argument(
        "--llama-cpp", type=Path, metavar="DIR", help="compare llama.cpp on those copies; record nothing"
    )
    args = parser.parse_args()
    if args.llama_cpp:
        check_llama_cpp(args.llama_cpp)
    else:
        record(args.float32)


if __name__ == "__main__":
    main()
