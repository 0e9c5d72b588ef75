"""Formats whose bits choose from a short table, and those with three values a weight."""

import numpy as np

from . import Block, Scales, signed, split

IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
MXFP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


def iq4_nl(scale, q):
    """18 bytes, 4.5 bits. As Q4_0, but the four bits choose one of 16 unevenly spaced integers."""
    return Block(IQ4_VALUES.take(split(q, 4, run=16)), Scales(scale))


def iq4_xs(scale, scales_high, scales_low, q):
    """136 bytes, 4.25 bits. Eight groups laid out as in IQ4_NL.

    The 6-bit scales count from -32: their low four bits stand two to a byte, their high two eight to a 16-bit
    word.
    """
    steps = signed(split(scales_low, 4, run=1) | split(scales_high, 2, run=1) * 16, 32)
    return Block(IQ4_VALUES.take(split(q, 4, run=16)), Scales(scale, steps))


def mxfp4(exponent, q):
    """17 bytes, 4.25 bits. As Q4_0, but each half byte is a float: 1 sign bit, 2 of exponent, 1 of mantissa.

    The table holds them doubled, as integers; so the scale is half of 2^(exponent - 127). OCP Microscaling
    Formats 1.0.
    """
    scale = np.ldexp(np.float32(1), exponent.astype(np.int32) - 128, dtype=np.float32)
    return Block(MXFP4_VALUES.take(split(q, 4, run=16)), Scales(scale))


def tq1_0(q32, q16, q4, scale):
    """54 bytes, 1.6875 bits. Weights are -1, 0 or 1, five to a byte b: the first five digits of b / 256 to
    base 3.

    The five are 32 weights apart, then 16 apart; the last 16 weights stand four to a byte, 4 apart.
    """
    # b * 3^k modulo 256 drops the first k digits; the next one is the integer part of 3 b / 256.
    digits = [b * np.uint8(3**k) for b, count in ((q32, 5), (q16, 5), (q4, 4)) for k in range(count)]
    q = np.concatenate(digits, axis=1).astype(np.uint16) * 3 >> 8
    return Block(signed(q.astype(np.uint8), 1), Scales(scale))


def tq2_0(q, scale):
    """66 bytes, 2.0625 bits. Weights are -1, 0 or 1: two bits each, laid out as in Q2_K; 1 stands for 0."""
    return Block(signed(split(q, 2, run=32), 1), Scales(scale))
