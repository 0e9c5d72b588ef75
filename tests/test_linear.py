"""Products with matrices held in each way, against float64 with the weights of the gguf package."""

import numpy as np
import pytest
from blocks import (
    FLOATS,
    HELD,
    SMALL,
    TYPES,
    WORDS,
    assert_same_bits,
    computing_with,
    cut_into_tiles,
    matrix,
    tensor,
)
from hypothesis import given
from hypothesis import strategies as st

from llmcore import linear, threads
from llmcore.speed.int8 import Tile
from llmcore.speed.mapped import FileRows
from llmcore.threads import across_rows

N_ROWS = [1, 2, 3, 7, 8, 9, 16, 65, 200]


@pytest.fixture(autouse=True, params=[1, 2], ids=["1 thread", "2 threads"])
def _threads(request):
    with computing_with(request.param):
        yield


def size_of_terms(m, weights):
    """The sizes (out, in) of what is added up: |w|, or of a matrix as integers |q s| + |o|, whose sum may
    cancel.
    """
    sizes = np.abs(weights.astype(np.float64))
    for part, piece in getattr(m.held, "pieces", ()):
        if isinstance(piece, Tile):
            G, U, C = piece.q_GUC.shape
            terms = np.abs(piece.q_GUC * piece.scale.product().reshape(G, 1, C).astype(np.float64))
            if piece.offset is not None:
                terms += np.abs(piece.offset.product().reshape(G, 1, C))
            sizes[part] = terms.reshape(G * U, C).T
    return sizes


def assert_is_product(m, weights, bias=0):
    """x W^T + b within what rounding can do, whatever the number of rows and however they lie in memory.

    A float32 sum of n terms, added up in any order, is within n u / (1 - n u) of the sum of their sizes, u =
    2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). Four more roundings make q s + o and
    add the bias.
    """
    n_roundings = (m.n_in + 4) * 2.0**-24
    gamma, sizes = n_roundings / (1 - n_roundings), size_of_terms(m, weights)
    for T in N_ROWS:
        x_TI = np.random.default_rng(T).standard_normal((T, m.n_in), np.float32)
        want = x_TI.astype(np.float64) @ weights.astype(np.float64).T + bias
        for x in (x_TI, np.asfortranarray(x_TI)):
            y_TO = linear.linear(x, m)
            assert (y_TO.dtype, y_TO.shape) == (np.float32, (T, m.n_out))
            bound = gamma * (np.abs(x.astype(np.float64)) @ sizes.T + np.abs(bias))
            assert (np.abs(y_TO - want) <= bound).all(), f"{T} rows"


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("way", HELD)
def test_the_product_of_every_type_held_in_every_way(kind, way):
    one, weights = tensor(kind, 37, 512)
    assert_is_product(matrix([one], way), weights)


@pytest.mark.parametrize("kind", ["Q4_1", "Q4_K", "Q6_K", "F16", "IQ3_XXS"])
@pytest.mark.parametrize("way", HELD)
@pytest.mark.parametrize(("tile", "outputs"), SMALL[1:])
def test_tiles_and_runs_of_groups(kind, way, tile, outputs, monkeypatch):
    cut_into_tiles(monkeypatch, tile, outputs)
    one, weights = tensor(kind, 37, 768)
    m = matrix([one], way)
    if way in ("int8", "mapped"):
        assert len(m.held.pieces) > 4
        assert [i for part, _ in m.held.pieces for i in range(part.start, part.stop)] == list(range(37))
        for _, piece in m.held.pieces:
            if isinstance(piece, Tile):
                G, U, C = piece.q_GUC.shape
                assert max(1, tile // (U * C)) < G  # so that groups come in several runs
    assert_is_product(m, weights)


@pytest.mark.parametrize("way", HELD)
@pytest.mark.parametrize(("tile", "outputs"), SMALL)
def test_several_tensors_as_one_matrix_with_a_bias(way, tile, outputs, monkeypatch):
    """A real file has Q4_K for most and Q6_K for attn_v; here F32 and a foreign type stand between."""
    cut_into_tiles(monkeypatch, tile, outputs)
    kinds = {"Q4_K": 21, "Q6_K": 9, "F32": 1, "IQ3_XXS": 5, "Q8_0": 13}
    tensors, weights = zip(*(tensor(kind, n_out, 256) for kind, n_out in kinds.items()), strict=True)
    bias = np.random.default_rng(0).standard_normal(49, np.float32)
    m = matrix(list(tensors), way, bias)
    assert m.n_out == 49
    assert_is_product(m, np.concatenate(weights), bias)
    if way == "int8":
        assert [type(piece) for part, piece in m.held.pieces if part.start in (0, 21, 30, 31, 36)] == [
            *(Tile, Tile, FileRows, FileRows, Tile)
        ]


@pytest.mark.parametrize("kind", [*WORDS, *FLOATS])
@pytest.mark.parametrize("way", HELD)
def test_big_endian(kind, way):
    one, weights = tensor(kind, 11, 256, ">")
    assert_is_product(matrix([one], way), weights)


@pytest.mark.parametrize("way", HELD)
def test_the_product_with_the_identity_is_the_matrix(way):
    one, weights = tensor("Q4_K", 37, 512)
    y_IO = linear.linear(np.eye(512, dtype=np.float32), matrix([one], way))
    # Each sum has one term that is not zero: two roundings make q s + o, whose parts may be larger than the
    # weight.
    bound = 2 * 2.0**-24 * 2 * np.abs(weights.reshape(37, -1, 32)).max(axis=2, keepdims=True)
    assert (np.abs(y_IO.T - weights).reshape(37, -1, 32) <= bound).all()


def test_rows_of_a_mapped_matrix():
    one, weights = tensor("Q6_K", 20, 512)
    ids = np.array([19, 0, 7, 7])
    assert_same_bits(linear.look_up(one, ids), weights[ids])


# Rows across threads


@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 5), st.integers(1, 200))
def test_across_rows_equals_the_plain_call(T, width, other, run):
    def function(x_TX, y_TZ):
        calls.append(len(x_TX))
        return x_TX - x_TX.max(axis=1, keepdims=True) * y_TZ[:, -1:]

    rng, calls = np.random.default_rng(T), []
    x_TX, y_TZ = rng.standard_normal((T, width), np.float32), rng.standard_normal((T, other), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "ROW_RUN", run)
        np.testing.assert_array_equal(across_rows(function, x_TX, y_TZ), function(x_TX, y_TZ))
    *parts, whole = calls
    assert sum(parts) == whole == T
    assert (len(parts) > 1) == (T > 1 and T * width > run)


def test_across_rows_passes_exceptions_on(monkeypatch):
    monkeypatch.setattr(threads, "ROW_RUN", 10)
    x_TX = np.arange(100, dtype=np.float32).reshape(20, 5)

    def function(x_TX):
        if 99 in x_TX:
            raise ArithmeticError("row 19")
        return x_TX + 1

    with pytest.raises(ArithmeticError, match="row 19"):
        across_rows(function, x_TX)
    np.testing.assert_array_equal(across_rows(function, x_TX[:19]), x_TX[:19] + 1)
