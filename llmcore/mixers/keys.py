"""What several kinds of mixer read from the metadata."""

import numpy as np


def read_head_counts(keys, i):
    """The number of query heads and of key/value heads in layer i."""
    n_heads = keys.of_layer("attention.head_count", int, i, least=1)
    d_model = keys.get("embedding_length", int, least=1)
    if n_heads > d_model:
        raise keys.error("attention.head_count", f"is {n_heads}, more than the model is wide ({d_model})")
    n_kv_heads = keys.of_layer("attention.head_count_kv", int, i, n_heads, least=1)
    if n_heads % n_kv_heads:
        raise keys.error(
            "attention.head_count_kv", f"is {n_kv_heads}, which does not divide the {n_heads} query heads"
        )
    return n_heads, n_kv_heads


def read_norm_eps(keys, family):
    """What norms add to a mean square, so that they never divide by 0."""
    key = "attention.layer_norm_rms_epsilon"
    if family.layer_norm or (key not in keys and family.either_eps):
        key = "attention.layer_norm_epsilon"
    return keys.get(key, float, least=0.0)


def read_n_layers(keys):
    """The number of layers that run."""
    return keys.get("block_count", int) - keys.get("nextn_predict_layers", int, 0)


def read_window_width(keys, family):
    """How many keys a windowed layer sees; None in a model without windows."""
    if family.window_pattern is None or family.window_at not in (None, read_n_layers(keys)):
        return None
    width = keys.get("attention.sliding_window", int, family.window or 0, least=0) or None
    return width if width is None or family.only_window is None else family.only_window


def read_window(keys, family, i):
    """The window of layer i, or None: an array says who has one, or a number n that n - 1 in n have."""
    width = read_window_width(keys, family)
    if width is None:
        return None
    key = "attention.sliding_window_pattern"
    flags = keys.metadata.get(f"{keys.prefix}.{key}")
    if isinstance(flags, np.ndarray):
        windowed = keys.of_layer(key, bool if flags.dtype == bool else int, i)
    else:
        n = keys.get(key, int, family.window_pattern, least=0)
        windowed = n == 0 or i % n != (0 if family.full_first else n - 1)
    return width if windowed else None
