"""Formats of 32 weights that share one scale: the first that there were."""

import numpy as np

from . import Block, Scales, signed, split


def q4_0(scale, q):
    """18 bytes, 4.5 bits. Byte i: weight i in the low half, i + 16 in the high half; 8 stands for 0."""
    return Block(signed(split(q, 4, run=16), 8), Scales(scale))


def q4_1(scale, offset, q):
    """20 bytes, 5 bits. As Q4_0, but 0 stands for the offset, the smallest weight."""
    return Block(split(q, 4, run=16), Scales(scale), Scales(offset))


def q5_0(scale, high, low):
    """22 bytes, 5.5 bits. As Q4_0, with bit i of `high` as the fifth bit of weight i; 16 stands for 0."""
    fifth = np.unpackbits(high, axis=1, bitorder="little")
    return Block(signed(split(low, 4, run=16) | fifth * 16, 16), Scales(scale))


def q5_1(scale, offset, high, low):
    """24 bytes, 6 bits. The bits of Q5_0, the offset of Q4_1."""
    fifth = np.unpackbits(high, axis=1, bitorder="little")
    return Block(split(low, 4, run=16) | fifth * 16, Scales(scale), Scales(offset))


def q8_0(scale, q):
    """34 bytes, 8.5 bits. One signed byte a weight."""
    return Block(q, Scales(scale))
