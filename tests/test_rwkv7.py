"""RWKV-7's recurrence against the paper's matrices in float64; test_state_space.py has the rest."""

import numpy as np
import pytest

from llmcore.mixers import rwkv7


@pytest.mark.parametrize("T", [1, 2, 40])
def test_the_scan_is_its_formula(T):
    """S <- S (diag(w) - c (a * c)^T) + v k^T, y = S r, head by head."""
    rng = np.random.default_rng(T)
    r, k, v, c = rng.standard_normal((4, T, 3, 5)).astype(np.float32)
    w, a = rng.uniform(0, 1, (2, T, 3, 5)).astype(np.float32)
    c /= np.linalg.norm(c, axis=-1, keepdims=True)
    before = rng.standard_normal((3, 5, 5)).astype(np.float32)
    copy, want, table = before.copy(), np.zeros((T, 3, 5)), before.astype(np.float64)
    for t in range(T):
        for h in range(3):
            change = np.diag(np.float64(w[t, h])) - np.outer(c[t, h], np.float64(a[t, h]) * c[t, h])
            table[h] = table[h] @ change + np.outer(v[t, h], np.float64(k[t, h]))
            want[t, h] = table[h] @ r[t, h]
    y_THK, s_HKK = rwkv7.scan(r, w, k, v, a, c, before)
    np.testing.assert_allclose(y_THK, want, rtol=0, atol=1e-5 * np.abs(want).max())
    np.testing.assert_allclose(s_HKK, table, rtol=0, atol=1e-5 * np.abs(table).max())
    np.testing.assert_array_equal(before, copy)  # the state before is still needed if a guess was wrong
