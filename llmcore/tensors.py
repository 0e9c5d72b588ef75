"""Hands out the tensors of a file by name: none missing, none of another shape, none left over."""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import dropwhile

import numpy as np

from .errors import ModelFileError, UnsupportedModel
from .formats.mistaken import why_unread
from .linear import Held, Job, Matrix, fill_jobs
from .loader import GGUF, Tensor
from .quants import SUPPORTED, dequantize

# Tensors that inference never needs, and why; any other tensor that nothing reads is refused.
NEVER_NEEDED = {
    r"blk\.\d+\.attn_rot_embd\.weight": "RoPE's frequencies, which metadata gives too",
    r"blk\.0\.time_mix_v[012]\.weight": "the part of the first block's values: it is the first",
}


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the leading dimensions of 1, which llama.cpp loses when it writes a file anew.

    >>> without_ones((1, 1, 48)), without_ones((48, 1))
    ((48,), (48, 1))
    """
    return tuple(dropwhile(lambda n: n == 1, shape[:-1])) + shape[-1:]


class Tensors:
    """Hands out a file's tensors by name; knows which were taken, and which matrices are to be filled."""

    def __init__(self, file: GGUF, empty: Callable[[list[Tensor]], tuple[Held, list[Job]]]):
        """`empty` makes room for matrices, in the way they shall be held, and the jobs that fill it."""
        self.file, self.empty = file, empty
        self.taken: set[str] = set()
        self.jobs: list[Job] = []

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name, which must have that shape."""
        tensor = self.file.tensors.get(name)
        if tensor is None:
            raise ModelFileError(f"{self.file.path}: tensor {name!r} is missing; is the file whole?")
        if without_ones(tensor.shape) != without_ones(shape):
            raise ModelFileError(
                f"{tensor.path}: tensor {name!r} has shape {tensor.shape}; the metadata asks for {shape}"
            )
        if tensor.type not in SUPPORTED:
            known = ", ".join(sorted(SUPPORTED))
            raise UnsupportedModel(
                f"{tensor.path}: tensor {name!r} has type {tensor.type}; we can expand {known}"
            )
        self.taken.add(name)
        return replace(tensor, shape=shape, data=tensor.data.reshape(*shape[:-1], -1))

    def has(self, *names: str) -> bool:
        """Whether the file has one of these tensors."""
        return not self.file.tensors.keys().isdisjoint(names)

    def pass_over(self, *beginnings: str) -> None:
        """Tensors that the file may have and this layer does not need."""
        self.taken |= {name for name in self.file.tensors if name.startswith(beginnings)}

    def vector(
        self, name: str, *shape: int, optional: bool = False, suffix: str = ".weight"
    ) -> np.ndarray | None:
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

    def matrix(self, name: str, n_in: int, n_out: int) -> Matrix:
        """A matrix (out, in), with its bias if the file has one."""
        return self.fused("", name, n_in, {name: n_out})

    def fused(self, prefix: str, whole: str, n_in: int, parts: dict[str, int]) -> Matrix:
        """The matrices `parts` (name: outputs) as one; the file may hold them as one already, `whole`."""
        tensors = self._pieces(prefix, whole, (), n_in, parts)
        return self._matrix(tensors, n_in, self._bias(prefix, whole, (), parts))

    def experts(self, prefix: str, whole: str, count: int, n_in: int, parts: dict[str, int]) -> list[Matrix]:
        """The same for each of `count` experts, which the file holds in one tensor a part.

        Files of before April 2024 hold one a part and expert: ffn_up.7 is the eighth expert of ffn_up_exps.
        """
        old = {part: f"{prefix}{part.removesuffix('_exps')}" for part in parts}
        if all(f"{name}.0.weight" in self.file.tensors for name in old.values()):
            matrices = [
                [self.take(f"{old[part]}.{e}.weight", (outputs, n_in)) for part, outputs in parts.items()]
                for e in range(count)
            ]
        else:
            tensors = self._pieces(prefix, whole, (count,), n_in, parts)
            matrices = [[tensor.part(e) for tensor in tensors] for e in range(count)]
        biases = self._bias(prefix, whole, (count,), parts)
        return [
            self._matrix(m, n_in, None if biases is None else biases[e], (e, count))
            for e, m in enumerate(matrices)
        ]

    def _matrix(self, tensors, n_in, bias, which=(0, 1)):
        held, jobs = self.empty(tensors)
        self.jobs += jobs
        n_out = sum(tensor.shape[0] for tensor in tensors)
        return Matrix(n_in, n_out, held, bias, self._scale(tensors, *which))

    def _scale(self, tensors, e, count):
        """The factor of each output, (out,), where the file has a number for a whole tensor, or an expert."""
        scales = [f"{tensor.name.removesuffix('.weight')}.scale" for tensor in tensors]
        found = {
            name: self.vector(name, count, suffix="")[e]
            for name in scales
            if self.has(name) and without_ones(self.file.tensors[name].shape) == (count,)
        }
        if not found:
            return None
        rows = [tensor.shape[0] for tensor in tensors]
        return np.repeat(np.array([found.get(name, 1) for name in scales], np.float32), rows)

    def _pieces(self, prefix, whole, lead, n_in, parts):
        """The tensors (*lead, out, in) of a matrix, or one for each expert: one a part, or `whole` alone."""
        n_out, fused = sum(parts.values()), self.file.tensors.get(f"{prefix}{whole}.weight")
        pieces = {whole: n_out} if fused is not None and fused.shape == (*lead, n_out, n_in) else parts
        return [
            self.take(f"{prefix}{name}.weight", (*lead, outputs, n_in)) for name, outputs in pieces.items()
        ]

    def _bias(self, prefix, whole, lead, parts):
        """The biases of the parts as one row, zero for a part that has none; None where none has."""
        n_out, names = sum(parts.values()), [f"{prefix}{name}.bias" for name in parts]
        fused = self.file.tensors.get(f"{prefix}{whole}.bias")
        if fused is not None and fused.shape == (*lead, n_out):
            return self.vector(prefix + whole, *lead, n_out, suffix=".bias")
        if not any(name in self.file.tensors for name in names):
            return None
        rows = [
            self.vector(prefix + name, *lead, n, optional=True, suffix=".bias") for name, n in parts.items()
        ]
        zeros = [np.zeros((*lead, n), np.float32) for n in parts.values()]
        return np.concatenate(
            [zero if row is None else row for row, zero in zip(rows, zeros, strict=True)], axis=-1
        )

    def refuse_unused(self, spare: tuple[str, ...]) -> None:
        """A tensor that nothing reads means that the model is not the one we would compute.

        `spare` are the beginnings of names that may go unread.
        """
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
                f"{self.file.path}: nothing in this architecture reads tensor"
                f" {', '.join(map(repr, unused[:3]))}{more}{why_unread(unused)}"
            )
