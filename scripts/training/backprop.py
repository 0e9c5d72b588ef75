"""How a model learns: the loss of a llama model, and its gradient by hand. To be read beside
llmcore/model.py.

Training asks of every number in the archive: if it grew a little, by how much would the loss grow? That is
the gradient, and the chain rule finds it for all numbers at once, in one pass from the loss back to the first
layer. Each function f(x, w) -> y here has a twin f_backward(dy, ...) -> dx, dw. A d before a name means dL/d:
dy is the gradient of the loss with respect to y, and has y's shape. The twin needs a few values of the way
forward: f hands them out, `kept`.

Three rules do most of the work:
- a value that is used twice collects the sum of both gradients (residual stream, shared heads, tied
  embedding);
- y = x W^T gives dx = dy W and dW = dy^T x (a matrix is used by every row, so its gradient is a sum over
  rows);
- a function that acts on each number by itself gives dx = dy f'(x).

Parameters are a dict of arrays under GGUF's names and in the file's (out, in) layout: they are the archive's
body. The arithmetic is in their precision: float32 to train, float64 to check gradients.

Shape key: B texts, T places in each, P places that hold a token to predict from (of all texts together), S =
T keys, D model width, N query heads, K key/value heads, G = N/K, H head width, R = H/2 rotating pairs, F
feed-forward width, V vocabulary.
"""

import numpy as np

from llmcore.config import Config
from llmcore.ffn.activations import swiglu
from llmcore.mixers.rope import rope_table
from llmcore.ops import log_softmax, rms_norm, sigmoid, silu, softmax

Params = dict[str, np.ndarray]
PAD = -1  # fills the texts of a batch up to the longest


def loss_and_gradients(params: Params, config: Config, ids_BT: np.ndarray) -> tuple[float, Params]:
    """The mean of -ln p(token | those before it), and its gradient for every parameter; ids are padded with
    PAD.
    """
    inputs_P, targets_P, real_BT = split_batch(ids_BT)
    rotations_PR = rotations(config, real_BT)
    x_PD, kept = forward(params, config, inputs_P, real_BT, rotations_PR)
    logits_PV, h_PD = unembed(x_PD, params, config)
    loss = cross_entropy(logits_PV, targets_P)

    dlogits_PV = cross_entropy_backward(logits_PV, targets_P)
    dx_PD, grads = unembed_backward(dlogits_PV, x_PD, h_PD, params, config)
    for i in reversed(range(len(config.layers))):
        dx_PD, layer_grads = block_backward(dx_PD, kept[i], layer(params, i), config, real_BT, rotations_PR)
        grads |= {f"blk.{i}.{name}": grad for name, grad in layer_grads.items()}
    # x = E[ids]: each use of a row adds to its gradient. E is the output matrix too, whose gradient is there
    # already.
    np.add.at(grads["token_embd.weight"], inputs_P, dx_PD)
    return loss, grads


def losses(params: Params, config: Config, ids_BT: np.ndarray) -> np.ndarray:
    """-ln p of each of the P tokens that are predicted, without gradients."""
    inputs_P, targets_P, real_BT = split_batch(ids_BT)
    x_PD, _ = forward(params, config, inputs_P, real_BT, rotations(config, real_BT))
    logits_PV, _ = unembed(x_PD, params, config)
    return -log_softmax(logits_PV)[np.arange(len(targets_P)), targets_P]


def split_batch(ids_BT):
    """Token t predicts token t + 1: inputs (P,), targets (P,), and which places hold them, (B, T - 1)."""
    real_BT = ids_BT[:, 1:] != PAD
    return ids_BT[:, :-1][real_BT], ids_BT[:, 1:][real_BT], real_BT


def rotations(config, real_BT):
    """RoPE's rotation of each place, complex (P, R)."""
    rotations_TR = rope_table(config.layers[0].mixer.rope, np.arange(real_BT.shape[1]))
    return rotations_TR[np.nonzero(real_BT)[1]]


def layer(params, i):
    """The parameters of layer i, by their names within it."""
    prefix = f"blk.{i}."
    return {name.removeprefix(prefix): array for name, array in params.items() if name.startswith(prefix)}


# ---- The whole: embed, blocks, unembed


def forward(params, config, inputs_P, real_BT, rotations_PR):
    """Ids -> hidden states (P, D), and what each block keeps."""
    x_PD, kept = params["token_embd.weight"][inputs_P], []
    for i in range(len(config.layers)):
        x_PD, kept_by_block = block(x_PD, layer(params, i), config, real_BT, rotations_PR)
        kept.append(kept_by_block)
    return x_PD, kept


def block(x_PD, w, config, real_BT, rotations_PR):
    """x + attention(norm(x)), then x + ffn(norm(x))."""
    h_PD = rms_norm(x_PD, w["attn_norm.weight"], config.norm_eps)
    a_PD, kept_by_attention = attention(h_PD, w, config, real_BT, rotations_PR)
    y_PD = x_PD + a_PD
    g_PD = rms_norm(y_PD, w["ffn_norm.weight"], config.norm_eps)
    f_PD, kept_by_ffn = ffn(g_PD, w)
    return y_PD + f_PD, (x_PD, kept_by_attention, y_PD, kept_by_ffn)


def block_backward(dz_PD, kept, w, config, real_BT, rotations_PR):
    """z = y + f(y): the gradient goes both ways, through f and past it; so deep models learn at all."""
    x_PD, kept_by_attention, y_PD, kept_by_ffn = kept
    dg_PD, grads = ffn_backward(dz_PD, kept_by_ffn, w)
    dy_PD, dffn_norm_D = rms_norm_backward(dg_PD, y_PD, w["ffn_norm.weight"], config.norm_eps)
    dy_PD += dz_PD
    dh_PD, attention_grads = attention_backward(dy_PD, kept_by_attention, w, config, real_BT, rotations_PR)
    dx_PD, dattn_norm_D = rms_norm_backward(dh_PD, x_PD, w["attn_norm.weight"], config.norm_eps)
    dx_PD += dy_PD
    return dx_PD, grads | attention_grads | {"attn_norm.weight": dattn_norm_D, "ffn_norm.weight": dffn_norm_D}


def unembed(x_PD, params, config):
    """logits = norm(x) E^T, with the embedding E as the output matrix; also norm(x), to keep."""
    h_PD = rms_norm(x_PD, params["output_norm.weight"], config.norm_eps)
    return linear(h_PD, params["token_embd.weight"]), h_PD


def unembed_backward(dlogits_PV, x_PD, h_PD, params, config):
    """The gradients of the hidden states, of E as the output matrix, and of the last norm."""
    dh_PD, dembd_VD = linear_backward(dlogits_PV, h_PD, params["token_embd.weight"])
    dx_PD, dgain_D = rms_norm_backward(dh_PD, x_PD, params["output_norm.weight"], config.norm_eps)
    return dx_PD, {"token_embd.weight": dembd_VD, "output_norm.weight": dgain_D}


# ---- Attention: arXiv:1706.03762, with grouped queries: arXiv:2305.13245


def attention(h_PD, w, config, real_BT, rotations_PR):
    """softmax(scale q k^T + mask) v for each head, then one matrix over all heads; (P, D) -> (P, D).

    q = rope(h Wq^T), k = rope(h Wk^T), v = h Wv^T. G query heads share a key/value head.
    """
    P, T, plan = len(h_PD), real_BT.shape[1], config.layers[0].mixer
    N, K = plan.n_heads, plan.n_kv_heads
    q_PNH = rope(linear(h_PD, w["attn_q.weight"]).reshape(P, N, -1), rotations_PR)
    k_PKH = rope(linear(h_PD, w["attn_k.weight"]).reshape(P, K, -1), rotations_PR)
    v_PKH = linear(h_PD, w["attn_v.weight"]).reshape(P, K, -1)
    q_BKGTH, k_BK1SH, v_BK1SH = (to_heads(x, real_BT, K) for x in (q_PNH, k_PKH, v_PKH))
    mask_TS = np.triu(
        np.full((T, T), -np.inf, h_PD.dtype), 1
    )  # none sees the future; pads are the future of the rest
    probs_BKGTS = softmax(plan.scale * (q_BKGTH @ k_BK1SH.swapaxes(-1, -2)) + mask_TS)
    y_PX = from_heads(probs_BKGTS @ v_BK1SH, real_BT).reshape(P, -1)
    return linear(y_PX, w["attn_output.weight"]), (h_PD, q_BKGTH, k_BK1SH, v_BK1SH, probs_BKGTS, y_PX)


def attention_backward(da_PD, kept, w, config, real_BT, rotations_PR):
    """Back through y = p v, p = softmax(s), s = scale q k^T:

    dv = p^T dy, dp = dy v^T, ds = p (dp - sum(p dp)), dq = scale ds k, dk = scale ds^T q;
    dv and dk are sums over the G query heads that share them.
    """
    h_PD, q_BKGTH, k_BK1SH, v_BK1SH, probs_BKGTS, y_PX = kept
    P, plan = len(h_PD), config.layers[0].mixer
    dy_PX, dWo = linear_backward(da_PD, y_PX, w["attn_output.weight"])
    dy_BKGTH = to_heads(dy_PX.reshape(P, plan.n_heads, -1), real_BT, plan.n_kv_heads)
    dv_BK1SH = (probs_BKGTS.swapaxes(-1, -2) @ dy_BKGTH).sum(axis=2, keepdims=True)
    ds_BKGTS = softmax_backward(dy_BKGTH @ v_BK1SH.swapaxes(-1, -2), probs_BKGTS)
    ds_BKGTS *= plan.scale
    dq_BKGTH = ds_BKGTS @ k_BK1SH
    dk_BK1SH = (ds_BKGTS.swapaxes(-1, -2) @ q_BKGTH).sum(axis=2, keepdims=True)

    dq_PNH, dk_PKH, dv_PKH = (from_heads(x, real_BT) for x in (dq_BKGTH, dk_BK1SH, dv_BK1SH))
    dq_PX, dk_PX = (rope_backward(x, rotations_PR).reshape(P, -1) for x in (dq_PNH, dk_PKH))
    dh_q_PD, dWq = linear_backward(dq_PX, h_PD, w["attn_q.weight"])
    dh_k_PD, dWk = linear_backward(dk_PX, h_PD, w["attn_k.weight"])
    dh_v_PD, dWv = linear_backward(dv_PKH.reshape(P, -1), h_PD, w["attn_v.weight"])
    grads = {"attn_q.weight": dWq, "attn_k.weight": dWk, "attn_v.weight": dWv, "attn_output.weight": dWo}
    return dh_q_PD + dh_k_PD + dh_v_PD, grads


def to_heads(x_PMH, real_BT, K):
    """Rows of all texts -> one table a head and text, zero where a text has ended; (P, M, H) -> (B, K, M/K,
    T, H).
    """
    M, H = x_PMH.shape[1:]
    x_BTMH = np.zeros((*real_BT.shape, M, H), x_PMH.dtype)
    x_BTMH[real_BT] = x_PMH
    return x_BTMH.reshape(*real_BT.shape, K, M // K, H).transpose(0, 2, 3, 1, 4)


def from_heads(x_BKGTH, real_BT):
    """The inverse, and so the gradient, of `to_heads`."""
    x_BTKGH = x_BKGTH.transpose(0, 3, 1, 2, 4)
    return x_BTKGH.reshape(*real_BT.shape, -1, x_BTKGH.shape[-1])[real_BT]


# ---- Feed-forward: SwiGLU, arXiv:2002.05202


def ffn(g_PD, w):
    """(silu(g Wgate^T) * g Wup^T) Wdown^T; (P, D) -> (P, D)."""
    gate_PF, up_PF = linear(g_PD, w["ffn_gate.weight"]), linear(g_PD, w["ffn_up.weight"])
    y_PF = swiglu(gate_PF, up_PF)
    return linear(y_PF, w["ffn_down.weight"]), (g_PD, gate_PF, up_PF, y_PF)


def ffn_backward(df_PD, kept, w):
    """y = silu(gate) up: dup = dy silu(gate), dgate = dy up silu'(gate)."""
    g_PD, gate_PF, up_PF, y_PF = kept
    dy_PF, dWdown = linear_backward(df_PD, y_PF, w["ffn_down.weight"])
    dg_up_PD, dWup = linear_backward(dy_PF * silu(gate_PF), g_PD, w["ffn_up.weight"])
    dg_gate_PD, dWgate = linear_backward(silu_backward(dy_PF * up_PF, gate_PF), g_PD, w["ffn_gate.weight"])
    return dg_up_PD + dg_gate_PD, {
        "ffn_gate.weight": dWgate,
        "ffn_up.weight": dWup,
        "ffn_down.weight": dWdown,
    }


# ---- The small mathematics: forward functions are llmcore.ops' where they work in both precisions


def linear(x_PX, w_YX):
    """y = x W^T; (P, X), (Y, X) -> (P, Y)."""
    return x_PX @ w_YX.T


def linear_backward(dy_PY, x_PX, w_YX):
    """dx = dy W, dW = dy^T x."""
    return dy_PY @ w_YX, dy_PY.T @ x_PX


def rms_norm_backward(dy_PD, x_PD, gain_D, eps):
    """y = n gain with n = x r, r = 1 / sqrt(mean(x^2) + eps).

    dgain = sum over rows of dy n. dn = dy gain, and as r depends on all of x:
    dx = r (dn - n mean(n dn)), which takes out of dn the part along x, as y does not change when x grows.
    """
    r_P1 = 1 / np.sqrt(np.mean(x_PD * x_PD, axis=-1, keepdims=True) + eps)
    n_PD, dn_PD = x_PD * r_P1, dy_PD * gain_D
    dx_PD = r_P1 * (dn_PD - n_PD * np.mean(n_PD * dn_PD, axis=-1, keepdims=True))
    return dx_PD, np.sum(dy_PD * n_PD, axis=0)


def rope(x_PMH, rotations_PR):
    """Rotate each adjacent pair (a, b) of a head by its angle: (a + ib) (cos + i sin). arXiv:2104.09864."""
    pairs_PMR = x_PMH.view(np.result_type(x_PMH, np.complex64))
    return (pairs_PMR * rotations_PR[:, None]).view(x_PMH.dtype)


def rope_backward(dy_PMH, rotations_PR):
    """A rotation's transpose is the rotation back: by the conjugate."""
    return rope(dy_PMH, rotations_PR.conj())


def softmax_backward(dp, p):
    """p = softmax(s): dp_i/ds_j = p_i (1[i = j] - p_j), hence ds = p (dp - sum(p dp)) over the last axis."""
    return p * (dp - np.einsum("...s,...s->...", p, dp)[..., None])


def silu_backward(dy, x):
    """y = x sigmoid(x): dx = dy s (1 + x (1 - s)) with s = sigmoid(x), as s' = s (1 - s)."""
    s = sigmoid(x)
    return dy * (s * (1 + x * (1 - s)))


def cross_entropy(logits_PV, targets_P):
    """-mean ln softmax(logits)[target], in nats."""
    return -float(log_softmax(logits_PV)[np.arange(len(targets_P)), targets_P].mean())


def cross_entropy_backward(logits_PV, targets_P):
    """dlogits = (softmax(logits) - onehot(target)) / P: what the model expected, less what came."""
    dlogits_PV = softmax(logits_PV)
    dlogits_PV[np.arange(len(targets_P)), targets_P] -= 1
    dlogits_PV /= len(targets_P)
    return dlogits_PV
