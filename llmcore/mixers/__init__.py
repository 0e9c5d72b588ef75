"""Mixers: what a layer does between tokens. One file a kind, loaded by the models that have layers of it.

A plan is a frozen dataclass; its `rope` is None where positions do not rotate. Each kind has four functions
beside it: `read` the plan from the metadata, `take` the weights from the tensors, `state` that the cache
keeps, and `run`. The type of a layer's plan chooses them: they stand in the file that the type stands in. A
new kind of mixer is one new file, and rows in families.py.
"""

import sys
from importlib import import_module
from types import ModuleType


def kind(name: str) -> ModuleType:
    """The kind of mixer of that name, a file in this folder."""
    return import_module(f"{__name__}.{name}")


def kind_of(plan) -> ModuleType:
    """The kind that a plan is of: the module in which its type is defined."""
    return sys.modules[type(plan).__module__]
