"""Rotary positions: a position is an angle by which pairs of a head's numbers are rotated.

The product of a query and a key then depends on how far apart the two stand, and not on where (Su et al.
2021, arXiv:2104.09864). What follows about scaling stretches that past the context a model was first trained
on.

Shape key: T new tokens, N heads, H head width, R = n_rot/2 rotating pairs.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from ..errors import UnsupportedModel

SCALINGS = ("none", "linear", "yarn", "longrope")  # {arch}.rope.scaling.type; longrope's factors are tensors


@dataclass(frozen=True)
class Rope:
    """How positions turn into angles; `rope_table` has the formulas."""

    n_rot: int  # {arch}.rope.dimension_count: the dimensions of a head that rotate, the rest pass through
    pairs: str  # what rotates together: "adjacent" is (2i, 2i + 1), "halves" is (i, i + n_rot/2)
    base: float  # {arch}.rope.freq_base
    factor: float = 1.0  # {arch}.rope.scaling.factor: linear scaling divides positions by it
    yarn_context: int | None = (
        None  # {arch}.rope.scaling.original_context_length, where the scaling type is yarn
    )
    beta_fast: float = 32.0  # {arch}.rope.scaling.yarn_beta_fast
    beta_slow: float = 1.0  # {arch}.rope.scaling.yarn_beta_slow: of both, see `yarn_ramp`
    gain: float = 1.0  # multiplies cos and sin
    divided: bool = True  # by the factors that the file has


def read_rope(keys, family, head_width: int) -> Rope | None:
    """RoPE of the layers that see everything, or None. Raises ModelFileError, UnsupportedModel."""
    if family.rope_pairs is None or (
        family.rope_switch and not keys.get("rope.scaling.finetuned", bool, True)
    ):
        return None
    n_rot = read_n_rot(keys, "rope.dimension_count", head_width, head_width)
    if family.rope_sections:
        check_sections(keys, n_rot // 2)
    scaling = keys.get("rope.scaling.type", str, "linear")  # files older than this key have a factor alone
    if scaling not in SCALINGS:
        raise UnsupportedModel(
            f"{keys.path}: rope.scaling.type {scaling!r} is not supported; ours: {', '.join(SCALINGS)}"
        )
    factor = (
        keys.get("rope.scaling.factor", float, keys.get("rope.scale_linear", float, 0.0), least=0.0) or 1.0
    )
    pairs, base = family.rope_pairs, read_base(keys, "rope.freq_base", 10000.0)
    if family.halves_with_sections and np.any(keys.metadata.get(f"{keys.prefix}.rope.dimension_sections", 0)):
        pairs = "halves"
    alpha = keys.get("rope.scaling.alpha", float, 0.0, least=0.0)
    if alpha > 0 and head_width > 2:
        base *= alpha ** (head_width / (head_width - 2))
    rope = Rope(
        n_rot,
        pairs,
        base=base,
        factor=factor,
        gain=keys.get("rope.scaling.attn_factor", float, 1.0),
    )
    if scaling == "none":
        return replace(rope, factor=1.0)
    if scaling == "yarn":
        context = keys.get(
            "rope.scaling.original_context_length", int, keys.get("context_length", int), least=1
        )
        rope = replace(rope, yarn_context=context, gain=rope.gain * (1 + 0.1 * math.log(factor)))
        return read_yarn(keys, rope) if family.yarn_keys else rope
    return rope


def read_yarn(keys, rope: Rope) -> Rope:
    """The rope with YaRN's other numbers, where the file has them."""
    multiplier = keys.get("rope.scaling.yarn_log_multiplier", float, 0.0)
    return replace(
        rope,
        beta_fast=keys.get("rope.scaling.yarn_beta_fast", float, rope.beta_fast, least=1e-6),
        beta_slow=keys.get("rope.scaling.yarn_beta_slow", float, rope.beta_slow, least=1e-6),
        gain=rope.gain / (1 + 0.1 * multiplier * math.log(rope.factor)),
    )


def read_n_rot(keys, key, head_width, default):
    """How many dimensions of a head rotate."""
    n_rot = keys.get(key, int, default, least=2)
    if n_rot > head_width or n_rot % 2:
        raise keys.error(key, f"is {n_rot}; it must be even and at most the head width {head_width}")
    return n_rot


def check_sections(keys, n_pairs: int) -> None:
    """{arch}.rope.dimension_sections: how many pairs each of the three coordinates of a place in an image
    rotates.

    They take turns, pair by pair. Of text all three are the position, so that the key changes nothing, as
    long as it leaves no pair out: such a pair would not rotate, and we know no model that means that.
    """
    key = "rope.dimension_sections"
    sections = np.asarray(keys.metadata.get(f"{keys.prefix}.{key}", [n_pairs] * 3))
    if (
        sections.dtype.kind not in "iu"
        or sections.shape not in ((3,), (4,))
        or not 0 < sections.sum() < 2**31
    ):
        raise keys.error(key, "is not a list of four whole numbers")
    pair = np.arange(n_pairs) % sections.sum()
    if np.any(pair >= 3 * sections[pair % 3].astype(np.int64)):
        raise keys.error(key, f"is {sections.tolist()}, which leaves some of {n_pairs} pairs unrotated")


def read_window_rope(keys, family, rope: Rope | None, head_width: int) -> Rope | None:
    """RoPE of windowed layers. They never see far, so most families stretch nothing there."""
    if rope is None:
        return None
    base = read_base(keys, "rope.freq_base_swa", 10000.0 if family.window_rope == "own" else rope.base)
    n_rot = read_n_rot(keys, "rope.dimension_count_swa", head_width, rope.n_rot)
    if family.window_rope in ("same", "only"):
        return replace(rope, n_rot=n_rot, base=base)
    return Rope(n_rot, rope.pairs, base, divided=not family.full_rope_freqs)


def read_base(keys, key, default):
    """The base of the angles."""
    base = keys.get(key, float, default)
    if base <= 1:
        raise keys.error(key, f"is {base}; angles need a base above 1")
    return base


def rope_table(rope: Rope, positions_T: np.ndarray, factors_R: np.ndarray | None = None) -> np.ndarray:
    """The rotations cos(angle) + i sin(angle) of each position; (T,) -> complex (T, R).

    angle = p / factor * base^(-2i / n_rot), that of pair i divided by factors_R[i] where the file has such
    factors. Angles are made in float64: at position 8,000 a float32 has lost three digits.
    """
    frequency_R = rope.base ** (-np.arange(0, rope.n_rot, 2) / rope.n_rot)
    if factors_R is not None and rope.divided:
        frequency_R = frequency_R / factors_R
    if rope.yarn_context is None:
        frequency_R = frequency_R / rope.factor
    else:
        keep_R = yarn_ramp(rope)
        frequency_R = frequency_R * (keep_R + (1 - keep_R) / rope.factor)
    return (rope.gain * np.exp(1j * np.outer(positions_T, frequency_R))).astype(np.complex64)


def yarn_ramp(rope: Rope) -> np.ndarray:
    """Per pair, how much of its original frequency YaRN keeps, (R,): 1 where it goes round beta_fast times or
    more within the original context, 0 where fewer than beta_slow times, a line between. Peng et al. 2023,
    arXiv:2309.00071.
    """

    def pair_going_round(
        times,
    ):  # the (fractional) index of the pair that goes round so many times in that context
        return rope.n_rot * math.log(rope.yarn_context / (times * 2 * math.pi)) / (2 * math.log(rope.base))

    low = max(0, math.floor(pair_going_round(rope.beta_fast)))
    high = min(rope.n_rot - 1, math.ceil(pair_going_round(rope.beta_slow)))
    return 1 - np.clip((np.arange(rope.n_rot // 2) - low) / max(0.001, high - low), 0, 1)


def rotate(x_TNH: np.ndarray, rotations_TR: np.ndarray, pairs: str) -> np.ndarray:
    """Rotate each pair (a, b) of a head by its angle: (a cos - b sin, a sin + b cos); dimensions past 2R pass
    through.

    pairs "adjacent": (x[2i], x[2i + 1]); "halves": (x[i], x[i + R]). That is the complex product (a + ib)
    rotation.
    """
    R = rotations_TR.shape[1]
    if pairs == "adjacent":
        out_TNH = np.array(x_TNH, order="C")
        pairs_TNR = out_TNH[..., : 2 * R].view(np.complex64)
        pairs_TNR *= rotations_TR[:, None]
        return out_TNH
    cos_T1R, sin_T1R = rotations_TR.real[:, None], rotations_TR.imag[:, None]
    a, b = x_TNH[..., :R], x_TNH[..., R : 2 * R]
    out_TNH = x_TNH.copy()
    out_TNH[..., :R] = a * cos_T1R - b * sin_T1R
    out_TNH[..., R : 2 * R] = a * sin_T1R + b * cos_T1R
    return out_TNH
