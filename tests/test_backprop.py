"""Gradients against finite differences, and against torch's automatic differentiation
(tests/record_autograd.py).
"""

import numpy as np
import pytest
from conftest import DATA
from training import adamw, backprop
from training.archive import model_keys, shapes

from llmcore.config import read_config

IDS = np.array([[1, 5, 9, 5, 16, 2], [1, 3, 2, -1, -1, -1], [1, 7, 7, 0, 11, -1]])


@pytest.fixture(scope="module")
def recorded():
    """Loss, gradients, and what they are of: weights and config in the sizes of the recipe."""
    with np.load(DATA / "autograd.npz") as file:
        record = {name: file[name] for name in file.files}
    weights, grads = (
        {name.removeprefix(kind): array for name, array in record.items() if name.startswith(kind)}
        for kind in ("weight ", "grad ")
    )
    keys = model_keys(layers=2, width=12, heads=6, kv_heads=2, ff=10, context=8)
    keys |= {"llama.vocab_size": 17, "llama.rope.dimension_count": 4}
    keys |= {"llama.attention.key_length": 4, "llama.attention.value_length": 4}
    return record["loss"], record["ids"], weights, grads, read_config(keys, "recorded")


def in_precision(params, dtype):
    return {name: array.astype(dtype) for name, array in params.items()}


def test_loss_and_gradients_are_those_of_torch(recorded):
    expected_loss, ids, weights, expected, config = recorded
    loss, grads = backprop.loss_and_gradients(in_precision(weights, float), config, ids)
    assert loss == pytest.approx(float(expected_loss), rel=1e-7)
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        assert grad.dtype == float
        np.testing.assert_allclose(grad, expected[name], rtol=1e-6, atol=1e-6 * np.abs(expected[name]).max())


def test_float32_gradients_are_those_of_torch(recorded):
    expected_loss, ids, weights, expected, config = recorded
    loss, grads = backprop.loss_and_gradients(weights, config, ids)
    assert loss == pytest.approx(float(expected_loss), rel=1e-5)
    for name, grad in grads.items():
        assert grad.dtype == np.float32
        np.testing.assert_allclose(grad, expected[name], atol=1e-5 * np.abs(expected[name]).max())


def small_model():
    keys = model_keys(layers=2, width=8, heads=4, kv_heads=2, ff=6, context=8) | {"llama.vocab_size": 17}
    rng = np.random.default_rng(3)
    params = {name: rng.normal(0.3, 0.6, shape) for name, shape in shapes(keys).items()}
    return params, read_config(keys, "small")


def test_every_gradient_is_a_difference_quotient():
    """(8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h in float64, whose error is of order h^4."""
    params, config = small_model()
    _, grads = backprop.loss_and_gradients(params, config, IDS)
    h = 1e-3
    for name, array in params.items():
        quotients = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            kept, at = array[place], {}
            for steps in (-2, -1, 1, 2):
                array[place] = kept + steps * h
                at[steps] = backprop.losses(params, config, IDS).mean()
            array[place] = kept
            quotients[place] = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
        error = np.linalg.norm(grads[name] - quotients) / np.linalg.norm(quotients)
        assert error < 1e-6, name
        np.testing.assert_allclose(grads[name], quotients, rtol=1e-6, atol=1e-8, err_msg=name)


def test_loss_is_the_mean_of_losses():
    params, config = small_model()
    loss, _ = backprop.loss_and_gradients(params, config, IDS)
    each = backprop.losses(params, config, IDS)
    assert len(each) == 5 + 2 + 4
    assert loss == pytest.approx(each.mean())


def test_padding_changes_nothing():
    params, config = small_model()
    wider = np.column_stack([IDS, np.full((3, 4), backprop.PAD)])
    loss, grads = backprop.loss_and_gradients(params, config, IDS)
    wider_loss, wider_grads = backprop.loss_and_gradients(params, config, wider)
    assert wider_loss == pytest.approx(loss, rel=1e-12)
    for name, grad in grads.items():
        np.testing.assert_allclose(wider_grads[name], grad, rtol=1e-9, atol=1e-12)


def test_adamw_is_that_of_torch():
    with np.load(DATA / "autograd.npz") as file:
        of_kind = {
            kind: {name.removeprefix(kind): file[name] for name in file.files if name.startswith(kind)}
            for kind in ("weight ", "grad ", "stepped ")
        }
    params, grads = in_precision(of_kind["weight "], float), of_kind["grad "]
    means, squares = ({name: np.zeros_like(array) for name, array in params.items()} for _ in range(2))
    for step, factor in enumerate((1, -2, 3), start=1):
        adamw.adamw(
            params, {name: factor * grad for name, grad in grads.items()}, means, squares, step, rate=0.01
        )
    for name, array in params.items():
        np.testing.assert_allclose(array, of_kind["stepped "][name], rtol=1e-9, atol=1e-12)


def test_learning_rate_by_hand():
    rates = [adamw.learning_rate(step, 100, 2.0) for step in range(1, 101)]
    np.testing.assert_allclose(rates[:5], [0.4, 0.8, 1.2, 1.6, 2.0])
    assert adamw.learning_rate(105, 200, 2.0) == pytest.approx(1.1)  # half way down, from 2 to 0.2
    assert rates[-1] == pytest.approx(0.2)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert adamw.learning_rate(1, 1, 2.0) == 2.0


def test_clip_by_hand():
    grads = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    assert adamw.clip(grads) == 5
    np.testing.assert_allclose(grads["a"], [0.6, 0])
    np.testing.assert_allclose(grads["b"], [[0.8]])
    assert adamw.clip(grads) == pytest.approx(1)
    np.testing.assert_allclose(grads["a"], [0.6, 0])
