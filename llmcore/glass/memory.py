"""What a recurrent layer keeps of each token: its state taken apart into what every token wrote.

A state is a sum: each token adds something, and what was there before fades, or is corrected in part.

    S_t = A_t(S_(t-1)) + W_t    so    S_t = sum over s of A_t(...A_(s+1)(W_s))    with A_t linear

So for each token s it can be said how much of what it wrote is left at t, and how much of what the layer
reads at t comes from it: the shares of a reading sum to 1, as those of attention do, but may be negative.
Gu & Dao 2023, arXiv:2312.00752; Yang et al. 2025, arXiv:2412.06464; Peng et al. 2025, arXiv:2503.14456.

Shape key: T new tokens, R rows kept, M tokens followed so far, H heads, P width of a head, N state width, K
width of RWKV's head, U inner width of Mamba, G groups of heads.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..mixers import delta_rule, duality, rwkv7
from ..mixers import mamba as mamba1
from ..mixers.deltanet import DeltaNet
from ..mixers.kda import KDA
from ..mixers.mamba import Mamba
from ..mixers.mamba2 import Mamba2
from ..mixers.rwkv7 import Rwkv7
from ..mixers.shortconv import ShortConv

LANES = 64  # of so many heads, or groups of them, it is said how much they keep
INPUTS = {  # what a kind's recurrence is made of, in the order of its `scan`
    Mamba: ("conv_out", "dt", "B", "C"),
    Mamba2: ("conv_out", "dt", "B", "C"),
    DeltaNet: ("q_conv", "k_conv", "v_conv", "gate", "beta"),
    KDA: ("q_conv", "k_conv", "v_conv", "gate", "beta"),
    Rwkv7: ("rwkv",),
}
NAMES = ("inp_embd", "bcx", "new_state", *sorted({name for names in INPUTS.values() for name in names}))


def recurrent_of(llm, i: int):
    """The recurrent mixer of layer i, alone or beside attention: plan and weights, or None twice."""
    plan, weights = llm.config.layers[i].mixer, llm.weights.layers[i].mixer
    if hasattr(plan, "mamba2"):
        return plan.mamba2, weights.mamba2
    return (plan, weights) if isinstance(plan, (*INPUTS, ShortConv)) else (None, None)


@dataclass
class Kept:
    """What was found at the rows of one layer, a list of R each."""

    size: list[float]  # of the state after the token: the root of the sum of squares
    written: list[float]  # size of what the token changed beyond the fading
    lanes: list[np.ndarray]  # (H,): what share of itself each head kept, 0 to 1
    left: list[np.ndarray]  # (M,): how much of what each token followed wrote is left, 1 at its own time
    read: list[np.ndarray]  # (M,): what share of the reading came from it


class Memory:
    """A watcher that follows the states of recurrent layers through a run.

    rows  positions of the text that are followed; of the tokens between them only the sum is known
    """

    names = NAMES

    def __init__(self, llm, rows: np.ndarray):
        """Before the first pass."""
        self.kept: dict[int, Kept] = {}
        self.convs: dict[int, list[np.ndarray]] = {}  # layer: R rows of (W + 2,), see `conv_shares`
        self.states: dict[int, np.ndarray] = {}
        self._llm, self._rows, self._start, self._stop = llm, set(rows.tolist()), 0, 0
        self._now: dict[tuple[str, int], np.ndarray] = {}
        self._memories: dict[int, _Memory] = {}
        self._before: dict[int, np.ndarray] = {}  # of short convolutions: the last rows of b * u

    def see(self, name: str, layer: int, array: np.ndarray) -> None:
        """Collect a layer's arrays; once it has its new state, follow it there."""
        if name == "inp_embd":
            self._start, self._stop = self._stop, self._stop + len(array)
        elif name == "bcx":
            self._convolve(layer, array)
        elif name == "new_state":
            self._follow(layer)
        else:
            self._now[name, layer] = np.array(array)

    def _convolve(self, layer, bcu_TF):
        plan, weights = recurrent_of(self._llm, layer)
        before_WD = self._before.get(layer, np.zeros((plan.kernel_width - 1, plan.d_model), np.float32))
        b_TD, c_TD, u_TD = np.split(bcu_TF, 3, axis=1)
        rows_SD = np.concatenate([before_WD, b_TD * u_TD])
        for t in range(len(bcu_TF)):
            if self._start + t in self._rows:
                shares = conv_shares(rows_SD[t : t + plan.kernel_width], c_TD[t], weights.conv)
                sizes = [np.abs(b_TD[t]).mean(), np.abs(c_TD[t]).mean()]
                self.convs.setdefault(layer, []).append(np.array([*shares, *sizes]))
        self._before[layer] = rows_SD[len(bcu_TF) :].copy()

    def _follow(self, layer):
        plan, weights = recurrent_of(self._llm, layer)
        memory = self._memories.get(layer) or KINDS[type(plan)](plan, weights)
        self._memories[layer] = memory
        kept = self.kept.setdefault(layer, Kept([], [], [], [], []))
        inputs = [self._now.pop((name, layer)) for name in INPUTS[type(plan)]]
        t = 0
        while t < self._stop - self._start:
            stop = t
            while stop < self._stop - self._start and self._start + stop not in self._rows:
                stop += 1
            if stop > t:
                memory.skip(*(x[t:stop] for x in inputs))
                t = stop
            else:
                memory.step(kept, *(x[t] for x in inputs))
                t += 1
        self.states[layer] = memory.state


def conv_shares(z_WD: np.ndarray, c_D: np.ndarray, kernel_DW: np.ndarray) -> np.ndarray:
    """What share of a short convolution's row comes from each of its W tokens, the newest last; (W,).

    y = sum over w of c * kernel_w * z_w; the share of w is (its part . y) / (y . y), so that they sum to 1.
    """
    parts_WD = (c_D * kernel_DW.T * z_WD).astype(np.float64)
    return _shares(parts_WD, parts_WD.sum(axis=0))


def _shares(parts_MX, whole_X):
    """(part . whole) / (whole . whole) of each part."""
    size = float(whole_X @ whole_X)
    return parts_MX @ whole_X / size if size > 0 else np.zeros(len(parts_MX))


class _Memory:
    """The state of a layer, and what is left of it of each token followed."""

    def __init__(self, plan, weights):
        self.plan, self.weights, self.n_seen = plan, weights, 0
        self.state: np.ndarray = np.zeros(0, np.float32)

    def note(self, kept, old, faded, lanes, left_M, parts_MX, read_X):
        """Write down what a token found and did."""
        kept.size.append(float(np.linalg.norm(self.state)))
        kept.written.append(float(np.linalg.norm(self.state - faded)))
        kept.lanes.append(_few(lanes))
        kept.left.append(left_M)
        kept.read.append(_shares(parts_MX.astype(np.float64), read_X.astype(np.float64)))


def _few(lanes_H):
    """At most LANES of them: means of neighbours."""
    n = -(-len(lanes_H) // LANES)
    return np.array([lanes_H[at : at + n].mean() for at in range(0, len(lanes_H), n)])


def _weighted(left_MH, weights_MH):
    """The root of the mean square of what is left in each head, by the size of what was written there."""
    whole_M = (weights_MH**2).sum(axis=1)
    return np.sqrt((left_MH**2 * weights_MH**2).sum(axis=1) / np.where(whole_M > 0, whole_M, 1))


def _left(keys_MHP, sizes_MH, values_MHP):
    """How much of each token's write is left, where of its key so much is left, which had those sizes."""
    left_MH = np.linalg.norm(keys_MHP, axis=2) / np.maximum(sizes_MH, 1e-30)
    return _weighted(left_MH, sizes_MH * np.linalg.norm(values_MHP, axis=2))


class _Mamba2(_Memory):
    """S <- e^(dt a) S + dt x B^T, read by C: of each token all of a head fades alike."""

    def __init__(self, plan, weights):
        super().__init__(plan, weights)
        H = plan.n_heads
        self.state = np.zeros((H, plan.n_inner // H, plan.state_width), np.float32)
        self.sum_H = np.zeros(H)  # of dt a: what was written at one time has faded by e^(sum then - now)
        self.sums, self.inputs, self.places = [], [], []

    def skip(self, x_THP, dt_TH, b_TGN, c_TGN):
        """Tokens that are not followed."""
        _, self.state = duality.scan(x_THP, dt_TH, b_TGN, c_TGN, self.weights.ssm_a, self.state)
        self.sum_H = self.sum_H + (dt_TH * self.weights.ssm_a).sum(axis=0, dtype=np.float64)

    def step(self, kept, x_HP, dt_H, b_GN, c_GN):
        """A token that is followed."""
        J = self.plan.n_heads // self.plan.n_groups
        b_HN, c_HN, old = np.repeat(b_GN, J, axis=0), np.repeat(c_GN, J, axis=0), self.state
        log_decay_H = dt_H * self.weights.ssm_a
        self.sum_H = self.sum_H + log_decay_H
        faded = np.exp(log_decay_H)[:, None, None] * old
        self.sums.append(self.sum_H)
        self.inputs.append(dt_H[:, None] * x_HP)
        self.places.append(b_HN)
        self.state = faded + self.inputs[-1][:, :, None] * b_HN[:, None]
        x_MHP, b_MHN = np.stack(self.inputs), np.stack(self.places)
        left_MH = np.exp(self.sum_H - np.stack(self.sums))
        sizes_MH = np.linalg.norm(x_MHP, axis=2) * np.linalg.norm(b_MHN, axis=2)
        parts_MHP = (left_MH * np.einsum("mhn,hn->mh", b_MHN, c_HN))[:, :, None] * x_MHP
        read_HP = np.einsum("hpn,hn->hp", self.state, c_HN)
        left_M = _weighted(left_MH, sizes_MH)
        self.note(
            kept, old, faded, np.exp(log_decay_H), left_M, parts_MHP.reshape(len(x_MHP), -1), read_HP.ravel()
        )


class _Mamba(_Memory):
    """S <- e^(dt A) * S + dt u B^T: every number fades at its own rate. A lane is a place in the state."""

    def __init__(self, plan, weights):
        super().__init__(plan, weights)
        self.state = np.zeros((plan.n_inner, plan.state_width), np.float32)
        self.sum_U = np.zeros(plan.n_inner)  # of dt
        self.sums, self.inputs, self.places = [], [], []

    def skip(self, u_TU, dt_TU, b_TN, c_TN):
        """Tokens that are not followed."""
        _, self.state = mamba1.scan(u_TU, dt_TU, b_TN, c_TN, self.weights.ssm_a, self.state)
        self.sum_U = self.sum_U + dt_TU.sum(axis=0, dtype=np.float64)

    def step(self, kept, u_U, dt_U, b_N, c_N):
        """A token that is followed."""
        a_UN, old = self.weights.ssm_a, self.state
        decay_UN = np.exp(dt_U[:, None] * a_UN)
        faded, self.sum_U = decay_UN * old, self.sum_U + dt_U
        self.sums.append(self.sum_U)
        self.inputs.append(dt_U * u_U)
        self.places.append(b_N)
        self.state = faded + self.inputs[-1][:, None] * b_N
        left_M, parts_MU = [], []
        for sum_U, x_U, place_N in zip(self.sums, self.inputs, self.places, strict=True):
            left_UN = np.exp((self.sum_U - sum_U).astype(np.float32)[:, None] * a_UN)
            parts_MU.append((left_UN @ (place_N * c_N)) * x_U)
            whole = float(x_U @ x_U) * float(place_N @ place_N)
            squares = float((x_U**2) @ (left_UN**2 @ place_N**2))
            left_M.append(math.sqrt(squares / whole) if whole > 0 else 1.0)
        lanes = decay_UN.mean(axis=0)
        self.note(kept, old, faded, lanes, np.array(left_M), np.stack(parts_MU), self.state @ c_N)


class _Delta(_Memory):
    """S <- (1 - beta k k^T) diag(e^g) S + beta k v^T, read by q: a write takes away what its key finds."""

    def __init__(self, plan, weights):
        super().__init__(plan, weights)
        H, P = plan.n_heads, plan.head_width
        self.state = np.zeros((H, P, P), np.float32)
        self.keys_MHP, self.values_MHP = np.zeros((0, H, P)), np.zeros((0, H, P))  # what is left of each key
        self.sizes_MH = np.zeros((0, H))  # of the keys at first

    def skip(self, q_THP, k_THP, v_THP, g_THX, beta_TH):
        """Tokens that are not followed."""
        g_THX = g_THX.reshape(*beta_TH.shape, -1)
        _, self.state = delta_rule.scan(q_THP, k_THP, v_THP, g_THX, beta_TH, self.state)
        for k_HP, g_HX, beta_H in zip(k_THP, g_THX, beta_TH, strict=True):
            self._fade(k_HP, g_HX, beta_H)

    def _fade(self, k_HP, g_HX, beta_H):
        keys_MHP = self.keys_MHP * np.exp(g_HX)
        found_MH1 = (keys_MHP * k_HP).sum(axis=2, keepdims=True)
        self.keys_MHP = keys_MHP - found_MH1 * (beta_H[:, None] * k_HP)

    def step(self, kept, q_HP, k_HP, v_HP, g_HX, beta_H):
        """A token that is followed."""
        H, P, old = self.plan.n_heads, self.plan.head_width, self.state
        g_HX = g_HX.reshape(H, -1)
        self._fade(k_HP, g_HX, beta_H)
        faded = np.exp(g_HX)[:, :, None] * old
        u_HP = beta_H[:, None] * (v_HP - np.einsum("hkv,hk->hv", faded, k_HP))
        self.state = faded + k_HP[:, :, None] * u_HP[:, None]
        self.keys_MHP = np.concatenate([self.keys_MHP, k_HP[None]])
        self.values_MHP = np.concatenate([self.values_MHP, (beta_H[:, None] * v_HP)[None]])
        q_HP = q_HP / math.sqrt(P)
        parts_MHP = (self.keys_MHP * q_HP).sum(axis=2, keepdims=True) * self.values_MHP
        read_HP = np.einsum("hkv,hk->hv", self.state, q_HP)
        self.sizes_MH = np.concatenate([self.sizes_MH, np.linalg.norm(k_HP, axis=1)[None]])
        left_M = _left(self.keys_MHP, self.sizes_MH, self.values_MHP)
        lanes = np.exp(g_HX).mean(axis=1)
        self.note(kept, old, faded, lanes, left_M, parts_MHP.reshape(len(parts_MHP), -1), read_HP.ravel())


class _Rwkv7(_Memory):
    """S <- S (diag(w) - c (a c)^T) + v k^T, read by r."""

    def __init__(self, plan, weights):
        super().__init__(plan, weights)
        H, K = plan.d_model // plan.head_width, plan.head_width
        self.state = np.zeros((H, K, K), np.float32)
        self.keys_MHK, self.values_MHK = np.zeros((0, H, K)), np.zeros((0, H, K))
        self.sizes_MH = np.zeros((0, H))

    def skip(self, all_T6HK):
        """Tokens that are not followed."""
        _, self.state = rwkv7.scan(*all_T6HK.swapaxes(0, 1), self.state)
        for _, w_HK, _, _, a_HK, c_HK in all_T6HK:
            self._fade(w_HK, a_HK, c_HK)

    def _fade(self, w_HK, a_HK, c_HK):
        found_MH1 = (self.keys_MHK * c_HK).sum(axis=2, keepdims=True)
        self.keys_MHK = self.keys_MHK * w_HK - found_MH1 * (a_HK * c_HK)

    def step(self, kept, all_6HK):
        """A token that is followed."""
        r_HK, w_HK, k_HK, v_HK, a_HK, c_HK = all_6HK
        old, faded = self.state, self.state * w_HK[:, None]
        self._fade(w_HK, a_HK, c_HK)
        _, self.state = rwkv7.scan(*all_6HK[:, None], old)
        self.keys_MHK = np.concatenate([self.keys_MHK, k_HK[None]])
        self.values_MHK = np.concatenate([self.values_MHK, v_HK[None]])
        self.sizes_MH = np.concatenate([self.sizes_MH, np.linalg.norm(k_HK, axis=1)[None]])
        parts_MHK = (self.keys_MHK * r_HK).sum(axis=2, keepdims=True) * self.values_MHK
        read_HK = np.einsum("hvk,hk->hv", self.state, r_HK)
        left_M = _left(self.keys_MHK, self.sizes_MH, self.values_MHK)
        lanes = w_HK.mean(axis=1)
        self.note(kept, old, faded, lanes, left_M, parts_MHK.reshape(len(parts_MHK), -1), read_HK.ravel())


KINDS = {Mamba: _Mamba, Mamba2: _Mamba2, DeltaNet: _Delta, KDA: _Delta, Rwkv7: _Rwkv7}
