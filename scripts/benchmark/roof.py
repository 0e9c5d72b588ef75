"""The roof: a model's own matrix products with nothing between them. No engine that uses them can be faster.

The embedding is looked up, never multiplied, and is not part of it; nor are latent attention's small products
per head.
"""

from dataclasses import fields, is_dataclass

import numpy as np

from llmcore.ffn.experts import Experts
from llmcore.linear import Matrix, linear


def matrices(weights) -> list[tuple[str, Matrix | list[Matrix]]]:
    """Every matrix that a token is multiplied by, by name, in order; the experts of a layer are a list."""
    return [found for layer in weights.layers for found in _walk("", layer)] + [("output", weights.output)]


def _walk(name, value):
    if isinstance(value, Matrix) or (isinstance(value, list) and value and isinstance(value[0], Matrix)):
        yield name, value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _walk(field.name, getattr(value, field.name))


def multiplied(llm, n_rows) -> list[tuple[Matrix, int]]:
    """Each matrix that one pass over n_rows tokens multiplies, and by how many rows.

    The head is multiplied by the last row only. Tokens spread evenly over experts: one token uses
    experts_used of them.
    """
    used = next((plan.ffn.used for plan in llm.config.layers if isinstance(plan.ffn, Experts)), None)
    found = []
    for name, value in matrices(llm.weights):
        if name == "output":
            found.append((value, 1))
        elif isinstance(value, Matrix):
            found.append((value, n_rows))
        else:
            n_busy = min(len(value), n_rows * used)
            found += [(matrix, -(-n_rows * used // n_busy)) for matrix in value[:n_busy]]
    return found


def work(llm) -> dict:
    """One token's work: multiply-adds in the layers and in the head, and the bytes of their matrices."""
    one_row = [matrix for matrix, _ in multiplied(llm, 1)]
    return {
        "layer_weights": sum(matrix.n_in * matrix.n_out for matrix in one_row[:-1]),
        "head_weights": one_row[-1].n_in * one_row[-1].n_out,
        "held_bytes": sum(held_bytes(matrix) for matrix in one_row),
    }


def held_bytes(value) -> int:
    """Bytes of the arrays that an object is made of."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, list | tuple):
        return sum(map(held_bytes, value))
    return (
        sum(held_bytes(getattr(value, field.name)) for field in fields(value)) if is_dataclass(value) else 0
    )


def products(llm, n_rows) -> list[tuple[np.ndarray, Matrix]]:
    """The products of one pass, (x, matrix) with random x; those of equal shape share it."""
    rng, inputs = np.random.default_rng(0), {}
    ready = []
    for matrix, n in multiplied(llm, n_rows):
        key = n, matrix.n_in
        if key not in inputs:
            inputs[key] = rng.standard_normal(key, dtype=np.float32)
        ready.append((inputs[key], matrix))
    return ready


def run(ready) -> None:
    """Multiply them all, once."""
    for x_TI, matrix in ready:
        linear(x_TI, matrix)
