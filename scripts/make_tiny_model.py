"""Write a random model of any family: `python scripts/make_tiny_model.py llama tiny.gguf`.

The file is a complete GGUF model: a vocabulary that works, every tensor and key the family needs, and random
weights of a size that makes logits of order 1 to 10. Its text is nonsense, and any two engines must agree on
it. `FAMILIES` says what each family consists of; facts from llama.cpp's src/models/. Options decide sizes and
variants; `--set KEY=VALUE` writes any other key. The same command writes the same bytes on every machine.
"""

import argparse
import ast
import math
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import gguf_file
import numpy as np
from command_line import refuse, run

from llmcore.tokenizers.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN

# Shapes, (out, in) as NumPy has them, in the letters of the README; sizes that only some families have: n_rot
# the dimensions of a head that rotate; X, Y width of an expert and of the shared expert; C context; W value
# head width, A and B the low ranks of queries and of keys and values (MLA). Of state-space layers: U inner
# width, S state width, J heads, or the rank of the step in mamba, G groups, Q width of the convolution. Z
# latent width of experts.
NORMS = {"attn_norm.weight": "D", "ffn_norm.weight": "D"}
NORM_BIASES = {"attn_norm.bias": "D", "ffn_norm.bias": "D"}
POST_NORMS = {"post_attention_norm.weight": "D", "post_ffw_norm.weight": "D"}
HEAD_NORMS = {"attn_q_norm.weight": "H", "attn_k_norm.weight": "H"}
ROW_NORMS = {"attn_q_norm.weight": "N*H", "attn_k_norm.weight": "K*H"}
QKV = {"attn_q.weight": "N*H D", "attn_k.weight": "K*H D", "attn_v.weight": "K*H D"}
QKV_BIASES = {"attn_q.bias": "N*H", "attn_k.bias": "K*H", "attn_v.bias": "K*H"}
FUSED_QKV = {"attn_qkv.weight": "N*H+2*K*H D"}
FUSED_QKV_BIAS = {"attn_qkv.bias": "N*H+2*K*H"}
OUTPUT = {"attn_output.weight": "D N*H"}
OUTPUT_BIAS = {"attn_output.bias": "D"}
GATED = {"ffn_gate.weight": "F D", "ffn_up.weight": "F D", "ffn_down.weight": "D F"}
GATE_BIAS = {"ffn_gate.bias": "F"}
PLAIN = {"ffn_up.weight": "F D", "ffn_down.weight": "D F"}
PLAIN_BIASES = {"ffn_up.bias": "F", "ffn_down.bias": "D"}
ROUTER = {"ffn_gate_inp.weight": "E D"}
EXPERTS = {"ffn_gate_exps.weight": "E X D", "ffn_up_exps.weight": "E X D", "ffn_down_exps.weight": "E D X"}
EXPERT_BIASES = {"ffn_gate_exps.bias": "E X", "ffn_up_exps.bias": "E X", "ffn_down_exps.bias": "E D"}
SHARED = {"ffn_gate_shexp.weight": "Y D", "ffn_up_shexp.weight": "Y D", "ffn_down_shexp.weight": "D Y"}
ATTENTION = QKV | OUTPUT
MAMBA2 = {
    "ssm_in.weight": "2*U+2*G*S+J D",
    "ssm_conv1d.weight": "U+2*G*S Q",
    "ssm_conv1d.bias": "U+2*G*S",
    "ssm_dt.bias": "J",
    "ssm_a": "J 1",
    "ssm_d": "J 1",
    "ssm_norm.weight": "G U//G",
    "ssm_out.weight": "D U",
}
MAMBA = {
    "ssm_in.weight": "2*U D",
    "ssm_conv1d.weight": "U Q",
    "ssm_conv1d.bias": "U",
    "ssm_x.weight": "J+2*S U",
    "ssm_dt.weight": "U J",
    "ssm_dt.bias": "U",
    "ssm_a": "U S",
    "ssm_d": "U",
    "ssm_out.weight": "D U",
}
SHORT_CONV = {
    "shortconv.conv.weight": "D Q",
    "shortconv.in_proj.weight": "3*D D",
    "shortconv.out_proj.weight": "D D",
}
GATED_ATTENTION = ATTENTION | HEAD_NORMS | {"attn_q.weight": "2*N*H D"}
DELTA_NET = {
    "attn_qkv.weight": "U+2*G*S D",
    "attn_gate.weight": "U D",
    "ssm_conv1d.weight": "U+2*G*S Q",
    "ssm_dt.bias": "J",
    "ssm_a": "J",
    "ssm_beta.weight": "J D",
    "ssm_alpha.weight": "J D",
    "ssm_norm.weight": "S",
    "ssm_out.weight": "D U",
}
KDA = {
    **{f"attn_{x}.weight": "N*S D" for x in "qkv"},
    **{f"ssm_conv1d_{x}.weight": "1 N*S 1 Q" for x in "qkv"},
    "ssm_f_a.weight": "S D",
    "ssm_f_b.weight": "N*S S",
    "ssm_beta.weight": "N D",
    "ssm_a": "1 1 N 1",
    "ssm_dt.bias": "N*S",
    "ssm_g_a.weight": "S D",
    "ssm_g_b.weight": "N*S S",
    "ssm_norm.weight": "S",
    "attn_output.weight": "D N*S",
}

# Keys, without the architecture's name in front. A string is an expression in sizes, as in shapes.
KEYS = {
    "context_length": "C",
    "embedding_length": "D",
    "block_count": "L",
    "feed_forward_length": "F",
    "attention.head_count": "N",
    "attention.head_count_kv": "K",
    "vocab_size": "V",
}
HEAD_KEYS = {"attention.key_length": "H", "attention.value_length": "H"}
ROTATION = {"rope.dimension_count": "n_rot"}
RMS = {"attention.layer_norm_rms_epsilon": 1e-5}
LAYER_NORM = {"attention.layer_norm_epsilon": 1e-5}
MOE_KEYS = {"expert_count": "E", "expert_used_count": "E_used"}
EXPERT_WIDTH = {"expert_feed_forward_length": "X"}
SSM_KEYS = {
    "ssm.conv_kernel": "Q",
    "ssm.inner_size": "U",
    "ssm.state_size": "S",
    "ssm.time_step_rank": "J",
    "ssm.group_count": "G",
}
NO_ATTENTION = {"attention.head_count": 0, "attention.head_count_kv": None, "feed_forward_length": 0}
NO_ATTENTION |= {"attention.key_length": None, "attention.value_length": None}

# Options of every family and those that several have. A default of None is worked out from the others.
COMMON = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "ff": 64, "vocab": 288, "context": 512}
ROPE = {"rope_base": None, "rope_scaling": None, "rope_factor": 4.0, "rope_context": 128}
FREE_HEADS = {"head_width": None}  # heads need not be width / heads wide
MOE = {"experts": 4, "experts_used": 2, "expert_ff": 32}
RWKV7_KEYS = {
    "wkv.head_size": "H",
    "attention.decay_lora_rank": "A",
    "attention.iclr_lora_rank": "A",
    "attention.value_residual_mix_lora_rank": "A",
    "attention.gate_lora_rank": "2*A",
    "token_shift_count": 2,
}
NO_HEADS = {"heads": 1, "kv_heads": 1, "head_width": 2}
SSM = {"ssm_inner": None, "ssm_state": 8, "ssm_heads": 4, "ssm_groups": 1, "conv": 4}


@dataclass(frozen=True)
class Family:
    """What a family's models consist of."""

    arch: str  # general.architecture
    # Tensors of a block, name -> shape; or a function (options, layer) -> the same
    block: dict[str, str] | Callable
    keys: dict[str, Any] | Callable  # keys besides KEYS; or a function (options) -> the same
    # Options besides COMMON, and other defaults for those
    options: dict[str, Any] = field(default_factory=dict)
    # Tensors of the model besides token_embd, output_norm, output
    model: dict[str, str] | Callable = field(default_factory=dict)
    bias: dict[str, str] = field(default_factory=dict)  # tensors of a block that --biases adds
    # Whether the output matrix is the embedding; None: as asked, by default it is not
    tied: bool | None = None
    final_norm: str = "output_norm"  # the tensor of the last norm
    gains: dict[str, float] = field(default_factory=dict)  # factors of the standard deviation of some weights


LITE = (26, 27)  # layers of a deepseek2 that llama.cpp takes for "lite", with queries that have no low rank


def _deepseek2_block(o, layer):
    """MLA: keys and values of all heads come from one row of low rank B; n_rot dimensions of the key are
    shared too.
    """
    query = {"attn_q_a.weight": "A D", "attn_q_a_norm.weight": "A", "attn_q_b.weight": "N*H A"}
    split = {"attn_k_b.weight": "N B H-n_rot", "attn_v_b.weight": "N W B"}
    attention = {
        **(query if o.q_lora else {"attn_q.weight": "N*H D"}),
        "attn_kv_a_mqa.weight": "B+n_rot D",
        "attn_kv_a_norm.weight": "B",
        **({"attn_kv_b.weight": "N*(H-n_rot+W) B"} if o.joined_kv_b else split),
        "attn_output.weight": "D N*W",
    }
    if layer < o.dense_layers:
        return NORMS | attention | GATED
    selection = {"exp_probs_b.bias": "E"} if o.router_bias else {}
    return NORMS | attention | ROUTER | selection | EXPERTS | SHARED


def _deepseek2_keys(o):
    keys = {
        **RMS,
        **ROTATION,
        **MOE_KEYS,
        **EXPERT_WIDTH,
        "attention.kv_lora_rank": "B",
        "leading_dense_block_count": o.dense_layers,
        "expert_shared_count": o.shared_experts,
        "expert_weights_norm": o.gating == "sigmoid",
        "expert_weights_scale": 1.5,
        "expert_gating_func": 2 if o.gating == "sigmoid" else 1,
    }
    if o.groups > 1:
        keys |= {"expert_group_count": o.groups, "expert_group_used_count": o.groups_used}
    if o.layers not in LITE:
        keys["attention.q_lora_rank"] = "A"
    if o.joined_kv_b:
        return keys | {
            "attention.head_count_kv": "N",
            "attention.key_length": "H",
            "attention.value_length": "W",
        }
    mla = {"attention.key_length_mla": "H", "attention.value_length_mla": "W"}
    return (
        keys
        | mla
        | {"attention.head_count_kv": 1, "attention.key_length": "B+n_rot", "attention.value_length": "B"}
    )


def _command_r_block(o, _):
    """Attention and feed-forward share one norm; models of 64 layers or more ("plus") have norms of heads
    too.
    """
    plus = {"attn_q_norm.weight": "N H", "attn_k_norm.weight": "K H"} if o.layers >= 64 else {}
    return {"attn_norm.weight": "D"} | ATTENTION | GATED | plus


def _olmo2_keys(o):
    """OLMo 3 is olmo2 with windows: three layers in four see one."""
    return RMS | ({"attention.sliding_window": o.window} if o.window else {})


def _granitehybrid_block(o, layer):
    """Of so many layers the second attends; experts, where there are any, stand beside a shared one."""
    mixer = ATTENTION if layer % o.attention_every == 1 else MAMBA2
    experts = ROUTER | {name: shape.replace("X", "F") for name, shape in EXPERTS.items()} | SHARED
    return NORMS | mixer | (experts if o.experts else GATED)


def _granitehybrid_keys(o):
    kv = [o.kv_heads if layer % o.attention_every == 1 else 0 for layer in range(o.layers)]
    scales = {"logit_scale": 1.5, "residual_scale": 0.5, "embedding_scale": 6.0, "attention.scale": 0.5}
    keys = (
        RMS | ROTATION | SSM_KEYS | scales | {"attention.head_count_kv": kv, "rope.scaling.finetuned": o.rope}
    )
    return keys | (MOE_KEYS | {"expert_shared_feed_forward_length": "Y"} if o.experts else {})


NEMOTRON_LAYERS = "M-M*-"  # Mamba-2, feed-forward, attention: over and over


def _nemotron_block(o, layer):
    """Each layer is one half of a block, under the one norm that it has."""
    squared = {name: shape for name, shape in (EXPERTS | SHARED).items() if "gate" not in name}
    if getattr(o, "latent", None):
        latent = {"ffn_latent_down.weight": "Z D", "ffn_latent_up.weight": "D Z"}
        squared |= latent | {"ffn_up_exps.weight": "E X Z", "ffn_down_exps.weight": "E Z X"}
    experts = ROUTER | {"exp_probs_b.bias": "E"} | squared
    feed_forward = experts if o.family == "nemotron_h_moe" else PLAIN
    kinds = {"M": MAMBA2, "*": ATTENTION, "-": feed_forward}
    return {"attn_norm.weight": "D"} | kinds[NEMOTRON_LAYERS[layer % len(NEMOTRON_LAYERS)]]


def _nemotron_keys(o):
    kinds = [NEMOTRON_LAYERS[layer % len(NEMOTRON_LAYERS)] for layer in range(o.layers)]
    keys = {
        "attention.head_count_kv": [o.kv_heads if kind == "*" else 0 for kind in kinds],
        "feed_forward_length": [o.ff if kind == "-" else 0 for kind in kinds],
    }
    if o.family == "nemotron_h_moe":
        keys |= MOE_KEYS | EXPERT_WIDTH | {"expert_shared_feed_forward_length": "Y"}
        keys |= {"expert_weights_norm": True, "expert_weights_scale": 2.5}
        keys |= {"moe_latent_size": "Z"} if o.latent else {}
    return LAYER_NORM | HEAD_KEYS | SSM_KEYS | keys


def _rwkv7_block(o, _):
    """Time mix and channel mix; the first block has weights of low rank for its values that nobody uses."""
    norms = {
        f"{name}.{kind}": "D"
        for name in ("attn_norm", "attn_norm_2", "time_mix_ln")
        for kind in ("weight", "bias")
    }
    ranks = {"w": "A", "a": "A", "v": "A", "g": "2*A"}
    low = {f"time_mix_{name}1.weight": f"{rank} D" for name, rank in ranks.items()}
    low |= {f"time_mix_{name}2.weight": f"D {rank}" for name, rank in ranks.items()}
    vectors = {f"time_mix_{name}.weight": "D" for name in ("w0", "a0", "v0", "k_k", "k_a", "r_k")}
    products = {f"time_mix_{name}.weight": "D D" for name in ("receptance", "key", "value", "output")}
    lerps = {"time_mix_lerp_fused.weight": "6 1 1 D", "channel_mix_lerp_k.weight": "1 1 D"}
    return (
        norms
        | low
        | vectors
        | products
        | lerps
        | {"channel_mix_key.weight": "F D", "channel_mix_value.weight": "D F"}
    )


def _falcon_h1_block(o, _):
    """Attention and Mamba-2 side by side; the second norm's name has no ".weight"."""
    mixers = ATTENTION | {
        name: shape for name, shape in MAMBA2.items() if o.ssm_norm or "ssm_norm" not in name
    }
    return {"attn_norm.weight": "D", "ffn_norm": "D"} | mixers | GATED


def _lfm2_block(o, layer):
    """Of so many layers the second attends, the others are short convolutions."""
    mixer = ATTENTION | HEAD_NORMS if layer % o.attention_every == 1 else SHORT_CONV
    experts = ROUTER | {"exp_probs_b.bias": "E"} | EXPERTS
    return NORMS | mixer | (experts if o.family == "lfm2moe" and layer >= o.dense_layers else GATED)


def _lfm2_keys(o):
    kv = [o.kv_heads if layer % o.attention_every == 1 else 0 for layer in range(o.layers)]
    keys = RMS | {"attention.head_count_kv": kv, "shortconv.l_cache": "Q"}
    if o.family == "lfm2":
        return keys | ({"attention.sliding_window": o.window} if o.window else {})
    return (
        keys
        | MOE_KEYS
        | EXPERT_WIDTH
        | {"leading_dense_block_count": o.dense_layers, "expert_gating_func": 2}
    )


def _qwen_next_block(o, layer):
    """Of so many layers the last attends, the others are gated delta nets."""
    mixer = dict(GATED_ATTENTION if layer % o.interval == o.interval - 1 else DELTA_NET)
    if o.family == "qwen3next" and "ssm_a" in mixer:
        mixer |= {"ssm_ba.weight": "2*J D"} | ({"ssm_in.weight": "2*U+2*G*S D"} if o.joined_in else {})
        replaced = ("ssm_beta", "ssm_alpha") + (("attn_qkv", "attn_gate") if o.joined_in else ())
        mixer = {name: shape for name, shape in mixer.items() if not name.startswith(replaced)}
    experts = ROUTER | EXPERTS | SHARED | {"ffn_gate_inp_shexp.weight": "D"}
    norms = {"attn_norm.weight": "D", "post_attention_norm.weight": "D"}
    return norms | mixer | (GATED if o.family == "qwen35" else experts)


def _qwen_next_keys(o):
    pairs = range(o.rope_dims // 2)
    keys = RMS | HEAD_KEYS | SSM_KEYS | ROTATION | {"full_attention_interval": o.interval}
    # How many pairs each coordinate of an image rotates; of text all are the position
    if o.family != "qwen3next":
        keys |= {"rope.dimension_sections": [*(len(pairs[start::3]) for start in range(3)), 0]}
    if o.family == "qwen35":
        return keys
    moe = MOE_KEYS | EXPERT_WIDTH | {"expert_shared_feed_forward_length": "Y", "feed_forward_length": None}
    return keys | moe


def _kimi_block(o, layer):
    """Of so many layers the last attends (MLA without rotation), the others are Kimi's delta attention."""
    latent = {
        "attn_q.weight": "N*H D",
        "attn_kv_a_mqa.weight": "B+n_rot D",
        "attn_kv_a_norm.weight": "B",
        "attn_k_b.weight": "N B H-n_rot",
        "attn_v_b.weight": "N W B",
        "attn_output.weight": "D N*W",
    }
    mixer = latent if layer % o.interval == o.interval - 1 else KDA
    experts = ROUTER | {"exp_probs_b.bias": "E"} | EXPERTS | SHARED
    return NORMS | mixer | (GATED if layer < o.dense_layers else experts)


def _kimi_keys(o):
    kv = [int(layer % o.interval == o.interval - 1) for layer in range(o.layers)]
    heads = {"attention.key_length": "B+n_rot", "attention.value_length": "B", "attention.head_count_kv": kv}
    mla = {"attention.key_length_mla": "H", "attention.value_length_mla": "W", "attention.kv_lora_rank": "B"}
    moe = {
        "expert_shared_count": o.shared_experts,
        "leading_dense_block_count": o.dense_layers,
        "expert_gating_func": 2,
        "expert_weights_scale": 2.5,
    }
    recurrent = {"kda.head_dim": "S", "ssm.conv_kernel": "Q"}
    return RMS | ROTATION | heads | mla | recurrent | MOE_KEYS | EXPERT_WIDTH | moe


QWEN_NEXT = {
    **ROPE,
    "rope_base": 1e7,
    "rope_dims": 8,
    "layers": 4,
    "heads": 2,
    "kv_heads": 1,
    "head_width": 16,
}
QWEN_NEXT |= {"ssm_state": 8, "ssm_heads": 4, "ssm_groups": 2, "conv": 4, "interval": 2}


def _gemma4_full(o, layer):
    """Of so many layers the last sees everything."""
    return layer % o.full_every == o.full_every - 1


def _gemma4_block(o, layer):
    """Layers that see everything have heads twice as wide and half as many keys; the last layers make no
    keys.
    """
    full = _gemma4_full(o, layer)
    heads, keys = ("N*2*H", "K//2*2*H") if full else ("N*H", "K*H")
    attention = {"attn_q.weight": f"{heads} D", "attn_output.weight": f"D {heads}"}
    attention["attn_q_norm.weight"] = "2*H" if full else "H"
    if layer < o.layers - o.shared_layers:
        attention |= {"attn_k.weight": f"{keys} D", "attn_k_norm.weight": "2*H" if full else "H"}
        attention |= {} if full and o.keys_as_values else {"attn_v.weight": f"{keys} D"}
    experts = EXPERTS | ROUTER | {"ffn_gate_inp.scale": "D", "ffn_down_exps.scale": "E"}
    experts |= dict.fromkeys(
        ("pre_ffw_norm_2.weight", "post_ffw_norm_1.weight", "post_ffw_norm_2.weight"), "D"
    )
    own = {"inp_gate.weight": f"{o.per_layer} D", "proj.weight": f"D {o.per_layer}", "post_norm.weight": "D"}
    block = NORMS | POST_NORMS | attention | GATED | {"layer_output_scale.weight": "1"}
    return block | (experts if o.experts else {}) | (own if o.per_layer else {})


def _gemma4_model(o):
    if not o.per_layer:
        return {"rope_freqs.weight": "H"}
    width = f"L*{o.per_layer}"
    tensors = {"per_layer_token_embd.weight": f"V {width}", "per_layer_model_proj.weight": f"{width} D"}
    return tensors | {"per_layer_proj_norm.weight": str(o.per_layer), "rope_freqs.weight": "H"}


def _gemma4_keys(o):
    full = [_gemma4_full(o, layer) for layer in range(o.layers)]
    keys = {
        "attention.head_count_kv": [o.kv_heads // 2 if f else o.kv_heads for f in full],
        "attention.sliding_window": "window",
        "attention.sliding_window_pattern": [not f for f in full],
        "attention.shared_kv_layers": o.shared_layers,
        "embedding_length_per_layer_input": o.per_layer,
        "final_logit_softcapping": 6.0,
        "rope.freq_base_swa": 500.0,
    }
    for name in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        keys |= {name: "2*H", f"{name}_swa": "H"}
    return RMS | keys | (MOE_KEYS | EXPERT_WIDTH if o.experts else {})


def _mixture(dense, bias=True, shared=True):
    """A function of options and layer: the tensors `dense` in leading layers, experts in others."""
    attention = {name: shape for name, shape in dense.items() if name not in GATED}
    experts = ROUTER | EXPERTS | (SHARED if shared else {}) | ({"exp_probs_b.bias": "E"} if bias else {})
    return lambda o, layer: dense if layer < o.dense_layers else attention | experts


def _llama4_block(o, layer):
    """Every so many layers have experts, and one that all tokens use."""
    experts = ROUTER | EXPERTS | {name: shape.replace("Y", "X") for name, shape in SHARED.items()}
    return NORMS | ATTENTION | (experts if (layer + 1) % o.experts_every == 0 else GATED)


def _exaone4_keys(o):
    """Models of 64 layers have windows."""
    return RMS | ({"attention.sliding_window": "window"} if o.layers == 64 else {})


def _mistral3_keys(o):
    """Queries that grow with their position, and YaRN's numbers."""
    keys = RMS | HEAD_KEYS | {"rope.dimension_count": "H"}
    yarn = {"rope.scaling.yarn_beta_fast": 1.2, "rope.scaling.yarn_beta_slow": 0.12}
    keys |= yarn | {"rope.scaling.yarn_log_multiplier": 1.0} if o.rope_scaling == "yarn" else {}
    return keys | ({"attention.temperature_scale": 0.3} if o.temperature else {})


LEADING = {"dense_layers": 1, "layers": 3}
FFN_EXPERTS = {name: shape.replace("X", "F") for name, shape in EXPERTS.items()}
GLM_NORMS = {"attn_norm.weight": "D", "post_attention_norm.weight": "D"}
LEADING_KEY = {"leading_dense_block_count": "dense_layers"}
SHARED_COUNT = {"expert_shared_count": "shared_experts"}
SECTIONS = {"rope.dimension_sections": [2, 1, 1, 0]}
NEOX = ATTENTION | QKV_BIASES | OUTPUT_BIAS | PLAIN | PLAIN_BIASES
LLAMA_BIASES = QKV_BIASES | OUTPUT_BIAS | GATE_BIAS | PLAIN_BIASES
FAMILIES = {
    "llama": Family(
        "llama",
        NORMS | ATTENTION | GATED,
        RMS | ROTATION,
        {**ROPE, **FREE_HEADS, "rope_freqs": False, "fused_qkv": False},
        bias=LLAMA_BIASES,
    ),
    "llama-moe": Family(
        "llama",
        NORMS | ATTENTION | ROUTER | {name: shape.replace("X", "F") for name, shape in EXPERTS.items()},
        RMS | ROTATION | MOE_KEYS,
        {**ROPE, **FREE_HEADS, "ff": 48, "rope_freqs": False, "experts": 4, "experts_used": 2},
    ),
    "qwen2": Family("qwen2", NORMS | ATTENTION | QKV_BIASES | GATED, RMS, {**ROPE, "rope_base": 1e6}),
    "qwen2moe": Family(
        "qwen2moe",
        NORMS | ATTENTION | QKV_BIASES | ROUTER | EXPERTS | SHARED | {"ffn_gate_inp_shexp.weight": "D"},
        {**RMS, **MOE_KEYS, **EXPERT_WIDTH, "expert_shared_feed_forward_length": "Y"},
        {**ROPE, **MOE, "shared_ff": 64},
        tied=False,
    ),
    "qwen3": Family(
        "qwen3",
        NORMS | ATTENTION | HEAD_NORMS | GATED,
        RMS | HEAD_KEYS,
        {**ROPE, "head_width": 16, "rope_base": 1e6},
    ),
    "qwen3moe": Family(
        "qwen3moe",
        NORMS | ATTENTION | HEAD_NORMS | ROUTER | EXPERTS,
        RMS | HEAD_KEYS | MOE_KEYS | EXPERT_WIDTH,
        {**ROPE, **MOE, "head_width": 16, "rope_base": 1e6},
    ),
    "gemma": Family(
        "gemma",
        NORMS | ATTENTION | GATED,
        RMS | HEAD_KEYS,
        {**ROPE, "head_width": 16, "rope_dims": None},
        tied=True,
    ),
    "gemma2": Family(
        "gemma2",
        NORMS | POST_NORMS | ATTENTION | GATED,
        # Real models have 50 and 30; smaller caps show in the logits of a small model.
        RMS
        | HEAD_KEYS
        | {
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 6.0,
            "attention.sliding_window": "window",
        },
        {**ROPE, "head_width": 16, "rope_dims": None, "window": 8},
        tied=True,
    ),
    "gemma3": Family(
        "gemma3",
        NORMS | POST_NORMS | ATTENTION | HEAD_NORMS | GATED,
        RMS | HEAD_KEYS | {"attention.sliding_window": "window"},
        {
            **ROPE,
            "layers": 6,
            "ff": 32,
            "head_width": 16,
            "rope_dims": None,
            "rope_base": 1e6,
            "window": 8,
            "tied": True,
        },
    ),
    "phi3": Family(
        "phi3",
        NORMS | FUSED_QKV | OUTPUT | {"ffn_up.weight": "2*F D", "ffn_down.weight": "D F"},
        RMS | ROTATION,
        {**ROPE, "rope_dims": None},
    ),
    "gpt2": Family(
        "gpt2",
        NORMS | NORM_BIASES | FUSED_QKV | FUSED_QKV_BIAS | OUTPUT | OUTPUT_BIAS | PLAIN | PLAIN_BIASES,
        LAYER_NORM,
        {"kv_heads": None, "context": 128},
        model={"output_norm.bias": "D", "position_embd.weight": "C D"},
    ),
    "deepseek2": Family(
        "deepseek2",
        _deepseek2_block,
        _deepseek2_keys,
        {
            **ROPE,
            **MOE,
            "kv_heads": None,
            "head_width": 24,
            "rope_dims": 8,
            "value_width": 16,
            "q_lora": None,
            "kv_lora": 32,
            "joined_kv_b": False,
            "dense_layers": 1,
            "shared_experts": 1,
            "groups": 1,
            "groups_used": 1,
            "gating": "sigmoid",
            "router_bias": True,
        },
    ),
    "olmo2": Family(
        "olmo2", ATTENTION | ROW_NORMS | POST_NORMS | GATED, _olmo2_keys, {**ROPE, "window": 0}, tied=False
    ),
    "granite": Family(
        "granite",
        NORMS | ATTENTION | GATED,
        {
            **RMS,
            **ROTATION,
            "logit_scale": 1.5,
            "residual_scale": 0.5,
            "embedding_scale": 6.0,
            "attention.scale": 0.5,
        },
        {**ROPE, **FREE_HEADS, "tied": True},
    ),
    "command-r": Family(
        "command-r",
        _command_r_block,
        LAYER_NORM | {"logit_scale": 0.75},
        {**ROPE, "rope_dims": None},
        tied=True,
    ),
    "starcoder2": Family(
        "starcoder2",
        NORMS | NORM_BIASES | ATTENTION | QKV_BIASES | OUTPUT_BIAS | PLAIN | PLAIN_BIASES,
        LAYER_NORM,
        {**ROPE, "rope_base": 1e5},
        model={"output_norm.bias": "D"},
    ),
    "smollm3": Family(
        "smollm3",
        NORMS | ATTENTION | GATED,
        RMS | ROTATION,
        {**ROPE, **FREE_HEADS, "layers": 4, "tied": True},
    ),
    "granitehybrid": Family(
        "granitehybrid",
        _granitehybrid_block,
        _granitehybrid_keys,
        {
            **FREE_HEADS,
            **SSM,
            "layers": 4,
            "experts": 0,
            "experts_used": 2,
            "shared_ff": 48,
            "attention_every": 4,
        }
        | {"rope": False, "tied": True},
    ),
    "nemotron_h": Family(
        "nemotron_h",
        _nemotron_block,
        _nemotron_keys,
        {**FREE_HEADS, **SSM, "layers": 5, "ssm_groups": 2},
        bias=PLAIN_BIASES | QKV_BIASES | OUTPUT_BIAS,
    ),
    "nemotron_h_moe": Family(
        "nemotron_h_moe",
        _nemotron_block,
        _nemotron_keys,
        {**FREE_HEADS, **SSM, **MOE, "layers": 5, "ssm_groups": 2, "shared_ff": 48, "latent": 16},
    ),
    "falcon-h1": Family(
        "falcon-h1",
        _falcon_h1_block,
        RMS | HEAD_KEYS | SSM_KEYS,
        {**FREE_HEADS, **SSM, "rope_base": 1e11, "rope_dims": None, "ssm_norm": True},
    ),
    "rwkv7": Family(
        "rwkv7",
        _rwkv7_block,
        LAYER_NORM | NO_ATTENTION | {"feed_forward_length": "F"} | RWKV7_KEYS,
        # llama.cpp reads past the end of heads that are not a multiple of 64 wide.
        {**NO_HEADS, "width": 64, "ff": 32, "head_width": 64, "q_lora": 8},
        model={
            f"{name}.{kind}": "D"
            for name in ("token_embd_norm", "output_norm")
            for kind in ("weight", "bias")
        },
        tied=False,
    ),
    "mamba2": Family(
        "mamba2", {"attn_norm.weight": "D"} | MAMBA2, RMS | SSM_KEYS | NO_ATTENTION, {**NO_HEADS, **SSM}
    ),
    "mamba": Family(
        "mamba",
        {"attn_norm.weight": "D"} | MAMBA,
        RMS | SSM_KEYS | NO_ATTENTION | {"ssm.group_count": None, "ssm.dt_b_c_rms": None},
        {**NO_HEADS, "ssm_inner": None, "ssm_state": 8, "ssm_heads": 4, "conv": 4},
    ),
    "lfm2": Family(
        "lfm2",
        _lfm2_block,
        _lfm2_keys,
        {**ROPE, "rope_base": 1e6, "layers": 4, "conv": 3, "attention_every": 2, "window": 0, "tied": True},
        final_norm="token_embd_norm",
    ),
    "lfm2moe": Family(
        "lfm2moe",
        _lfm2_block,
        _lfm2_keys,
        {
            **ROPE,
            **MOE,
            "rope_base": 1e6,
            "layers": 4,
            "conv": 3,
            "attention_every": 2,
            "dense_layers": 1,
            "tied": True,
        },
        final_norm="token_embd_norm",
    ),
    "qwen35": Family("qwen35", _qwen_next_block, _qwen_next_keys, {**QWEN_NEXT, "tied": True}),
    "qwen35moe": Family(
        "qwen35moe", _qwen_next_block, _qwen_next_keys, {**QWEN_NEXT, **MOE, "expert_ff": 12, "shared_ff": 16}
    ),
    "qwen3next": Family(
        "qwen3next",
        _qwen_next_block,
        _qwen_next_keys,
        {**QWEN_NEXT, **MOE, "expert_ff": 12, "shared_ff": 16, "joined_in": False},
    ),
    "kimi-linear": Family(
        "kimi-linear",
        _kimi_block,
        _kimi_keys,
        {
            **MOE,
            "expert_ff": 16,
            "layers": 3,
            "kv_heads": None,
            "head_width": 12,
            "rope_dims": 4,
            "value_width": 8,
            "kv_lora": 24,
        }
        | {"ssm_state": 8, "conv": 4, "interval": 2, "dense_layers": 1, "shared_experts": 1},
        tied=False,
    ),
    "qwen2vl": Family(
        "qwen2vl", NORMS | ATTENTION | QKV_BIASES | GATED, RMS | SECTIONS, {**ROPE, "rope_base": 1e6}
    ),
    "qwen3vl": Family(
        "qwen3vl",
        NORMS | ATTENTION | HEAD_NORMS | GATED,
        RMS | HEAD_KEYS | SECTIONS | {"n_deepstack_layers": 3},
        {**ROPE, "head_width": 8, "rope_base": 1e6},
    ),
    "qwen3vlmoe": Family(
        "qwen3vlmoe",
        NORMS | ATTENTION | HEAD_NORMS | ROUTER | EXPERTS,
        RMS | HEAD_KEYS | SECTIONS | {"n_deepstack_layers": 3} | MOE_KEYS | EXPERT_WIDTH,
        {**ROPE, **MOE, "head_width": 8, "rope_base": 1e6},
    ),
    "mistral3": Family(
        "mistral3",
        NORMS | ATTENTION | GATED,
        _mistral3_keys,
        {
            **ROPE,
            "head_width": 16,
            "rope_scaling": "yarn",
            "rope_factor": 8.0,
            "rope_context": 32,
            "temperature": True,
        },
    ),
    "gemma4": Family(
        "gemma4",
        _gemma4_block,
        _gemma4_keys,
        {"layers": 5, "full_every": 3, "head_width": 8, "rope_base": 1e4, "window": 8, "shared_layers": 0}
        | {"per_layer": 0, "keys_as_values": False, "ff": 32, **MOE, "experts": 0},
        model=_gemma4_model,
        tied=True,
        gains={"ffn_gate_inp": 16.0},  # what it reads is divided by sqrt(D)
    ),
    "glm4": Family(
        "glm4",
        NORMS | POST_NORMS | ATTENTION | QKV_BIASES | {"ffn_up.weight": "2*F D", "ffn_down.weight": "D F"},
        RMS | HEAD_KEYS,
        {**ROPE, "head_width": 16, "rope_dims": 8},
    ),
    "glm4moe": Family(
        "glm4moe",
        _mixture(GLM_NORMS | ATTENTION | QKV_BIASES | HEAD_NORMS | GATED),
        RMS
        | HEAD_KEYS
        | MOE_KEYS
        | EXPERT_WIDTH
        | LEADING_KEY
        | SHARED_COUNT
        | {"expert_weights_norm": True, "expert_weights_scale": 2.5},
        {**ROPE, **MOE, **LEADING, "head_width": 16, "rope_dims": 8, "shared_experts": 1},
    ),
    "seed_oss": Family(
        "seed_oss", GLM_NORMS | ATTENTION | QKV_BIASES | GATED, RMS | HEAD_KEYS, {**ROPE, "head_width": 16}
    ),
    "granitemoe": Family(
        "granitemoe",
        NORMS | ATTENTION | ROUTER | FFN_EXPERTS | SHARED,
        {**RMS, **ROTATION, **MOE_KEYS, "logit_scale": 1.5, "residual_scale": 0.5, "embedding_scale": 6.0}
        | {"attention.scale": 0.5, "expert_shared_feed_forward_length": "Y"},
        {**ROPE, **FREE_HEADS, "experts": 4, "experts_used": 2, "shared_ff": 48, "tied": True},
    ),
    "ernie4_5": Family("ernie4_5", NORMS | ATTENTION | GATED, RMS | HEAD_KEYS, {**ROPE, "head_width": 16}),
    "ernie4_5-moe": Family(
        "ernie4_5-moe",
        _mixture(NORMS | ATTENTION | GATED),
        RMS
        | MOE_KEYS
        | EXPERT_WIDTH
        | LEADING_KEY
        | {"expert_shared_feed_forward_length": "Y", "interleave_moe_layer_step": 1},
        {**ROPE, **MOE, **LEADING, "shared_ff": 48},
    ),
    "minimax-m2": Family(
        "minimax-m2",
        NORMS | ATTENTION | ROW_NORMS | ROUTER | FFN_EXPERTS | {"exp_probs_b.bias": "E"},
        RMS | HEAD_KEYS | MOE_KEYS | {"expert_gating_func": 2, "expert_feed_forward_length": "F"},
        {**ROPE, "experts": 4, "experts_used": 2, "head_width": 16, "rope_dims": 8},
    ),
    "dots1": Family(
        "dots1",
        _mixture(NORMS | ATTENTION | HEAD_NORMS | GATED),
        RMS
        | MOE_KEYS
        | EXPERT_WIDTH
        | LEADING_KEY
        | SHARED_COUNT
        | {"expert_weights_norm": True, "expert_weights_scale": 2.5, "expert_gating_func": 2},
        {**ROPE, **MOE, **LEADING, "kv_heads": None, "shared_experts": 2},
    ),
    "olmoe": Family(
        "olmoe",
        NORMS | ATTENTION | ROW_NORMS | ROUTER | FFN_EXPERTS,
        RMS | MOE_KEYS,
        {**ROPE, "experts": 4, "experts_used": 2},
    ),
    "phimoe": Family(
        "phimoe",
        NORMS | NORM_BIASES | ATTENTION | QKV_BIASES | OUTPUT_BIAS | ROUTER | FFN_EXPERTS,
        RMS | MOE_KEYS,
        {**ROPE, "experts": 4, "experts_used": 2},
        model={"output_norm.bias": "D", "output.bias": "V"},
        tied=False,
    ),
    "hunyuan-dense": Family(
        "hunyuan-dense", NORMS | ATTENTION | HEAD_NORMS | GATED, RMS | HEAD_KEYS, {**ROPE, "head_width": 16}
    ),
    "hunyuan-moe": Family(
        "hunyuan-moe",
        NORMS | ATTENTION | HEAD_NORMS | ROUTER | FFN_EXPERTS | SHARED,
        RMS
        | HEAD_KEYS
        | MOE_KEYS
        | {"expert_feed_forward_length": "F", "expert_shared_feed_forward_length": "Y"},
        {**ROPE, "head_width": 16, "experts": 4, "experts_used": 2, "shared_ff": 48},
    ),
    "cohere2": Family(
        "cohere2",
        {"attn_norm.weight": "D"} | ATTENTION | GATED,
        LAYER_NORM | {"logit_scale": 0.75, "attention.sliding_window": "window"},
        {**ROPE, "rope_dims": None, "layers": 4, "window": 8},
        tied=True,
    ),
    "exaone4": Family(
        "exaone4", POST_NORMS | ATTENTION | HEAD_NORMS | GATED, _exaone4_keys, {**ROPE, "window": 8}
    ),
    "bitnet": Family(
        "bitnet",
        NORMS
        | ATTENTION
        | GATED
        | {"attn_sub_norm.weight": "D", "ffn_sub_norm.weight": "F"}
        | {name.replace("weight", "scale"): "1" for name in ATTENTION | GATED},
        RMS,
        {**ROPE},
        tied=True,
    ),
    "smallthinker": Family(
        "smallthinker",
        NORMS | ATTENTION | ROUTER | EXPERTS,
        RMS | MOE_KEYS | EXPERT_WIDTH | {"expert_gating_func": 2, "attention.sliding_window": 4096},
        {**ROPE, **MOE, "layers": 5},
    ),
    "llama4": Family(
        "llama4",
        _llama4_block,
        RMS | ROTATION | MOE_KEYS | EXPERT_WIDTH | {"interleave_moe_layer_step": "experts_every"},
        {**ROPE, **MOE, "layers": 4, "experts_used": 1, "experts_every": 2},
    ),
    "gptneox": Family(
        "gptneox",
        NORMS | NORM_BIASES | FUSED_QKV | FUSED_QKV_BIAS | OUTPUT | OUTPUT_BIAS | PLAIN | PLAIN_BIASES,
        LAYER_NORM | {"use_parallel_residual": True},
        {**ROPE, "kv_heads": None, "rope_dims": 4},
        model={"output_norm.bias": "D"},
        tied=False,
    ),
    "phi2": Family(
        "phi2",
        {"attn_norm.weight": "D", "attn_norm.bias": "D"} | NEOX,
        LAYER_NORM,
        {**ROPE, "kv_heads": None, "rope_dims": 4},
        model={"output_norm.bias": "D", "output.bias": "V"},
        tied=False,
    ),
    "falcon": Family(
        "falcon",
        lambda o, _: (
            {"attn_norm.weight": "D", "attn_norm.bias": "D"}
            | FUSED_QKV
            | OUTPUT
            | PLAIN
            | ({"attn_norm_2.weight": "D", "attn_norm_2.bias": "D"} if o.two_norms else {})
        ),
        LAYER_NORM,
        {**ROPE, "kv_heads": 1, "two_norms": False},
        model={"output_norm.bias": "D"},
    ),
    "stablelm": Family(
        "stablelm",
        NORMS | NORM_BIASES | ATTENTION | QKV_BIASES | GATED,
        LAYER_NORM | {"use_parallel_residual": False},
        {**ROPE, "rope_dims": 4},
        model={"output_norm.bias": "D"},
        tied=False,
    ),
    "gpt-oss": Family(
        "gpt-oss",
        {"attn_norm.weight": "D", "post_attention_norm.weight": "D", "attn_sinks.weight": "N"}
        | (ATTENTION | QKV_BIASES | OUTPUT_BIAS)
        | (ROUTER | {"ffn_gate_inp.bias": "E"} | EXPERTS | EXPERT_BIASES),
        RMS | HEAD_KEYS | MOE_KEYS | EXPERT_WIDTH | {"attention.sliding_window": "window"},
        {**ROPE, **MOE, "head_width": 16, "window": 8, "rope_base": 150000.0, "rope_scaling": "yarn"},
        tied=False,
        # Some pass SwiGLU's clamp at 7
        gains={"ffn_gate_exps": 4.0, "ffn_up_exps": 4.0, "ffn_down_exps": 0.1},
    ),
}
LONGROPE = (
    "llama",
    "llama-moe",
    "phi3",
    "granite",
    "phimoe",
)  # those whose tensors may hold longrope's factors

# Types the gguf package can quantize to. For the others random bits will do: where in a block its float16
# scale and its float16 offset are, in bytes, and how many scales the offset must be to put the mean of the
# weights near zero.
QUANTIZED = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")
RANDOM_BLOCKS = {
    "Q2_K": (80, 82, 1.5),
    "Q3_K": (108, None, 0),
    "Q4_K": (0, 2, 7.5),
    "Q5_K": (0, 2, 15.5),
    "Q6_K": (208, None, 0),
    "IQ1_S": (0, None, 0),
    "IQ1_M": (None, None, 0),
    "IQ2_XXS": (0, None, 0),
    "IQ2_XS": (0, None, 0),
    "IQ2_S": (0, None, 0),
    "IQ3_XXS": (0, None, 0),
    "IQ3_S": (0, None, 0),
    "IQ4_NL": (0, None, 0),
    "IQ4_XS": (0, None, 0),
}
TYPES = (*QUANTIZED, *RANDOM_BLOCKS)

# The frequent ones first: a lower score comes with each. Enough for a few words of English and Polish.
PIECES = "▁ e t a o i n s r h l d u ▁t he ▁a ▁the in re ą ż ł ▁li two ▁oj czy zno mo ja"

# What an option means.
OPTIONS = {
    "layers": "transformer blocks",
    "width": "width of the model",
    "heads": "query heads",
    "kv_heads": "key/value heads",
    "head_width": "width of a head (of queries and keys, in deepseek2)",
    "value_width": "width of a value head",
    "ff": "width of the feed-forward",
    "vocab": "tokens of the vocabulary, 288 or more",
    "context": "context length",
    "experts": "experts in a layer",
    "experts_used": "experts that a token takes",
    "expert_ff": "width of an expert",
    "shared_ff": "width of the shared expert",
    "shared_experts": "shared experts",
    "groups": "groups of experts",
    "groups_used": "groups that a token may take experts from",
    "gating": "softmax or sigmoid",
    "router_bias": "a bias that counts in the selection of experts alone",
    "dense_layers": "leading layers without experts",
    "latent": "width of what experts read and write; 0 is that of the model",
    "attention_every": "of so many layers the second attends, the others are recurrent",
    "interval": "of so many layers the last attends, the others are recurrent",
    "joined_in": "one ssm_in, as older files have it, for attn_qkv and attn_gate",
    "rope": "positions rotate queries and keys",
    "ssm_inner": "inner width of state-space layers (twice the width)",
    "ssm_state": "width of their state; of a head of delta rules",
    "ssm_heads": "their heads, or value heads; in mamba the rank of the step",
    "ssm_groups": "groups of those heads, or key heads",
    "ssm_norm": "a norm at the end of them",
    "conv": "tokens that their convolution covers",
    "q_lora": "rank of the queries; 0 is a plain attn_q (32, but 0 with 26 or 27 layers)",
    "kv_lora": "rank of keys and values",
    "joined_kv_b": "one attn_kv_b, as older files have it, for attn_k_b and attn_v_b",
    "full_every": "of so many layers the last sees everything",
    "shared_layers": "layers at the end that read the keys and values of others",
    "keys_as_values": "layers that see everything have no values but their keys",
    "per_layer": "width of per-layer embeddings",
    "experts_every": "every so many layers have experts",
    "two_norms": "attention and feed-forward have a norm each",
    "temperature": "queries grow with their position",
    "window": "tokens that a windowed layer sees",
    "rope_dims": "dimensions of a head that rotate",
    "rope_base": "base of RoPE's angles",
    "rope_scaling": "none, linear, yarn or longrope (with its tensors of factors)",
    "rope_factor": "how far the scaling stretches",
    "rope_context": "context length before the stretch",
    "rope_freqs": "a tensor that divides RoPE's frequencies, as in Llama 3.1",
    "fused_qkv": "query, key and value in one tensor",
    "biases": "biases wherever llama may have them",
    "tied": "the output matrix is the embedding",
    "type": "of the matrices: " + ", ".join(TYPES),
    "as_float32": "quantize to the type, then write what that expands to as float32",
    "set": "a key, without the architecture in front: rope.freq_base_swa=20000.0; None leaves it out",
    "seed": "of the random numbers",
}
FLOATS = ("rope_base", "rope_factor")
FLAGS = (
    "keys_as_values",
    "two_norms",
    "temperature",
    "rope",
    "joined_in",
    "ssm_norm",
    "router_bias",
    "joined_kv_b",
    "rope_freqs",
    "fused_qkv",
    "biases",
    "tied",
    "as_float32",
)
CHOICES = {
    "gating": ("softmax", "sigmoid"),
    "rope_scaling": ("none", "linear", "yarn", "longrope"),
    "type": TYPES,
}


def make(
    family: str, path: str | os.PathLike, *, force: bool = False, **options: Any
) -> dict[str, tuple[int, ...]]:
    """Write a random model of a family (one of FAMILIES) to `path`; returns the shapes of its tensors by
    name.

    Options are those of the command line (OPTIONS), with _ for -; `set` is a dict of keys, where None leaves
    one out. Raises ValueError for what makes no sense and FileExistsError where a file is in the way and
    `force` is not given. One tensor at a time is in memory.
    """
    o = resolve(family, options)
    path = Path(path)
    if path.exists() and not force:
        raise FileExistsError(f"{path} is there already; --force replaces it")
    sizes, row = _sizes(o), FAMILIES[family]
    shapes = {name: _evaluate_shape(shape, sizes) for name, shape in _tensors(o).items()}
    types = {name: _tensor_type(name, shape, o) for name, shape in shapes.items()}
    stored = {name: (shape, "F32" if o.as_float32 else types[name]) for name, shape in shapes.items()}
    arrays = (_tensor_data(name, shape, types[name], o) for name, shape in shapes.items())
    keys = {"general.architecture": row.arch, "general.name": "random model"}
    keys |= {f"{row.arch}.{name}": value for name, value in _metadata(o, sizes).items()}
    gguf_file.write(path, keys | _vocabulary(o.vocab), stored, arrays)
    return shapes


def resolve(family: str, options: dict[str, Any]) -> SimpleNamespace:
    """All options of a model: those given, the family's defaults for the rest. Raises ValueError for
    nonsense.
    """
    if family not in FAMILIES:
        raise ValueError(f"there is no family {family!r}; we have {', '.join(FAMILIES)}")
    row = FAMILIES[family]
    defaults = {**COMMON, "type": "F32", "as_float32": False, "set": {}, "seed": 0}
    defaults |= {"tied": False} if row.tied is None else {}
    defaults |= {"biases": False} if row.bias else {}
    defaults |= row.options
    for name, value in options.items():
        if name not in defaults:
            what = "is tied or not by its nature" if name == "tied" else f"has no --{name.replace('_', '-')}"
            raise ValueError(f"{family} {what}; its options are {', '.join(sorted(defaults))}")
        if name in CHOICES and value is not None and value not in CHOICES[name]:
            raise ValueError(
                f"--{name.replace('_', '-')} is {value!r}; it must be one of {', '.join(CHOICES[name])}"
            )
    o = SimpleNamespace(family=family, **{"tied": row.tied, "biases": False} | defaults | options)
    _check_numbers(o)
    if o.kv_heads is None:
        o.kv_heads = o.heads
    if getattr(o, "head_width", None) is None:
        if o.width % o.heads:
            raise ValueError(
                f"--heads {o.heads} does not divide --width {o.width}, and there is no --head-width"
            )
        o.head_width = o.width // o.heads
    if getattr(o, "rope_dims", None) is None:
        o.rope_dims = o.head_width
    if getattr(o, "q_lora", 0) is None:
        o.q_lora = 0 if o.layers in LITE else 32
    if getattr(o, "ssm_inner", 0) is None:
        o.ssm_inner = 2 * o.width
    if o.family in ("qwen35", "qwen35moe", "qwen3next"):
        o.ssm_inner = o.ssm_heads * o.ssm_state
    _check(o)
    return o


def _check_numbers(o):
    """Each number must be one, and large enough to mean something."""
    zero = {"q_lora", "dense_layers", "seed"} | ({"window"} if o.family in ("olmo2", "lfm2") else set())
    zero |= {"latent", "per_layer", "shared_layers"}
    zero |= {"experts"} if o.family in ("granitehybrid", "gemma4") else set()
    for name, value in vars(o).items():
        if value is None or name in CHOICES or name in ("family", "set") or isinstance(value, bool):
            continue
        if not isinstance(value, (int, float) if name in FLOATS else int):
            raise ValueError(f"--{name.replace('_', '-')} is {value!r}, not a number of the right kind")
        least = 0 if name in zero else 1
        if value < least:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; the least that makes sense is {least}")
    if o.vocab < 288:
        raise ValueError(f"--vocab is {o.vocab}; the least is 288: 256 bytes, 3 special tokens and 29 pieces")


def _check(o):
    """Sizes must fit each other."""
    if o.heads > o.width:
        raise ValueError(f"--heads {o.heads} is more than --width {o.width}")
    if o.heads % o.kv_heads:
        raise ValueError(f"--kv-heads {o.kv_heads} does not divide --heads {o.heads}")
    if o.family == "gpt2" and o.kv_heads != o.heads:
        raise ValueError("gpt2 has as many key/value heads as query heads")
    if o.family == "deepseek2" and o.kv_heads != o.heads:
        raise ValueError("deepseek2 has no --kv-heads: all heads share one row of low rank")
    if o.family == "deepseek2" and o.layers in LITE and o.q_lora:
        raise ValueError(
            f"deepseek2 of {o.layers} layers is a lite model to every engine: it must have --q-lora 0"
        )
    if o.family != "gpt2" and (o.rope_dims % 2 or o.rope_dims > o.head_width):
        raise ValueError(f"--rope-dims {o.rope_dims} must be even and at most the head width {o.head_width}")
    if o.family == "deepseek2" and o.rope_dims == o.head_width:
        raise ValueError(
            f"--rope-dims {o.rope_dims} must leave some of the head width {o.head_width} unrotated"
        )
    if getattr(o, "rope_scaling", None) == "longrope" and o.family not in LONGROPE:
        raise ValueError(f"{o.family} has no longrope; those that have it are {', '.join(LONGROPE)}")
    if getattr(o, "rope_scaling", None) == "longrope" and getattr(o, "rope_freqs", False):
        raise ValueError(
            "--rope-freqs and --rope-scaling longrope are two tensors for one purpose; choose one"
        )
    if (getattr(o, "rope_base", None) or math.inf) <= 1:
        raise ValueError(f"--rope-base is {o.rope_base}; angles need a base above 1")
    if o.family == "rwkv7" and o.width % o.head_width:
        raise ValueError(f"--head-width {o.head_width} must divide --width {o.width}")
    if hasattr(o, "ssm_groups") and (o.ssm_inner % o.ssm_heads or o.ssm_heads % o.ssm_groups):
        heads = f"--ssm-heads {o.ssm_heads} must divide --ssm-inner {o.ssm_inner}"
        raise ValueError(f"{heads} and be a multiple of --ssm-groups {o.ssm_groups}")
    if getattr(o, "experts", 0):
        _check_experts(o, o.experts, getattr(o, "groups", 1), getattr(o, "groups_used", 1))


def _check_experts(o, experts, groups, groups_used):
    if o.experts_used > experts:
        raise ValueError(f"--experts-used {o.experts_used} is more than --experts {experts}")
    if experts % groups or groups_used > groups:
        raise ValueError(
            f"--groups {groups} must divide --experts {experts} and be at least --groups-used {groups_used}"
        )
    if groups > 1 and experts // groups < 2:
        raise ValueError(
            f"--groups {groups} leaves one expert a group; a group's score is that of its best two"
        )
    if experts // groups * groups_used < o.experts_used:
        raise ValueError(
            f"--groups-used {groups_used} leaves too few experts for --experts-used {o.experts_used}"
        )


def _sizes(o):
    """The sizes that shapes and keys are written in."""
    get = vars(o).get
    sizes = {
        "D": o.width,
        "N": o.heads,
        "K": o.kv_heads,
        "H": o.head_width,
        "F": o.ff,
        "V": o.vocab,
        "L": o.layers,
    }
    sizes |= {"C": o.context, "n_rot": o.rope_dims, "window": get("window"), "W": get("value_width")}
    sizes |= {"U": get("ssm_inner"), "S": get("ssm_state"), "J": get("ssm_heads"), "G": get("ssm_groups")}
    sizes |= {"Q": get("conv"), "Z": get("latent")}
    sizes |= {"A": get("q_lora"), "B": get("kv_lora"), "E": get("experts"), "E_used": get("experts_used")}
    sizes |= {name: get(name) for name in ("dense_layers", "shared_experts", "experts_every")}
    return sizes | {
        "X": get("expert_ff"),
        "Y": get("shared_ff") or (get("shared_experts") or 0) * get("expert_ff", 0),
    }


def _evaluate(expression: str, sizes) -> int:
    """The value of an expression of this file's tables, such as "N*H+2*K*H"."""
    # The tables above are the only source of expressions
    return eval(expression, {"__builtins__": {}}, sizes)


def _evaluate_shape(shape: str, sizes) -> tuple[int, ...]:
    return tuple(_evaluate(size, sizes) for size in shape.split())


def _tensors(o) -> dict[str, str]:
    """Every tensor of a model, name -> shape."""
    row = FAMILIES[o.family]
    model = row.model(o) if callable(row.model) else row.model
    tensors = {"token_embd.weight": "V D", f"{row.final_norm}.weight": "D"} | model
    if not o.tied:
        tensors["output.weight"] = "V D"
    if getattr(o, "rope_freqs", False):
        tensors["rope_freqs.weight"] = "n_rot//2"
    if getattr(o, "rope_scaling", None) == "longrope":
        tensors |= {"rope_factors_long.weight": "n_rot//2", "rope_factors_short.weight": "n_rot//2"}
    for layer in range(o.layers):
        block = dict(row.block(o, layer) if callable(row.block) else row.block)
        biases = {name: shape for name, shape in row.bias.items() if name.replace("bias", "weight") in block}
        block |= biases if o.biases else {}
        if getattr(o, "fused_qkv", False):
            fused = FUSED_QKV | (FUSED_QKV_BIAS if o.biases else {})
            block = {name: shape for name, shape in block.items() if name not in QKV | QKV_BIASES} | fused
        tensors |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    return tensors


def _metadata(o, sizes) -> dict[str, Any]:
    """Every key of a model that begins with the architecture's name, without that name."""
    row = FAMILIES[o.family]
    keys = KEYS | (row.keys(o) if callable(row.keys) else row.keys)
    keys = {
        name: _evaluate(value, sizes) if isinstance(value, str) else value for name, value in keys.items()
    }
    if o.head_width * o.heads != o.width and "attention.key_length" not in keys:
        keys |= {"attention.key_length": o.head_width, "attention.value_length": o.head_width}
    if o.rope_dims != o.head_width and "rope.dimension_count" not in keys:
        keys["rope.dimension_count"] = o.rope_dims
    if getattr(o, "rope_base", None) is not None:
        keys["rope.freq_base"] = float(o.rope_base)
    scaling = getattr(o, "rope_scaling", None)
    if scaling is not None:
        keys["rope.scaling.type"] = scaling
    if scaling in ("linear", "yarn"):
        keys["rope.scaling.factor"] = float(o.rope_factor)
    if scaling in ("yarn", "longrope"):
        keys["rope.scaling.original_context_length"] = o.rope_context
    if scaling == "longrope":
        keys["rope.scaling.attn_factor"] = 1.25
    return {name: value for name, value in (keys | o.set).items() if value is not None}


def _vocabulary(size) -> dict[str, Any]:
    """The keys of SentencePiece: three special tokens, 256 bytes, a few pieces; then filling that no text
    gives.
    """
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES.split()]
    tokens += [f"<filling {i}>" for i in range(len(tokens), size)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(size - 259)],
        "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (size - 259),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }


def _is_matrix(name, shape) -> bool:
    """Whether it is stored in the type asked for: not norms, biases, routers and positions, whose rows are
    few.
    """
    small = ("norm.weight", ".bias", "ffn_gate_inp.weight", "position_embd.weight", "ssm_a", "ssm_d")
    small += ("lerp_fused.weight", "lerp_k.weight")
    return (
        len(shape) > 1 and not name.endswith(small) and "conv1d" not in name and "shortconv.conv" not in name
    )


def _tensor_type(name, shape, o) -> str:
    kind = o.type if _is_matrix(name, shape) else "F32"
    per_block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]
    if shape[-1] % per_block:
        raise ValueError(f"{kind} needs rows of a multiple of {per_block}; {name} has rows of {shape[-1]}")
    return kind


def _tensor_data(name, shape, kind, o) -> np.ndarray:
    """The numbers of a tensor as the file holds them. Each tensor has random numbers of its own, whatever
    others do.
    """
    rng = np.random.RandomState([o.seed, zlib.crc32(name.encode())])
    qtype = gguf.GGMLQuantizationType[kind]
    if kind in RANDOM_BLOCKS:
        data = _random_blocks(rng, shape, qtype, _spread(name, shape, o))
    else:
        values = _random_values(rng, name, shape, o)
        data = values if kind == "F32" else gguf.quants.quantize(values, qtype)
    return gguf.quants.dequantize(data, qtype) if o.as_float32 and kind != "F32" else data


def _spread(name, shape, o) -> float:
    """The standard deviation of a matrix's weights: 1 / sqrt(inputs) keeps activations of order 1."""
    stem = name.split(".")[-2]
    # Embeddings and output: logits of order 3. Queries, keys: scores that tell positions apart. Routers:
    # clear choices.
    usual = {"token_embd": 3, "position_embd": 3, "output": 3, "ffn_gate_inp": 3, "ffn_gate_inp_shexp": 3}
    usual |= dict.fromkeys(("attn_q", "attn_k", "attn_q_b"), 1.5)
    gains = usual | FAMILIES[o.family].gains
    return gains.get(stem, 1.0) / math.sqrt(shape[-1])


def _random_values(rng, name, shape, o) -> np.ndarray:
    """Random float32, from a uniform distribution: that needs no logarithm, which differs from machine to
    machine.
    """
    if name.startswith("rope_f"):
        low, high = {"freqs": (1, 8), "long": (2, 16), "short": (1, 2)}[
            name.removesuffix(".weight").split("_")[-1]
        ]
        return np.sort(rng.uniform(low, high, shape)).astype(np.float32)
    if name.endswith("ssm_a"):  # the past fades by 3% to 80% at a step of 1
        return rng.uniform(-1.6, -0.03, shape).astype(np.float32)
    if "lerp" in name:
        return rng.uniform(0.1, 0.9, shape).astype(np.float32)
    gains = ("ssm_d", "k_k.weight", "k_a.weight", "time_mix_ln.weight")
    if name.endswith((".scale", "output_scale.weight")):
        return rng.uniform(0.6, 1.4, shape).astype(np.float32)
    if ("norm" in name and not name.endswith(".bias")) or name.endswith(gains):
        return rng.uniform(0.6, 1.4, shape).astype(np.float32)
    if name.endswith((".bias", "w0.weight", "a0.weight", "v0.weight", "r_k.weight")):
        return rng.uniform(-0.5, 0.5, shape).astype(np.float32)
    edge = math.sqrt(3) * (1.0 if "sinks" in name else _spread(name, shape, o))
    values = np.empty(shape, np.float32)
    rows = values.reshape(-1, shape[-1])
    for start in range(0, len(rows), 1024):  # float64 of a large matrix at once would be twice its size
        part = rows[start : start + 1024]
        part[:] = rng.uniform(-edge, edge, part.shape)
    return values


def _random_blocks(rng, shape, qtype, spread) -> np.ndarray:
    """Random bits, with scales that give the weights they stand for the standard deviation `spread`."""
    per_block, block_bytes = gguf.GGML_QUANT_SIZES[qtype]
    blocks = rng.randint(0, 256, (math.prod(shape) // per_block, block_bytes), np.uint8)
    scale_at, offset_at, offset = RANDOM_BLOCKS[qtype.name]

    def write(at, values):
        bits = values.astype("<f2").view("<u2")
        if at is None:  # IQ1_M: a quarter of the scale in the upper bits of each of the last four words
            words = blocks[:, -8:].view("<u2")
            words[:] = words & 0x0FFF | (bits[:, None] >> np.array([0, 4, 8, 12], np.uint16) & 0xF) << 12
        else:
            blocks[:, at : at + 2] = bits[:, None].view(np.uint8)

    def write_scales(scales):
        write(scale_at, scales)
        if offset_at is not None:
            write(offset_at, offset * scales)

    write_scales(np.full(len(blocks), 1 / 16))
    unit = 16 * math.sqrt(np.mean(gguf.quants.dequantize(blocks[:64], qtype) ** 2))
    unit = float(f"{unit:.2e}")  # the order of a sum, and so its last digits, differ from machine to machine
    write_scales(rng.uniform(0.5, 1.5, len(blocks)) * spread / unit)
    return blocks.reshape(*shape[:-1], -1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write a random model of any family.",
        argument_default=argparse.SUPPRESS,
        epilog="The families: "
        + ", ".join(FAMILIES)
        + ". Each has its own defaults and only the options it can use.",
    )
    parser.error = refuse
    parser.add_argument("family", help="which family (below)")
    parser.add_argument("out", help="the file to write")
    for name, meaning in OPTIONS.items():
        flag = "--" + name.replace("_", "-")
        if name in FLAGS:
            parser.add_argument(flag, action="store_true", help=meaning)
        elif name == "set":
            parser.add_argument(flag, action="append", metavar="KEY=VALUE", help=meaning)
        else:
            kind = float if name in FLOATS else str if name in CHOICES else int
            parser.add_argument(flag, type=kind, metavar="X" if kind is str else "N", help=meaning)
    opposites = {
        "tied": "--untied",
        "temperature": "--no-temperature",
        "router_bias": "--no-router-bias",
        "ssm_norm": "--no-ssm-norm",
    }
    for name, flag in opposites.items():
        parser.add_argument(
            flag, dest=name, action="store_false", help=f"the opposite of --{name.replace('_', '-')}"
        )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    return parser


def _keys_from(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE -> {KEY: VALUE}; the value is a literal (1, 1.0, True, [1, 2]), anything else text."""
    keys = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--set {pair!r} is not KEY=VALUE")
        try:
            keys[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            keys[name] = value
        if not isinstance(keys[name], bool | int | float | str | list | None):
            raise ValueError(
                f"--set {pair!r}: the value must be a number, True, False, None, text or a list of those"
            )
    return keys


def main() -> None:
    """Parse the command line, write, say what was written."""
    options = vars(_parser().parse_args())
    family, out = options.pop("family"), options.pop("out")
    try:
        options["set"] = _keys_from(options.get("set", []))
        shapes = make(family, out, **options)
    except (ValueError, OSError) as error:
        refuse(error)
    weights = sum(math.prod(shape) for shape in shapes.values())
    print(f"wrote {out}: {len(shapes)} tensors, {weights:,} weights, {os.path.getsize(out) / 1e3:,.1f} kB")


if __name__ == "__main__":
    run(main)
