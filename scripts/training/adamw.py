"""How far to go along a gradient: AdamW, the learning rate's course, and a limit on the gradient's length."""

import math

import numpy as np

BETA1, BETA2, EPS = 0.9, 0.98, 1e-8
WEIGHT_DECAY = 0.1
LARGEST_NORM = 1.0
WARM_UP = 0.05  # share of all steps


def adamw(params, grads, means, squares, step: int, rate: float) -> None:
    """One step of AdamW, in place; steps count from 1. Loshchilov & Hutter 2019, arXiv:1711.05101.

    m = b1 m + (1 - b1) g            the gradient's running mean: where to go
    v = b2 v + (1 - b2) g^2          and that of its square: how much it varies
    w = w - rate (m' / (sqrt(v') + eps) + decay w),   m' = m / (1 - b1^step), v' = v / (1 - b2^step)

    m' and v' undo that both running means begin at zero. Only matrices decay: a norm's gain has no reason to
    be small.
    """
    unbias_mean, unbias_square = 1 / (1 - BETA1**step), 1 / (1 - BETA2**step)
    for name, w in params.items():
        g, m, v = grads[name], means[name], squares[name]
        m += (1 - BETA1) * (g - m)
        v += (1 - BETA2) * (g * g - v)
        if w.ndim == 2:
            w *= 1 - rate * WEIGHT_DECAY
        w -= (rate * unbias_mean) * m / (np.sqrt(v * unbias_square) + EPS)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Of step 1 ... steps: a straight line up to `peak`, then half a cosine down to a tenth of it.
    arXiv:1608.03983.
    """
    warm_up = max(1, round(WARM_UP * steps))
    if step <= warm_up:
        return peak * step / warm_up
    progress = (step - warm_up) / (steps - warm_up)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def clip(grads) -> float:
    """Scale all gradients together, in place, to a length of at most LARGEST_NORM; returns the length they
    had.

    One strange batch then moves the model no further than others. Pascanu et al. 2013, arXiv:1211.5063.
    """
    norm = math.sqrt(sum(float(np.vdot(g, g)) for g in grads.values()))
    if norm > LARGEST_NORM:
        for g in grads.values():
            g *= LARGEST_NORM / norm
    return norm
