"""The table of architectures: what the name in `general.architecture` says and no key repeats.

This page is the one place that knows a family's name. Everything else about a model is read from its
metadata, and the other rooms branch on what they find there. Facts: llama.cpp's src/llama-model.cpp and
src/models.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Family:
    """How the models of one name differ from Llama's, whose values the defaults are."""

    mixer: str = "attention"  # what a layer does between tokens: a file in mixers/
    recurrent: str | None = None  # the same of layers without key/value heads ...
    attention_every: int | None = None  # ... or of all but every n-th, if no key says which
    gated_attention: bool = False  # queries come with a gate of attention's result, see attention.Attention
    grouped_values: bool = False  # which value heads share a key head, see deltanet.DeltaNet
    whole_block: bool = False  # the mixer is the whole block, with norms and feed-forward of its own
    one_half: bool = False  # a layer is a mixer or, where it has a feed_forward_length, a feed-forward
    rope_pairs: str | None = "adjacent"  # what rotates together, see rope.Rope; None: no RoPE
    rope_sections: bool = False  # whether the coordinates of images take turns in rotating pairs, see rope.py
    layer_norm: bool = False  # LayerNorm in place of RMS norm
    norm_bias: bool = False  # norms have biases
    either_eps: bool = False  # files may give RMS norm's epsilon as that of LayerNorm
    norms: str = "pre"  # where a block's norms stand: "pre" attention and feed-forward, "post", or "both"
    ffn_norm: str = "ffn_norm"  # the tensor that holds the norm before the feed-forward
    embedding_norm: bool = False  # whether embeddings are normed
    attn_norm: str = "attn_norm"  # the tensor that holds the norm before attention, if the file has it
    sub_norms: bool = False  # norms of what the heads found, and of what the feed-forward widened
    output_norm: str = "output_norm"  # the tensor that holds the norm after the last layer
    qk_norm: str | None = None  # norm of queries and keys before RoPE, see heads.HeadNorm ...
    qk_norm_from: int = 0  # ... only models of at least so many layers have it
    qk_norm_optional: bool = False  # ... only layers have it whose tensors are in the file
    qk_norm_last: bool = False  # ... it comes after RoPE instead
    no_qk_norm_at: int | None = None  # ... models of so many experts have none
    value_norm: bool = False  # a norm of each value head, without a gain
    activation: str = "swiglu"  # a row of ffn/activations.py
    gated: bool = True  # whether the feed-forward has a gate
    parallel: bool = False  # attention and feed-forward both read the block's input, see model.block
    scale_embeddings: bool = False  # embeddings times sqrt(d_model)
    positions: bool = False  # learned positions, added to the embeddings
    sinks: bool = False  # a logit for "none of the keys" in each head's softmax
    attention_softcap: float | None = None  # if {arch}.attn_logit_softcapping does not say it
    # If {arch}.attention.scale does not say it; None: 1/sqrt(key_length)
    attention_scale: float | None = None
    final_softcap: float | None = None  # if {arch}.final_logit_softcapping does not say it
    logit_power: int = 1  # {arch}.logit_scale multiplies the logits (1) or divides them (-1)
    d_model_scale_at: int | None = None  # with so many layers attention scales by 1/sqrt(d_model / n_heads)
    no_rope_every: int | None = None  # every n-th layer has no RoPE
    yarn_keys: bool = False  # the file may have the rest of YaRN's numbers, see rope.read_yarn
    halves_with_sections: bool = False  # files with {arch}.rope.dimension_sections have halves
    full_rope_freqs: bool = False  # the file has rope_freqs, which layers with a window do not use
    rope_switch: bool = False  # {arch}.rope.scaling.finetuned false means: no RoPE at all
    window_pattern: int | None = None  # of so many layers the last sees all, the others a window; 0: none
    window: int | None = None  # how wide it is if {arch}.attention.sliding_window does not say so
    only_window: int | None = None  # how wide it is whatever that key says, but for 0
    window_at: int | None = None  # only models of so many layers have windows
    full_first: bool = False  # the first of so many layers sees all, not the last
    chunked: bool = False  # windows do not slide, see attention.Attention
    # Of windowed layers: the "same", "unscaled", with its "own" base, or they "only" have it
    window_rope: str = "same"
    temperature: tuple[float, int, int] | None = None  # of layers without RoPE, see heads.Temperature
    gating: str = "softmax"  # of a mixture of experts: a value of experts.GATINGS
    renormalize: bool = True  # whether the chosen experts' weights are made to sum to 1
    split_experts: bool = True  # whether experts share feed_forward_length if no key gives their own
    shared_expert: bool = False  # whether there is one if no key says how many
    experts_beside: bool = False  # whether experts stand beside a dense feed-forward, see ffn/beside.py
    early_router: bool = False  # whether the router reads the layer's input
    weighted_inputs: bool = False  # whether weights multiply what experts read, not what they say
    shared_gate: bool = False  # whether the shared expert has a gate


# fmt: off
_GEMMA = Family(rope_pairs="halves", activation="geglu", scale_embeddings=True)
_QWEN = Family(rope_pairs="halves")
_QWEN_NEXT = replace(_QWEN, recurrent="deltanet", attention_every=4, gated_attention=True, qk_norm="head",
                     ffn_norm="post_attention_norm", shared_gate=True)
_GLM = Family(rope_pairs="halves", ffn_norm="post_attention_norm")
_HUNYUAN = Family(rope_pairs="halves", qk_norm="head", qk_norm_last=True)
_COHERE = Family(layer_norm=True, parallel=True, ffn_norm="attn_norm")
_NORMED = Family(rope_pairs="halves", layer_norm=True, norm_bias=True, activation="gelu", gated=False)
_NEOX = replace(_NORMED, parallel=True)
_LFM = Family(recurrent="shortconv", rope_pairs="halves", output_norm="token_embd_norm", qk_norm="head")
_NEMOTRON = Family(recurrent="mamba2", one_half=True, rope_pairs=None, either_eps=True, ffn_norm="attn_norm",
                   activation="relu_squared", gated=False)
ARCHITECTURES = {
    "llama": Family(split_experts=False),
    "mistral3": Family(yarn_keys=True),
    "qwen2": _QWEN,
    "qwen2moe": replace(_QWEN, renormalize=False, shared_gate=True),
    "qwen3": replace(_QWEN, qk_norm="head"),
    "qwen3moe": replace(_QWEN, qk_norm="head"),
    "qwen2vl": _QWEN,  # of these three the half that reads text
    # Published files say [24, 20, 20] for 64 pairs; llama.cpp leaves two unrotated, transformers does not.
    "qwen3vl": replace(_QWEN, qk_norm="head"),
    "qwen3vlmoe": replace(_QWEN, qk_norm="head"),
    "qwen35": replace(_QWEN_NEXT, rope_sections=True),
    "qwen35moe": replace(_QWEN_NEXT, rope_sections=True),
    "qwen3next": replace(_QWEN_NEXT, grouped_values=True),
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA, norms="both", window_pattern=2, window=4096, d_model_scale_at=46,
                      attention_softcap=50.0, final_softcap=30.0),
    "gemma3": replace(_GEMMA, norms="both", qk_norm="head", window_pattern=6, window_rope="own",
                      d_model_scale_at=62),
    "gemma4": replace(_GEMMA, norms="both", qk_norm="head", value_norm=True, attention_scale=1.0,
                      window_pattern=6, window_rope="own", full_rope_freqs=True, experts_beside=True),
    "phi2": replace(_NEOX, ffn_norm="attn_norm"),
    "phi3": Family(rope_pairs="halves"),  # its files name a window, which llama.cpp does not use either
    "phimoe": Family(rope_pairs="halves", norm_bias=True, split_experts=False),
    "gpt2": replace(_NORMED, rope_pairs=None, positions=True),
    "gptneox": _NEOX,
    "falcon": replace(_NEOX, attn_norm="attn_norm_2", ffn_norm="attn_norm"),
    "starcoder2": _NORMED,
    "stablelm": Family(rope_pairs="halves", layer_norm=True, norm_bias=True),
    "deepseek2": Family("latent", renormalize=False),
    "kimi-linear": Family("latent", recurrent="kda", rope_pairs=None, gating="sigmoid"),
    "olmo2": replace(_QWEN, norms="post", qk_norm="row", window_pattern=4, window_rope="unscaled"),
    "olmoe": Family(rope_pairs="halves", qk_norm="row", renormalize=False, split_experts=False),
    "granite": Family(logit_power=-1, rope_switch=True),
    "granitemoe": Family(logit_power=-1, split_experts=False),
    "granitehybrid": Family(recurrent="mamba2", logit_power=-1, rope_switch=True, split_experts=False),
    "falcon-h1": Family("side_by_side", rope_pairs="halves"),
    "mamba": Family("mamba", one_half=True),
    "mamba2": Family("mamba2", one_half=True),
    "nemotron_h": _NEMOTRON,
    "nemotron_h_moe": replace(_NEMOTRON, gating="sigmoid", renormalize=False),
    "rwkv7": Family("rwkv7", whole_block=True, rope_pairs=None, layer_norm=True, norm_bias=True,
                    embedding_norm=True),
    "lfm2": replace(_LFM, window_pattern=0),
    "lfm2moe": replace(_LFM, gating="sigmoid"),
    "command-r": replace(_COHERE, qk_norm="own gain", qk_norm_from=64),
    "cohere2": replace(_COHERE, window_pattern=4, window_rope="only"),
    "glm4": Family(norms="both", halves_with_sections=True),
    "glm4moe": replace(_GLM, qk_norm="head", qk_norm_optional=True, gating="sigmoid", renormalize=False),
    "seed_oss": _GLM,
    "ernie4_5": Family(),
    "ernie4_5-moe": Family(),
    "minimax-m2": Family(rope_pairs="halves", qk_norm="row", gating="sigmoid"),
    "dots1": Family(rope_pairs="halves", qk_norm="head", gating="sigmoid", renormalize=False),
    "hunyuan-dense": _HUNYUAN,
    "hunyuan-moe": _HUNYUAN,
    "exaone4": Family(rope_pairs="halves", norms="post", qk_norm="head", window_pattern=4, window=4096,
                      window_at=64, window_rope="only"),
    "smallthinker": Family(rope_pairs="halves", activation="reglu", window_pattern=4, only_window=4096,
                           full_first=True, window_rope="only", early_router=True),
    "smollm3": Family(no_rope_every=4),
    "bitnet": Family(rope_pairs="halves", sub_norms=True),
    "llama4": Family(qk_norm="no gain", qk_norm_last=True, no_qk_norm_at=128, window_pattern=4, window=8192,
                     only_window=8192, chunked=True, window_rope="only", temperature=(0.1, 8192, 1),
                     gating="sigmoid", renormalize=False, shared_expert=True, weighted_inputs=True),
    "gpt-oss": Family(rope_pairs="halves", ffn_norm="post_attention_norm", activation="swiglu_clamped",
                      sinks=True, window_pattern=2, gating="softmax of the chosen", renormalize=False),
}
# fmt: on
