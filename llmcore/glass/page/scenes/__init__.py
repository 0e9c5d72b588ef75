"""The scenes of the page, in their order. A scene is a pair of files: NAME.py says what it needs of the run
and puts it into the page's data, NAME.js draws it.

NAME.py has
    WANTED      the names of arrays (glass.NAMES) that are recorded for it
    part(run)   what NAME.js finds as data.NAME, made of plain values and `arrays`; None: no such scene here
    code(run)   the functions of this package that computed it, to be shown beside it
"""

from importlib import import_module
from types import ModuleType

SCENES = (
    *("game", "start", "file", "weight", "text", "token"),
    *("layer", "attention", "latent", "shortconv", "memory", "ffn", "experts", "lens", "votes"),
    *("scores", "choice", "again", "cost", "proof"),
)


def scenes() -> dict[str, ModuleType]:
    """The Python half of each scene, by name."""
    return {name: import_module(f"{__name__}.{name}") for name in SCENES}


def wanted() -> set[str]:
    """The names of all arrays that some scene asks for."""
    return {name for scene in scenes().values() for name in scene.WANTED}
