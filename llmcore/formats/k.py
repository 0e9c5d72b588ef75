"""K formats: 256 weights a block, whose groups have scales that are quantized too, as integers times the
block's own.
"""

import numpy as np

from . import Block, Scales, signed, split


def q2_k(scales, q, scale, offset):
    """84 bytes, 2.625 bits. Byte g of `scales`: the scale of group g in the low half, its offset in the high
    half.

    32 bytes of q hold 128 weights: bits 0-1 the first 32, bits 2-3 the next 32, and so on.
    """
    return Block(split(q, 2, run=32), Scales(scale, scales & 15), Scales(-offset, scales >> 4))


def q3_k(high, low, scales_low, scales_high, scale):
    """110 bytes, 3.4375 bits. Two bits as in Q2_K, and a third from `high`; 4 stands for 0.

    Bit k of byte i of `high` belongs to weight 32 k + i. The 6-bit scales count from -32: scales g and g + 8
    share a byte for their low four bits; scales g, g + 4, g + 8 and g + 12 share one for their high two.
    """
    steps = signed(split(scales_low, 4, run=8) | split(scales_high, 2, run=4) * 16, 32)
    return Block(signed(split(low, 2, run=32) | split(high, 1, run=32) * 4, 4), Scales(scale, steps))


def q4_k(scale, offset, scales, offsets, rest, q):
    """144 bytes, 4.5 bits. 32 bytes of q hold two groups, the first in the low halves.

    Scales and offsets have 6 bits. Those of groups 0-3 are the low six of `scales` and `offsets`; those of
    groups 4-7 take their low four from the halves of `rest` and their high two from the bits left over in
    `scales` and `offsets`.
    """
    scales = np.concatenate([scales & 63, (scales & 192) >> 2 | rest & 15], axis=1)
    offsets = np.concatenate([offsets & 63, (offsets & 192) >> 2 | rest >> 4], axis=1)
    return Block(split(q, 4, run=32), Scales(scale, scales), Scales(-offset, offsets))


def q5_k(scale, offset, scales, offsets, rest, high, low):
    """176 bytes, 5.5 bits. As Q4_K, with bit g of byte i of `high` as the fifth bit of group g's weight i."""
    q4 = q4_k(scale, offset, scales, offsets, rest, low)
    return q4._replace(q=q4.q | split(high, 1, run=32) * 16)


def q6_k(low, high, scales, scale):
    """210 bytes, 6.5625 bits. 64 bytes of `low` hold the low four bits of 128 weights, low halves first.

    32 bytes of `high` hold their high two bits as in Q2_K; 32 stands for 0.
    """
    return Block(signed(split(low, 4, run=64) | split(high, 2, run=32) * 16, 32), Scales(scale, scales))
