"""The small mathematics against numbers worked out by hand, or with Python's own math on single numbers."""

import math

import numpy as np
import pytest

from llmcore import ops
from llmcore.ffn import activations
from llmcore.mixers import rope


def test_rms_norm_of_3_4():
    # mean square (9 + 16) / 2 = 12.5; with eps 3.5 its root is 4
    np.testing.assert_array_equal(ops.rms_norm(np.float32([[3, 4]]), np.float32([2, 8]), 3.5), [[1.5, 8]])


def test_softmax_does_not_overflow():
    np.testing.assert_allclose(ops.softmax(np.float32([1000, 1000 + math.log(3)])), [0.25, 0.75], rtol=1e-4)


def test_softmax_gives_hidden_places_nothing():
    np.testing.assert_array_equal(ops.softmax(np.float32([-np.inf, 5, -np.inf])), [0, 1, 0])


def test_log_softmax_is_the_logarithm():
    np.testing.assert_allclose(
        ops.log_softmax(np.array([0.0, math.log(3)])), [math.log(0.25), math.log(0.75)]
    )


@pytest.mark.parametrize("x", [-100.0, -3.0, -0.1, 0.0, 0.7, 4.0, 100.0])
@pytest.mark.parametrize("up", [-9.0, 0.5, 8.0])
def test_activations(x, up):
    def sigmoid(z):
        return 1 / (1 + math.exp(-z))

    gelu = 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    clamped = min(x, 7) * sigmoid(1.702 * min(x, 7)) * (max(-7, min(7, up)) + 1)
    gate_1, up_1 = np.float32([x]), np.float32([up])
    np.testing.assert_allclose(ops.sigmoid(gate_1), [sigmoid(x)], rtol=1e-5, atol=1e-38)
    np.testing.assert_allclose(activations.gelu(gate_1), [gelu], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        activations.ACTIVATIONS["swiglu"](gate_1, up_1), [x * sigmoid(x) * up], rtol=1e-5, atol=1e-38
    )
    np.testing.assert_allclose(
        activations.ACTIVATIONS["geglu"](gate_1, up_1), [gelu * up], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        activations.ACTIVATIONS["swiglu_clamped"](gate_1, up_1), [clamped], rtol=1e-5, atol=1e-38
    )
    assert gate_1 == x  # the arguments stay as they are


def test_layer_norm_of_1_7():
    # mean 4, variance 9; with eps 7 the root is 4
    x = np.float32([[1, 7]])
    np.testing.assert_array_equal(ops.layer_norm(x, np.float32([4, 8]), np.float32([1, 2]), 7.0), [[-2, 8]])
    np.testing.assert_array_equal(ops.layer_norm(x, np.float32([4, 8]), None, 7.0), [[-3, 6]])


def test_softcap_leaves_small_numbers_and_keeps_large_ones():
    want = [0.1 - 0.1**3 / 3 / 900, 30, -30]
    np.testing.assert_allclose(ops.softcap(np.float32([0.1, 1e6, -1e6]), 30.0), want, rtol=1e-6)


def rotated(x, position, base, pairs, n_rot, divide=1.0, gain=1.0):
    """RoPE of one head, pair by pair, with complex numbers."""
    x = list(x)
    for i in range(n_rot // 2):
        a, b = (2 * i, 2 * i + 1) if pairs == "adjacent" else (i, i + n_rot // 2)
        angle = position * base ** (-2 * i / n_rot) / divide
        rotated_pair = complex(x[a], x[b]) * complex(math.cos(angle), math.sin(angle)) * gain
        x[a], x[b] = rotated_pair.real, rotated_pair.imag
    return x


@pytest.mark.parametrize("pairs", ["adjacent", "halves"])
@pytest.mark.parametrize("n_rot", [8, 6])
def test_rope_rotates_each_pair_by_its_angle(pairs, n_rot):
    plan = rope.Rope(n_rot, pairs, base=100.0, factor=4.0, gain=1.5)
    x_TNH = np.random.default_rng(0).standard_normal((3, 2, 8)).astype(np.float32)
    positions = [0, 5, 77]
    out = rope.rotate(x_TNH, rope.rope_table(plan, np.array(positions)), pairs)
    want = [
        [rotated(x, p, 100.0, pairs, n_rot, 4.0, 1.5) for x in x_NH]
        for x_NH, p in zip(x_TNH, positions, strict=True)
    ]
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)


def test_rope_factors_divide_the_angles():
    plan = rope.Rope(4, "halves", base=100.0)
    rotations_TR = rope.rope_table(plan, np.array([3]), np.float32([2, 5]))
    np.testing.assert_allclose(rotations_TR.real, [[math.cos(3 / 2), math.cos(3 * 0.1 / 5)]], rtol=1e-6)


def test_yarn_keeps_fast_pairs_and_stretches_slow_ones():
    # Pairs go round base^(-2i/n_rot) / 2 pi times a token: with 64 dimensions and base 10000 pair 0 goes
    # round 652 times within 4096 tokens and pair 31 a twelfth of a time, so one keeps its frequency and the
    # other is divided by the factor.
    plan = rope.Rope(64, "halves", base=10000.0, factor=8.0, yarn_context=4096)
    rotations_TR = rope.rope_table(plan, np.array([1]))
    angles_R = np.arctan2(rotations_TR[0].imag, rotations_TR[0].real)
    np.testing.assert_allclose(angles_R[0], 1, rtol=1e-6)
    np.testing.assert_allclose(angles_R[31], 10000 ** (-62 / 64) / 8, rtol=1e-5)
