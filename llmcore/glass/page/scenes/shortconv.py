"""Short convolution: each channel mixes its last few tokens, between two gates of the token."""

import numpy as np

from ....mixers.shortconv import ShortConv
from ...recording import Run
from ..arrays import exact
from ..told import memory

WANTED: frozenset[str] = frozenset()


def part(run: Run) -> dict | None:
    """What share of what each layer found comes from each of its tokens, and how far its gates are open."""
    plans = [layer.mixer for layer in run.llm.config.layers if isinstance(layer.mixer, ShortConv)]
    if not plans:
        return None
    found = memory(run).convs
    return {
        "tokens_seen": plans[0].kernel_width,
        "width": plans[0].d_model,
        "layers": {i: exact(np.stack(rows)) for i, rows in sorted(found.items())},  # (R, W + 2)
    }


def code(run: Run) -> list:
    """The gates and the kernel."""
    from ....mixers.conv import causal_conv
    from ....mixers.shortconv import mix

    return [mix, causal_conv]
