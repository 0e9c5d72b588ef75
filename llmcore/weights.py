"""Tensors of the file -> `Weights`: every matrix and gain under GGUF's own name, none missing, none left over.

Shapes are checked against the config before a byte is expanded. Matrices that multiply the same input are held as one
(query, key and value; gate and up), since one large product is faster than several small ones.
"""

import re
from dataclasses import dataclass

import numpy as np

from .config import Config
from .errors import ModelFileError, UnsupportedModel
from .linear import Matrix
from .loader import GGUF, Tensor
from .quants import SUPPORTED, dequantize

# Tensors that inference never needs, and why; any other tensor that nothing reads is refused.
NEVER_NEEDED = {
    r"blk\.\d+\.attn_rot_embd\.weight": "RoPE's inverse frequencies, which old converters stored; metadata gives them",
}


@dataclass(frozen=True)
class Layer:
    """The weights of one block; None where the family has no such part."""

    attn_norm: np.ndarray  # (D,)
    attn_qkv: Matrix  # (D, (N + K) H + K H): attn_q, attn_k and attn_v side by side
    attn_q_norm: np.ndarray | None  # (H,)
    attn_k_norm: np.ndarray | None  # (H,)
    attn_output: Matrix  # (N H, D)
    post_attention_norm: np.ndarray | None  # (D,)
    ffn_norm: np.ndarray  # (D,)
    ffn_gate_up: Matrix  # (D, 2 F): ffn_gate and ffn_up side by side
    ffn_down: Matrix  # (F, D)
    post_ffw_norm: np.ndarray | None  # (D,)


@dataclass(frozen=True)
class Weights:
    """All the numbers of a model."""

    token_embd: Tensor  # (V, D), left in the file's map: rows are expanded when they are looked up
    layers: tuple[Layer, ...]
    output_norm: np.ndarray  # (D,)
    output: Matrix  # (D, V); the transpose of token_embd where the file has no output.weight ("tied")
    rope_freqs: np.ndarray | None  # (n_rot / 2,): divides RoPE's frequencies (Llama 3.1 and newer)


def map_weights(file: GGUF, config: Config) -> tuple[Weights, list[tuple[Tensor, np.ndarray]]]:
    """The weights of a model, their matrices still empty, and the jobs with which `linear.expanding` fills them.

    Raises ModelFileError for a missing or unused tensor or a wrong shape, UnsupportedModel for a type we cannot expand.
    """
    tensors = _Tensors(file)
    D, V = config.d_model, config.vocab_size
    weights = Weights(
        token_embd=tensors.take("token_embd.weight", (V, D)),
        layers=tuple(_map_layer(tensors, config, i) for i in range(config.n_layers)),
        output_norm=tensors.vector("output_norm", D),
        output=tensors.matrix("output" if "output.weight" in file.tensors else "token_embd", D, V),
        rope_freqs=tensors.vector("rope_freqs", config.layers[0].rope.n_rot // 2, optional=True),
    )
    tensors.refuse_unused()
    return weights, tensors.jobs


def _map_layer(tensors: "_Tensors", config: Config, i: int) -> Layer:
    D, F, H = config.d_model, config.layers[i].n_ff, config.key_length
    n_q, n_k, n_v = config.n_heads * H, config.n_kv_heads * H, config.n_kv_heads * config.value_length
    blk = f"blk.{i}."

    def vector(name, size, present=True):
        return tensors.vector(blk + name, size) if present else None

    return Layer(
        attn_norm=vector("attn_norm", D),
        attn_qkv=tensors.fused(blk, "attn_qkv", D, {"attn_q": n_q, "attn_k": n_k, "attn_v": n_v}),
        attn_q_norm=vector("attn_q_norm", H, config.qk_norm),
        attn_k_norm=vector("attn_k_norm", H, config.qk_norm),
        attn_output=tensors.matrix(blk + "attn_output", config.n_heads * config.value_length, D),
        post_attention_norm=vector("post_attention_norm", D, config.post_norms),
        ffn_norm=vector("ffn_norm", D),
        ffn_gate_up=tensors.fused(blk, "ffn_gate_up", D, {"ffn_gate": F, "ffn_up": F}),
        ffn_down=tensors.matrix(blk + "ffn_down", F, D),
        post_ffw_norm=vector("post_ffw_norm", D, config.post_norms),
    )


class _Tensors:
    """Hands out the file's tensors by name; keeps account of which were taken and which matrices are to be filled."""

    def __init__(self, file: GGUF):
        self.file = file
        self.taken: set[str] = set()
        self.jobs: list[tuple[Tensor, np.ndarray]] = []

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

    def vector(self, name: str, size: int, optional: bool = False, suffix: str = ".weight") -> np.ndarray | None:
        """A small tensor (size,) in float32; None where the file has no such tensor and need not."""
        if optional and name + suffix not in self.file.tensors:
            return None
        tensor = self.take(name + suffix, (size,))
        return dequantize(tensor.data, tensor.type, tensor.byte_order)

    def matrix(self, name: str, n_in: int, n_out: int) -> Matrix:
        """A matrix (in, out), with its bias if the file has one."""
        return self.fused("", name, n_in, {name: n_out})

    def fused(self, prefix: str, whole: str, n_in: int, parts: dict[str, int]) -> Matrix:
        """The matrices `parts` (name: columns) side by side as one; the file may hold them as one already, `whole`."""
        n_out = sum(parts.values())
        pieces = {whole: n_out} if f"{prefix}{whole}.weight" in self.file.tensors else parts
        taken = [self.take(f"{prefix}{name}.weight", (columns, n_in)) for name, columns in pieces.items()]
        weight_IO = np.empty((n_in, n_out), np.float32)
        start = 0
        for tensor in taken:
            self.jobs.append((tensor, weight_IO[:, start : start + len(tensor.data)]))
            start += len(tensor.data)
        return Matrix(weight_IO, self._fused_bias(prefix, whole, parts))

    def _fused_bias(self, prefix, whole, parts):
        """The biases of the parts as one row, zero for a part that has none; None where none has."""
        bias = self.vector(prefix + whole, sum(parts.values()), optional=True, suffix=".bias")
        if bias is not None or all(f"{prefix}{name}.bias" not in self.file.tensors for name in parts):
            return bias
        rows = [self.vector(prefix + name, n, optional=True, suffix=".bias") for name, n in parts.items()]
        return np.concatenate(
            [np.zeros(n, np.float32) if row is None else row for row, n in zip(rows, parts.values(), strict=True)]
        )

    def refuse_unused(self) -> None:
        """A tensor that nothing reads means that the model is not the one we would compute."""
        unused = [
            name
            for name in self.file.tensors
            if name not in self.taken and not any(re.fullmatch(pattern, name) for pattern in NEVER_NEEDED)
        ]
        if unused:
            more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
            raise ModelFileError(
                f"{self.file.path}: nothing in this architecture reads tensor {', '.join(map(repr, unused[:3]))}{more};"
                " the text would be wrong without it"
            )
