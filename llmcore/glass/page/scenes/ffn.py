"""What a token is given by itself: the hidden numbers of each feed-forward that is not cut into experts.

Shape key: W rows whose numbers are kept, F feed-forward width, B strongest hidden numbers.
"""

import numpy as np

from ....ffn.activations import ACTIVATIONS
from ...recording import Run
from ..arrays import drawn, exact, whole
from ..told import first_steps

WANTED = frozenset({"ffn_gate_up", "ffn_up", "ffn_hidden"})
STRONGEST = 8
SQUARES = 2048  # at most in a picture; of more, neighbours share one
PICTURES = 500_000  # bytes for all pictures


def part(run: Run) -> dict | None:
    """The hidden numbers of each layer at the rows that the model wrote after."""
    hidden = run.stack("ffn_hidden")
    if not hidden:
        return None
    rows = first_steps(run, sum(min(SQUARES, h_RF.shape[1]) for h_RF in hidden.values()), PICTURES)
    return {"rows": rows, "layers": {i: of_layer(run, i, rows) for i in sorted(hidden)}}


def of_layer(run: Run, i: int, rows: list[int]) -> dict:
    """One layer: a picture of all hidden numbers, and the strongest of them one by one."""
    hidden_WF, plan = run.kept["ffn_hidden", i][rows], dense_of(run.llm.config.layers[i])
    shared = hasattr(run.llm.config.layers[i].ffn, "shared")
    together = -(-hidden_WF.shape[1] // SQUARES)
    best_WB = np.argsort(-np.abs(hidden_WF), axis=1, kind="stable")[:, :STRONGEST]
    found = {
        "width": hidden_WF.shape[1],
        "together": together,
        "squares": drawn(strongest_of(hidden_WF, together)),
        "half": whole([half_of(one_F) for one_F in hidden_WF]),
        "best": whole(best_WB),
        "values": exact(np.take_along_axis(hidden_WF, best_WB, axis=1)),
        "shared": shared,
        "activation": plan.activation if plan is not None else "relu_squared",
        "gated": plan is not None and plan.gated,
    }
    if found["gated"] and plan.sub_norm_eps is None:
        found |= gates(run.kept["ffn_gate_up", i][rows], best_WB, plan.activation)
    return found


def dense_of(layer):
    """The plan of a layer's feed-forward that all tokens use; None in RWKV, whose block has its own."""
    plan = layer.ffn
    return getattr(plan, "shared", None) or getattr(plan, "dense", plan)


def gates(gate_up_WX: np.ndarray, best_WB: np.ndarray, activation: str) -> dict:
    """Of the strongest: the gate, how much of `up` it lets through, and `up`; the last two multiply."""
    gate_WF, up_WF = np.split(gate_up_WX, 2, axis=1)
    gate_WB, up_WB = (np.take_along_axis(x_WF, best_WB, axis=1) for x_WF in (gate_WF, up_WF))
    value_WB = ACTIVATIONS[activation](gate_WB, up_WB)
    if activation == "swiglu_clamped":
        up_WB = np.clip(up_WB, -7, 7) + 1
    through_WB = value_WB / np.where(up_WB == 0, 1, up_WB)
    return {"gate": exact(gate_WB), "through": exact(through_WB), "up": exact(up_WB)}


def strongest_of(hidden_WF: np.ndarray, together: int) -> np.ndarray:
    """Of so many neighbours the one farthest from 0; (W, F) -> (W, F / together)."""
    W, F = hidden_WF.shape
    padded = np.pad(hidden_WF, ((0, 0), (0, -F % together))).reshape(W, -1, together)
    at = np.abs(padded).argmax(axis=2)[:, :, None]
    return np.take_along_axis(padded, at, axis=2)[:, :, 0]


def half_of(one_F: np.ndarray) -> int:
    """How few hidden numbers make up half of the sum of all sizes.

    >>> half_of(np.array([0, -4, 1, 3]))
    1
    """
    sizes = np.sort(np.abs(one_F.astype(np.float64)))[::-1].cumsum()
    return int(np.searchsorted(sizes, sizes[-1] / 2) + 1) if sizes[-1] > 0 else 0


def code(run: Run) -> list:
    """The feed-forward, and what bends its numbers."""
    from ....ffn import dense

    plan = next((found for layer in run.llm.config.layers if (found := dense_of(layer)) is not None), None)
    if plan is None:
        from ....mixers import rwkv7

        return [rwkv7.run]
    return [dense.run, dense.activate, ACTIVATIONS[plan.activation]]
