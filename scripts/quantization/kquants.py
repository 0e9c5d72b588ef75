"""Quantizers for Q4_K and Q6_K: float32 weights -> blocks of 256, with a search for the scales that fit best.

A block stores small integers; what weights they stand for, llmcore/quants.py says:

    Q4_K    weight = d * scale_g * q - m * min_g    q 0..15     groups of 32    scale_g, min_g 0..63
    Q6_K    weight = d * scale_g * q                q -32..31   groups of 16    scale_g -128..127

d and m are one float16 each for the block. Both searches minimize the plain sum of squared errors, which is
what an RMS error measures, with two steps that each know the best answer to half of the question, and a rule:

    rounding        the scales given: the best q is the nearest one
    least squares   q given: the best scale (and minimum) solves one (or two) linear equations
    keeping         whatever was tried, a group or a block keeps it only where its error is smaller

1. Each group alone, its scale a float. Weights are stretched so that the largest gets the largest q; that is
   a start and not the best: with a slightly smaller range the largest is cut off, and all others gain. So a
   number of ranges are tried, each followed by least squares.
2. The scales of a block become integers times d: d is the largest scale over the largest integer.
3. With these: rounding again, then least squares for the scale of each group, and for d (and m) of the block;
   twice.

ggml (make_qkx2_quants, make_qx_quants) does the first two, with errors weighted by |x| or x^2, and ends with
a rounding. On normal weights the RMS errors here are 1% below its in Q4_K and 6% in Q6_K
(tests/record_quantizers.py).

Arrays are (weights of a group, groups of a block, blocks): a sum over a group then adds whole rows, which
NumPy does several times as fast as sums along rows of 32. Meanwhile each block is divided by its largest
weight, its "peak", so that no square overflows or vanishes. Suffixes: W weights of a group, G groups of a
block, B blocks.
"""

import numpy as np

from llmcore.quants import FORMATS

# What q the largest weight of a group is stretched to before rounding; 15 and 32 use the range just so.
RANGES_Q4_K = np.arange(12, 17, 0.4, dtype=np.float32)
RANGES_Q6_K = np.arange(29, 34, 0.4, dtype=np.float32)
ROUNDS = 2


def quantize(weights: np.ndarray, type: str) -> np.ndarray:
    """Quantize rows to "Q4_K" or "Q6_K"; float32 (..., row length, a multiple of 256) -> uint8 (..., bytes of
    a row).

    Weights must be finite. A scale above float16's 65504 becomes infinite: dequantize the result to see. One
    below 3e-8 becomes 0. All is done at once: give it no more than the cache holds.
    """
    blocks = np.asarray(weights, np.float32).reshape(-1, 256)
    peak_B = np.abs(blocks).max(axis=1)
    peak_B[peak_B == 0] = 1
    x_WGB = np.ascontiguousarray((blocks / peak_B[:, None]).reshape(len(blocks), -1, FORMATS[type].group).T)
    # An infinite unit makes errors NaN, and nothing better is kept.
    with np.errstate(over="ignore", invalid="ignore"):
        raw = {"Q4_K": _q4_k, "Q6_K": _q6_k}[type](x_WGB, peak_B)
    return raw.view(np.uint8).reshape(*np.shape(weights)[:-1], -1)


def _q4_k(x_WGB, peak_B):
    """Blocks of Q4_K, in the format's dtype (B,)."""
    scale_GB, min_GB = _fit_with_minimum(x_WGB)
    d_B, scales_GB = _to_integers(scale_GB, 63, peak_B)
    m_B, mins_GB = _to_integers(min_GB, 63, peak_B)
    best = _round_with_minimum(x_WGB, d_B, m_B, scales_GB, mins_GB)
    for _ in range(ROUNDS):
        best, _ = _keep(
            best, _round_with_minimum(x_WGB, d_B, m_B, *_refit_with_minimum(x_WGB, d_B, m_B, *best))
        )
        d_new_B, m_new_B = (_half(unit_B, peak_B) for unit_B in _units(x_WGB, *best))
        best, kept_B = _keep(best, _round_with_minimum(x_WGB, d_new_B, m_new_B, *best[2:]), whole=True)
        d_B, m_B = np.where(kept_B, d_new_B, d_B), np.where(kept_B, m_new_B, m_B)
    _, q_WGB, scales_GB, mins_GB = best

    blocks = np.empty(len(peak_B), FORMATS["Q4_K"].dtype)
    blocks["scale"], blocks["offset"] = _stored(d_B, peak_B), _stored(m_B, peak_B)
    scales, mins = scales_GB.T.astype(np.uint8), mins_GB.T.astype(np.uint8)
    blocks["scales"] = scales[:, :4] | scales[:, 4:] >> 4 << 6
    blocks["offsets"] = mins[:, :4] | mins[:, 4:] >> 4 << 6
    blocks["rest"] = scales[:, 4:] & 15 | (mins[:, 4:] & 15) << 4
    blocks["q"] = _join(q_WGB.T.astype(np.uint8), 4, run=32)
    return blocks


def _fit_with_minimum(x_WGB):
    """Scale and minimum of each group alone, x = scale q - min: (W, G, B) -> two of (G, B), none below 0."""
    low_GB = np.minimum(x_WGB.min(axis=0), 0)  # the format has no minimum above 0
    # Least squares for y = scale q + shift: on x itself it would lose digits where a group is narrow and far
    # from 0.
    y_WGB = x_WGB - low_GB
    stretch_GB = _over(1, y_WGB.max(axis=0))
    sum_y, sum_yy = y_WGB.sum(axis=0), (y_WGB * y_WGB).sum(axis=0)
    best_error, best_scale, best_min = np.full((3, *low_GB.shape), np.inf, np.float32)
    for top in RANGES_Q4_K:
        q_WGB = _nearest(y_WGB * (top * stretch_GB), 0, 15)
        sum_q, sum_qq, sum_yq = q_WGB.sum(axis=0), (q_WGB * q_WGB).sum(axis=0), (y_WGB * q_WGB).sum(axis=0)
        scale, shift = _line(len(x_WGB), sum_q, sum_qq, sum_y, sum_yq)
        above = shift > -low_GB
        scale = np.where(above, np.maximum(_over(sum_yq + low_GB * sum_q, sum_qq), 0), scale)
        shift = np.where(above, -low_GB, shift)
        error = sum_yy - 2 * (scale * sum_yq + shift * sum_y) + scale * (scale * sum_qq + 2 * shift * sum_q)
        error += len(x_WGB) * shift * shift
        better = error < best_error
        for best, new in ((best_error, error), (best_scale, scale), (best_min, -shift - low_GB)):
            np.copyto(best, new, where=better)
    return best_scale, best_min


def _line(n, sum_q, sum_qq, sum_y, sum_yq):
    """Least squares for y = scale q + shift over n points, from their sums; a flat line where all q are the
    same.
    """
    scale = np.maximum(_over(n * sum_yq - sum_q * sum_y, n * sum_qq - sum_q * sum_q), 0)
    return scale, (sum_y - scale * sum_q) / n


def _round_with_minimum(x_WGB, d_B, m_B, scales_GB, mins_GB):
    """The nearest q, all scales given; returns squared errors (G, B), q (W, G, B), and the integer scales
    again.
    """
    scale_GB, min_GB = d_B * scales_GB, m_B * mins_GB
    q_WGB = _nearest((x_WGB + min_GB) * _over(1, scale_GB), 0, 15)
    return _squares(x_WGB + min_GB, scale_GB, q_WGB), q_WGB, scales_GB, mins_GB


def _refit_with_minimum(x_WGB, d_B, m_B, _error, q_WGB, _scales, _mins):
    """Integer scales and minima (G, B) by least squares for each group; the minimum fits the scale once that
    is one.
    """
    sum_x, sum_q = x_WGB.sum(axis=0), q_WGB.sum(axis=0)
    scale, _ = _line(len(x_WGB), sum_q, (q_WGB * q_WGB).sum(axis=0), sum_x, (x_WGB * q_WGB).sum(axis=0))
    scales_GB = _nearest(_over(scale, d_B), 0, 63)
    return scales_GB, _nearest(_over((d_B * scales_GB * sum_q - sum_x) / len(x_WGB), m_B), 0, 63)


def _units(x_WGB, _error, q_WGB, scales_GB, mins_GB):
    """d and m (B,) by least squares over the block: x = d a - m c, where a = scales q and c = mins, all
    integers.
    """
    scales, mins = (
        scales_GB.astype(np.float64),
        mins_GB.astype(np.float64),
    )  # a few numbers, whose products cancel
    aa_B = (scales**2 * (q_WGB * q_WGB).sum(axis=0)).sum(axis=0)
    ac_B = (scales * mins * q_WGB.sum(axis=0)).sum(axis=0)
    cc_B = len(x_WGB) * (mins**2).sum(axis=0)
    xa_B = (scales * (x_WGB * q_WGB).sum(axis=0)).sum(axis=0)
    xc_B = (mins * x_WGB.sum(axis=0)).sum(axis=0)
    m_B = np.maximum(_over(xa_B * ac_B - xc_B * aa_B, aa_B * cc_B - ac_B**2), 0)
    return _over(xa_B + m_B * ac_B, aa_B), m_B


def _q6_k(x_WGB, peak_B):
    """Blocks of Q6_K, in the format's dtype (B,)."""
    d_B, scales_GB = _to_integers(_fit(x_WGB), -128, peak_B)
    best = _round(x_WGB, d_B, scales_GB)
    for _ in range(ROUNDS):
        q_WGB = best[1]
        scale_GB = _over((x_WGB * q_WGB).sum(axis=0), (q_WGB * q_WGB).sum(axis=0))
        best, _ = _keep(best, _round(x_WGB, d_B, _nearest(_over(scale_GB, d_B), -128, 127)))
        _, q_WGB, scales_GB = best
        sum_xa_B = (scales_GB * (x_WGB * q_WGB).sum(axis=0)).sum(axis=0)
        sum_aa_B = (scales_GB**2 * (q_WGB * q_WGB).sum(axis=0)).sum(axis=0)
        d_new_B = _half(_over(sum_xa_B, sum_aa_B), peak_B)
        best, kept_B = _keep(best, _round(x_WGB, d_new_B, scales_GB), whole=True)
        d_B = np.where(kept_B, d_new_B, d_B)
    _, q_WGB, scales_GB = best

    blocks = np.empty(len(peak_B), FORMATS["Q6_K"].dtype)
    blocks["scale"] = _stored(d_B, peak_B)
    blocks["scales"] = scales_GB.T
    q = (q_WGB.T + 32).astype(np.uint8)
    blocks["low"], blocks["high"] = _join(q & 15, 4, run=64), _join(q >> 4, 2, run=32)
    return blocks


def _fit(x_WGB):
    """Scale of each group alone, x = scale q: (W, G, B) -> (G, B). Its sign gives the largest weight -32.

    For a given q the best scale is sum(x q) / sum(q q), and leaves an error of sum(x x) - sum(x q)^2 / sum(q
    q).
    """
    high_GB, low_GB = x_WGB.max(axis=0), x_WGB.min(axis=0)
    stretch_GB = -_over(1, np.where(high_GB > -low_GB, high_GB, low_GB))
    best_gain, best_scale = np.zeros((2, *high_GB.shape), np.float32)
    for top in RANGES_Q6_K:
        q_WGB = _nearest(x_WGB * (top * stretch_GB), -32, 31)
        sum_xq, sum_qq = (x_WGB * q_WGB).sum(axis=0), (q_WGB * q_WGB).sum(axis=0)
        scale = _over(sum_xq, sum_qq)
        better = scale * sum_xq > best_gain
        np.copyto(best_gain, scale * sum_xq, where=better)
        np.copyto(best_scale, scale, where=better)
    return best_scale


def _round(x_WGB, d_B, scales_GB):
    """The nearest q, all scales given; returns squared errors (G, B), q (W, G, B), and the integer scales
    again.
    """
    scale_GB = d_B * scales_GB
    q_WGB = _nearest(x_WGB * _over(1, scale_GB), -32, 31)
    return _squares(x_WGB, scale_GB, q_WGB), q_WGB, scales_GB


def _keep(old, new, whole=False):
    """Of two tuples that begin with squared errors (G, B), the better for each group, or for each whole
    block.

    Returns that, and where the new one was better.
    """
    better = new[0].sum(axis=0) < old[0].sum(axis=0) if whole else new[0] < old[0]
    return tuple(np.where(better, n, o) for n, o in zip(new, old, strict=True)), better


def _to_integers(scale_GB, largest, peak_B):
    """Scales as a unit for each block, (B,), times integers (G, B); the scale farthest from 0 becomes
    `largest`.
    """
    at = np.abs(scale_GB).argmax(axis=0)[None]
    unit_B = _half(np.take_along_axis(scale_GB, at, axis=0)[0] / largest, peak_B)
    return unit_B, _nearest(_over(scale_GB, unit_B), min(largest, 0), max(largest, 127 if largest < 0 else 0))


def _stored(unit_B, peak_B):
    """A unit of blocks that were divided by their peak, as the file holds it: a float16, infinite if out of
    range.
    """
    return (unit_B * peak_B).astype(np.float16)


def _half(unit_B, peak_B):
    """The unit that the file will give back."""
    return _stored(unit_B, peak_B).astype(np.float32) / peak_B


def _squares(x_WGB, scale_GB, q_WGB):
    """Squared errors of scale * q, summed over each group: (G, B)."""
    error_WGB = scale_GB * q_WGB
    error_WGB -= x_WGB
    error_WGB *= error_WGB
    return error_WGB.sum(axis=0)


def _nearest(x, low, high):
    """Round to the nearest whole number from low to high, in place; they stay floats, which NumPy multiplies
    faster.
    """
    np.rint(x, out=x)
    return np.clip(x, low, high, out=x)


def _over(a, b):
    """a / b, and 0 where b is 0 or so small beside a block's largest weight, 1, that 1 / b could overflow."""
    return np.divide(
        a, b, out=np.zeros(np.broadcast_shapes(np.shape(a), b.shape), b.dtype), where=np.abs(b) > 1e-30
    )


def _join(q, bits, run):
    """Pack fields of `bits` bits, uint8 (B, ...), into bytes (B, weights * bits / 8); the inverse of
    quants._split.
    """
    fields = q.reshape(len(q), -1, 8 // bits, run)
    return np.bitwise_or.reduce(fields << np.arange(0, 8, bits, dtype=np.uint8)[:, None], axis=2).reshape(
        len(q), -1
    )
