"""Formats that are left to the gguf package: rare, and most of them choose from long tables."""

from ..errors import UnsupportedModel

# Left to the gguf package: rare, and most of them choose from long tables. Type -> bytes and weights of a
# block.
FOREIGN = {
    "IQ1_S": (50, 256), "IQ1_M": (56, 256), "IQ2_XXS": (66, 256), "IQ2_XS": (74, 256), "IQ2_S": (82, 256),
    "IQ3_XXS": (98, 256), "IQ3_S": (110, 256), "NVFP4": (36, 64),
}  # fmt: skip


def expand_foreign(type, raw):
    """Bytes -> float32 by the gguf package, imported here because few models need it."""
    from gguf import GGMLQuantizationType
    from gguf import quants as gguf_quants

    try:
        return gguf_quants.dequantize(raw, GGMLQuantizationType[type])
    except (KeyError, NotImplementedError):
        raise UnsupportedModel(
            f"tensor type {type} needs a newer gguf package: pip install --upgrade gguf"
        ) from None
