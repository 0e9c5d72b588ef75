"""Tensors of the file -> `Weights`: every matrix and gain under GGUF's own name, none missing, none left over.

Shapes are checked against the config before a byte is expanded. Matrices that multiply the same input are held as one
(query, key and value; gate and up), since one large product is faster than several small ones.
"""

import re
from dataclasses import dataclass

import numpy as np

from .config import Config
from .errors import ModelFileError, UnsupportedModel
from .holding import WAYS, Job, fill_jobs, held_bytes, hold
from .linear import Matrix
from .loader import GGUF, Tensor
from .quants import SUPPORTED, dequantize

# Tensors that inference never needs, and why; any other tensor that nothing reads is refused.
NEVER_NEEDED = {
    r"blk\.\d+\.attn_rot_embd\.weight": "RoPE's inverse frequencies, which old converters stored; metadata gives them",
}
# Latent attention multiplies by these head by head, so they are expanded however the rest is held.
EXPANDED = r"blk\.\d+\.attn_(k|v|kv)_b\.weight"
RESERVE = 1 << 30  # bytes that "auto" leaves free for the cache and for reading prompts


@dataclass(frozen=True)
class Norm:
    """A norm's gain (D,), and its bias (D,) where the family has one."""

    gain: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention; None where the family has no such part."""

    attn_qkv: Matrix  # D -> N H + K H + K V: attn_q, attn_k and attn_v as one
    attn_qk_norm: np.ndarray | None  # (N + K, H): the gains attn_q_norm and attn_k_norm, for each head
    attn_sinks: np.ndarray | None  # (N,)
    attn_output: Matrix  # N V -> D


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention. Q and C are the ranks of queries and of keys and values, 2R dimensions rotate."""

    attn_q_a: Matrix | None  # D -> Q
    attn_q_a_norm: np.ndarray | None  # (Q,)
    attn_q_b: Matrix  # Q -> N H; where there is no attn_q_a it is attn_q, D -> N H
    attn_kv_a_mqa: Matrix  # D -> C + 2R
    attn_kv_a_norm: np.ndarray  # (C,)
    attn_k_b: np.ndarray  # (N, C, P), P = H - 2R
    attn_v_b: np.ndarray  # (N, V, C)
    attn_output: Matrix  # N V -> D


@dataclass(frozen=True)
class FeedForward:
    """A dense feed-forward."""

    ffn_up: Matrix  # D -> 2F, ffn_gate and ffn_up as one; D -> F in a family without gates
    ffn_down: Matrix  # F -> D


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts."""

    ffn_gate_inp: Matrix  # D -> E, the router
    exp_probs_b: np.ndarray | None  # (E,)
    ffn_up_exps: list[Matrix]  # E times D -> 2F: gate and up
    ffn_down_exps: list[Matrix]  # E times F -> D
    shared: FeedForward | None  # the expert that all tokens use
    ffn_gate_inp_shexp: Matrix | None  # D -> 1, its gate


@dataclass(frozen=True)
class Layer:
    """The weights of one block; None for a norm that the family does not have."""

    attn_norm: Norm | None
    attn: Attention | LatentAttention
    post_attention_norm: Norm | None
    ffn_norm: Norm | None
    ffn: FeedForward | Mixture
    post_ffw_norm: Norm | None


@dataclass(frozen=True)
class Weights:
    """All the numbers of a model."""

    token_embd: Tensor  # (V, D), left in the file's map: rows are expanded when they are looked up
    position_embd: Tensor | None  # (context_length, D), likewise
    rope_factors: np.ndarray | None  # (R,): divides RoPE's frequencies
    layers: tuple[Layer, ...]
    output_norm: Norm
    output: Matrix  # D -> V; token_embd where the file has no output.weight ("tied")


def choose(file: GGUF, wanted: str, available: int | None) -> tuple[str, str]:
    """How to hold the matrices of a model: one of WAYS as `wanted`, or for "auto" the fastest that fits, and why.

    Raises MemoryError if what is wanted does not fit: the system would end some process, ours or another.
    """
    needed = {how: _held_bytes(file, how) for how in WAYS}
    if available is None:
        how = WAYS[0] if wanted == "auto" else wanted
        return how, f"{how}, {needed[how] / 1e9:.1f} GB; nobody says how much memory is free"
    free = f"{available / 1e9:.1f} GB of memory are free"
    how = wanted
    if wanted == "auto":
        how = next(how for how in WAYS if needed[how] + RESERVE <= available or how == WAYS[-1])
    if needed[how] > available:
        reserve = dict.fromkeys(WAYS[:-1], RESERVE)  # the last resort must do without
        smaller = [less for less in WAYS[WAYS.index(how) + 1 :] if needed[less] + reserve.get(less, 0) <= available]
        advice = f"; take --weights {smaller[0]}" if smaller else ""
        raise MemoryError(f"{file.path}: takes {needed[how] / 1e9:.1f} GB as {how}, and {free}{advice}")
    larger = WAYS[: WAYS.index(how)] if wanted == "auto" else ()
    more = "".join(f", {other} would take {needed[other] / 1e9:.1f} GB" for other in larger)
    return how, f"{how}, {needed[how] / 1e9:.1f} GB: {free}{more}"


def _held_bytes(file, how):
    """The memory that all matrices of a model take; an embedding that is not the output matrix too stays in the map."""
    looked_up = {"position_embd.weight"} | ({"token_embd.weight"} if "output.weight" in file.tensors else set())
    return sum(
        held_bytes(t, "float32" if re.fullmatch(EXPANDED, t.name) else how)
        for t in file.tensors.values()
        if len(t.shape) > 1 and t.name not in looked_up
    )


def map_weights(file: GGUF, config: Config, context_length: int, how: str) -> tuple[Weights, list[Job]]:
    """The weights of a model, held as one of holding.WAYS, still empty, and the jobs with which `holding.filling` fills
    them.

    Raises ModelFileError for a missing or unused tensor or a wrong shape, UnsupportedModel for a type we cannot expand.
    """
    tensors = _Tensors(file, how)
    D, V = config.d_model, config.vocab_size
    has_positions = config.family.positions
    weights = Weights(
        token_embd=tensors.take("token_embd.weight", (V, D)),
        position_embd=tensors.take("position_embd.weight", (config.context_length, D)) if has_positions else None,
        rope_factors=_rope_factors(tensors, config, context_length),
        layers=tuple(_map_layer(tensors, config, i) for i in range(config.n_layers)),
        output_norm=_norm(tensors, "output_norm", config),
        output=tensors.matrix("output" if "output.weight" in file.tensors else "token_embd", D, V),
    )
    tensors.refuse_unused(config)
    return weights, tensors.jobs


def _rope_factors(tensors, config, context_length):
    """What divides RoPE's frequencies: rope_freqs (Llama 3.1), or one of two sets (longrope, arXiv:2402.13753):
    the long one if the context asked for is longer than the one the model was first trained on."""
    rope = next((layer.rope for layer in config.layers if layer.rope), None)
    if rope is None:
        return None
    if "rope_factors_long.weight" not in tensors.file.tensors:
        return tensors.vector("rope_freqs", rope.n_rot // 2, optional=True)
    short, long = (tensors.vector(f"rope_factors_{name}", rope.n_rot // 2) for name in ("short", "long"))
    return long if context_length > config.original_context else short


def _norm(tensors, name, config, present=True):
    if not present:
        return None
    bias = tensors.vector(name, config.d_model, suffix=".bias") if config.family.norm_bias else None
    return Norm(tensors.vector(name, config.d_model), bias)


def _map_layer(tensors, config, i):
    blk, family = f"blk.{i}.", config.family
    pre, post = family.norms != "post", family.norms != "pre"
    return Layer(
        attn_norm=_norm(tensors, blk + "attn_norm", config, pre),
        attn=(_map_attention if config.latent is None else _map_latent)(tensors, config, blk),
        post_attention_norm=_norm(tensors, blk + "post_attention_norm", config, post),
        ffn_norm=_norm(tensors, blk + family.ffn_norm, config, pre and not family.parallel),
        ffn=(_map_ffn if config.layers[i].experts is None else _map_mixture)(tensors, config, config.layers[i], blk),
        post_ffw_norm=_norm(tensors, blk + "post_ffw_norm", config, post),
    )


def _map_attention(tensors, config, blk):
    D, N, K, H, V = config.d_model, config.n_heads, config.n_kv_heads, config.key_length, config.value_length
    normed = {"head": ((H,), (H,)), "own gain": ((N, H), (K, H)), "row": ((N * H,), (K * H,))}.get(config.qk_norm)
    gains = [
        np.broadcast_to(tensors.vector(f"{blk}attn_{x}_norm", *shape).reshape(-1, H), (n_heads, H))
        for x, n_heads, shape in zip("qk", (N, K), normed or (), strict=False)
    ]
    return Attention(
        attn_qkv=tensors.fused(blk, "attn_qkv", D, {"attn_q": N * H, "attn_k": K * H, "attn_v": K * V}),
        attn_qk_norm=np.concatenate(gains) if normed else None,
        attn_sinks=tensors.vector(blk + "attn_sinks", N) if config.family.sinks else None,
        attn_output=tensors.matrix(blk + "attn_output", N * V, D),
    )


def _map_latent(tensors, config, blk):
    D, N, H, V = config.d_model, config.n_heads, config.key_length, config.value_length
    Q, C, n_rot = config.latent.query_rank, config.latent.rank, config.layers[0].rope.n_rot
    P = H - n_rot
    if config.latent.split:
        k_b_NCP = tensors.array(blk + "attn_k_b", N, C, P)
        v_b_NVC = tensors.array(blk + "attn_v_b", N, V, C)
    else:  # one matrix for both
        kv_b_NFC = tensors.array(blk + "attn_kv_b", N * (P + V), C).reshape(N, P + V, C)
        k_b_NCP, v_b_NVC = kv_b_NFC[:, :P].swapaxes(1, 2), kv_b_NFC[:, P:]
    return LatentAttention(
        attn_q_a=tensors.matrix(blk + "attn_q_a", D, Q) if Q else None,
        attn_q_a_norm=tensors.vector(blk + "attn_q_a_norm", Q) if Q else None,
        attn_q_b=tensors.matrix(blk + "attn_q_b", Q, N * H) if Q else tensors.matrix(blk + "attn_q", D, N * H),
        attn_kv_a_mqa=tensors.matrix(blk + "attn_kv_a_mqa", D, C + n_rot),
        attn_kv_a_norm=tensors.vector(blk + "attn_kv_a_norm", C),
        attn_k_b=k_b_NCP,
        attn_v_b=v_b_NVC,
        attn_output=tensors.matrix(blk + "attn_output", N * V, D),
    )


def _map_ffn(tensors, config, layer, blk, suffix="", n_ff=None):
    D, F = config.d_model, n_ff or layer.n_ff
    gated = {f"ffn_gate{suffix}": F, f"ffn_up{suffix}": F}
    return FeedForward(
        ffn_up=tensors.fused(blk, f"ffn_up{suffix}", D, gated if config.family.gated else {f"ffn_up{suffix}": F}),
        ffn_down=tensors.matrix(f"{blk}ffn_down{suffix}", F, D),
    )


def _map_mixture(tensors, config, layer, blk):
    D, E, F, F_shared = config.d_model, layer.experts.count, layer.experts.n_ff, layer.experts.n_ff_shared
    gate = config.family.shared_gate and F_shared
    return Mixture(
        ffn_gate_inp=tensors.matrix(blk + "ffn_gate_inp", D, E),
        exp_probs_b=tensors.vector(blk + "exp_probs_b", E, optional=True, suffix=".bias"),
        ffn_up_exps=tensors.experts(blk, "ffn_gate_up_exps", E, D, {"ffn_gate_exps": F, "ffn_up_exps": F}),
        ffn_down_exps=tensors.experts(blk, "ffn_down_exps", E, F, {"ffn_down_exps": D}),
        shared=_map_ffn(tensors, config, layer, blk, "_shexp", F_shared) if F_shared else None,
        ffn_gate_inp_shexp=tensors.column(blk + "ffn_gate_inp_shexp", D) if gate else None,
    )


class _Tensors:
    """Hands out the file's tensors by name; keeps account of which were taken and which matrices are to be filled."""

    def __init__(self, file: GGUF, how: str):
        self.file, self.how = file, how
        self.taken: set[str] = set()
        self.jobs: list[Job] = []

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name, which must have that shape."""
        tensor = self.file.tensors.get(name)
        if tensor is None:
            raise ModelFileError(f"{self.file.path}: tensor {name!r} is missing; is the file whole?")
        if tensor.shape != shape:
            raise ModelFileError(
                f"{tensor.path}: tensor {name!r} has shape {tensor.shape}; the metadata asks for {shape}"
            )
        if tensor.type not in SUPPORTED:
            known = ", ".join(sorted(SUPPORTED))
            raise UnsupportedModel(f"{tensor.path}: tensor {name!r} has type {tensor.type}; we can expand {known}")
        self.taken.add(name)
        return tensor

    def vector(self, name: str, *shape: int, optional: bool = False, suffix: str = ".weight") -> np.ndarray | None:
        """A small tensor in float32; None where it is optional and the file has no such."""
        if optional and name + suffix not in self.file.tensors:
            return None
        tensor = self.take(name + suffix, shape)
        return dequantize(tensor.data, tensor.type, tensor.byte_order)

    def array(self, name: str, *shape: int) -> np.ndarray:
        """A tensor in float32, however matrices are held."""
        whole = np.empty(shape, np.float32)
        self.jobs += fill_jobs(self.take(f"{name}.weight", shape).matrix, whole.reshape(-1, shape[-1]))
        return whole

    def column(self, name: str, n_in: int) -> Matrix:
        """A vector as a matrix (1, in)."""
        return Matrix(n_in, 1, self.vector(name, n_in)[None])

    def matrix(self, name: str, n_in: int, n_out: int) -> Matrix:
        """A matrix (out, in), with its bias if the file has one."""
        return self.fused("", name, n_in, {name: n_out})

    def fused(self, prefix: str, whole: str, n_in: int, parts: dict[str, int]) -> Matrix:
        """The matrices `parts` (name: outputs) as one; the file may hold them as one already, `whole`."""
        tensors = self._pieces(prefix, whole, (), n_in, parts)
        return self._matrix(tensors, n_in, self._bias(prefix, whole, (), parts))

    def experts(self, prefix: str, whole: str, count: int, n_in: int, parts: dict[str, int]) -> list[Matrix]:
        """The same for each of `count` experts, which the file holds in one tensor a part."""
        biases = self._bias(prefix, whole, (count,), parts)
        tensors = self._pieces(prefix, whole, (count,), n_in, parts)
        return [
            self._matrix([tensor.part(e) for tensor in tensors], n_in, None if biases is None else biases[e])
            for e in range(count)
        ]

    def _matrix(self, tensors, n_in, bias):
        held, jobs = hold(tensors, self.how)
        self.jobs += jobs
        return Matrix(n_in, sum(tensor.shape[0] for tensor in tensors), held, bias)

    def _pieces(self, prefix, whole, lead, n_in, parts):
        """The tensors (*lead, out, in) that make up a matrix, or one for each expert: one a part, or `whole` alone."""
        n_out, fused = sum(parts.values()), self.file.tensors.get(f"{prefix}{whole}.weight")
        pieces = {whole: n_out} if fused is not None and fused.shape == (*lead, n_out, n_in) else parts
        return [self.take(f"{prefix}{name}.weight", (*lead, outputs, n_in)) for name, outputs in pieces.items()]

    def _bias(self, prefix, whole, lead, parts):
        """The biases of the parts as one row, zero for a part that has none; None where none has."""
        n_out, names = sum(parts.values()), [f"{prefix}{name}.bias" for name in parts]
        fused = self.file.tensors.get(f"{prefix}{whole}.bias")
        if fused is not None and fused.shape == (*lead, n_out):
            return self.vector(prefix + whole, *lead, n_out, suffix=".bias")
        if not any(name in self.file.tensors for name in names):
            return None
        rows = [self.vector(prefix + name, *lead, n, optional=True, suffix=".bias") for name, n in parts.items()]
        zeros = [np.zeros((*lead, n), np.float32) for n in parts.values()]
        return np.concatenate([zero if row is None else row for row, zero in zip(rows, zeros, strict=True)], axis=-1)

    def refuse_unused(self, config: Config) -> None:
        """A tensor that nothing reads means that the model is not the one we would compute."""
        spare = tuple(f"blk.{i}." for i in range(config.n_layers, config.n_layers + config.n_spare_layers))
        unused = [
            name
            for name in self.file.tensors
            if name not in self.taken
            and not name.startswith(spare)
            and not any(re.fullmatch(pattern, name) for pattern in NEVER_NEEDED)
        ]
        if unused:
            more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
            raise ModelFileError(
                f"{self.file.path}: nothing in this architecture reads tensor {', '.join(map(repr, unused[:3]))}{more};"
                " the text would be wrong without it"
            )
