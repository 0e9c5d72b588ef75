"""What recurrent mixers have in common: a short convolution over the last few tokens.

Shape key: T new tokens, C channels, W width of the convolution, S = W - 1 + T.
"""

import numpy as np


def softplus(x):
    """log(1 + e^x), which is near 0 far below 0 and near x far above."""
    return np.logaddexp(np.float32(0), x)


def causal_conv(x_TC, before_WC, kernel_CW, bias_C=None):
    """Each channel as a weighted sum of its last W numbers: y_t = sum_w kernel_w x_(t - W + 1 + w) + bias.

    before_WC are the W - 1 rows before x. Returns y (T, C), and the W - 1 rows before what comes next.

    >>> y, before = causal_conv(np.array([[1.0], [10], [100]]), np.array([[5.0]]), np.array([[2.0, 1.0]]))
    >>> y.ravel().tolist(), before.tolist()
    ([11.0, 12.0, 120.0], [[100.0]])
    """
    T, W = len(x_TC), kernel_CW.shape[1]
    rows_SC = np.concatenate([before_WC, x_TC])
    y_TC = rows_SC[:T] * kernel_CW[:, 0]
    for w in range(1, W):
        y_TC += rows_SC[w : w + T] * kernel_CW[:, w]
    if bias_C is not None:
        y_TC += bias_C
    return y_TC, rows_SC[T:].copy()  # a view would keep all rows in memory
