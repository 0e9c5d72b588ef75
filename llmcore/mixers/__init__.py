"""Mixers: what a layer does between tokens. One file a kind; the type of a layer's plan chooses it.

A plan is a frozen dataclass; its `rope` is None where positions do not rotate. Each kind has four functions: `read` its plan from the metadata, `take` its weights from the tensors, `state` that the cache
keeps for it, and `run`. A new kind of mixer is one new file, a row here, and rows in families.py.
"""

from . import attention, latent, mamba, mamba2, side_by_side

KINDS = {
    attention.Attention: attention,
    latent.Latent: latent,
    mamba.Mamba: mamba,
    mamba2.Mamba2: mamba2,
    side_by_side.SideBySide: side_by_side,
}
