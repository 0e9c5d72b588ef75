"""The recipe of tests/data/autograd.npz: the loss and gradients of a small llama by torch's automatic
differentiation.

    PYTHON tests/record_autograd.py

writes the file anew; PYTHON is the interpreter of an environment with torch (2.13.0 wrote it) and numpy. The
forward pass is written here once more, in float64 and in torch's own functions, one text at a time and
without padding, from the definition of the architecture; nothing of scripts/training/backprop.py is used.
Weights are random float32 numbers, kept in the record.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

RECORD = Path(__file__).resolve().parent / "data" / "autograd.npz"
LAYERS, WIDTH, HEADS, KV_HEADS, FF, VOCAB = 2, 12, 6, 2, 10, 17
HEAD = (
    WIDTH // HEADS * 2
)  # 4; heads here are not a share of the width, so that no shape is mistaken for another
TEXTS = [[1, 5, 9, 5, 16, 2], [1, 3, 2], [1, 7, 7, 0, 11, 12, 13]]
EPS, BASE = 1e-5, 10000.0


def random_weights():
    """The parameters under GGUF's names, (out, in), gains included: nothing is 0 or 1."""
    rng = np.random.RandomState(0)
    q, kv = HEADS * HEAD, KV_HEADS * HEAD
    shapes = {"token_embd": (VOCAB, WIDTH), "output_norm": (WIDTH,)}
    for i in range(LAYERS):
        block = {"attn_norm": (WIDTH,), "attn_q": (q, WIDTH), "attn_k": (kv, WIDTH), "attn_v": (kv, WIDTH)}
        block |= {"attn_output": (WIDTH, q), "ffn_norm": (WIDTH,)}
        block |= {"ffn_gate": (FF, WIDTH), "ffn_up": (FF, WIDTH), "ffn_down": (WIDTH, FF)}
        shapes |= {f"blk.{i}.{name}": shape for name, shape in block.items()}
    return {
        f"{name}.weight": rng.normal(0.2, 0.5, shape).astype(np.float32) for name, shape in shapes.items()
    }


def norm(x, gain):
    """RMS norm."""
    return functional.rms_norm(x, gain.shape, gain, EPS)


def rotate(x):
    """RoPE in adjacent pairs, (heads, T, HEAD), by a matrix for each position."""
    rows = []
    for position in range(x.shape[1]):
        turn = torch.zeros(HEAD, HEAD, dtype=torch.float64)
        for pair in range(HEAD // 2):
            angle = torch.tensor(position * BASE ** (-2 * pair / HEAD), dtype=torch.float64)
            a, b = 2 * pair, 2 * pair + 1
            turn[a, a] = turn[b, b] = torch.cos(angle)
            turn[a, b], turn[b, a] = -torch.sin(angle), torch.sin(angle)
        rows.append(x[:, position] @ turn.T)
    return torch.stack(rows, dim=1)


def logits(w, ids):
    """Those of one text."""
    x = functional.embedding(ids, w["token_embd.weight"])
    for i in range(LAYERS):
        b = {name.split(".")[2]: tensor for name, tensor in w.items() if name.startswith(f"blk.{i}.")}
        h = norm(x, b["attn_norm"])
        q, k, v = (functional.linear(h, b[name]).unflatten(1, (-1, HEAD)).transpose(0, 1) for name in QKV)
        k, v = (tensor.repeat_interleave(HEADS // KV_HEADS, dim=0) for tensor in (rotate(k), v))
        y = functional.scaled_dot_product_attention(rotate(q), k, v, is_causal=True)
        x = x + functional.linear(y.transpose(0, 1).flatten(1), b["attn_output"])
        h = norm(x, b["ffn_norm"])
        gated = functional.silu(functional.linear(h, b["ffn_gate"])) * functional.linear(h, b["ffn_up"])
        x = x + functional.linear(gated, b["ffn_down"])
    return functional.linear(norm(x, w["output_norm.weight"]), w["token_embd.weight"])


QKV = ("attn_q", "attn_k", "attn_v")


def adamw_steps(w, grads):
    """The parameters after three steps of torch's AdamW, with these gradients times 1, -2 and 3."""
    groups = [
        {"params": [tensor for tensor in w.values() if tensor.ndim == 2], "weight_decay": 0.1},
        {"params": [tensor for tensor in w.values() if tensor.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.98), eps=1e-8)
    for factor in (1, -2, 3):
        for name, tensor in w.items():
            tensor.grad = factor * grads[name]
        optimizer.step()
    return w


def main():
    """Write the record."""
    weights = random_weights()
    w = {
        name: torch.tensor(array, dtype=torch.float64, requires_grad=True) for name, array in weights.items()
    }
    texts = [torch.tensor(text) for text in TEXTS]
    rows = torch.cat([logits(w, text[:-1]) for text in texts])
    loss = functional.cross_entropy(rows, torch.cat([text[1:] for text in texts]))
    loss.backward()
    grads = {name: tensor.grad.clone() for name, tensor in w.items()}
    record = {f"weight {name}": array for name, array in weights.items()}
    record |= {f"grad {name}": grad.numpy() for name, grad in grads.items()}
    record |= {f"stepped {name}": tensor.detach().numpy() for name, tensor in adamw_steps(w, grads).items()}
    ids = np.full((len(TEXTS), max(map(len, TEXTS))), -1)
    for row, text in zip(ids, TEXTS, strict=True):
        row[: len(text)] = text
    np.savez_compressed(RECORD, loss=loss.item(), ids=ids, **record)
    print(
        f"wrote {RECORD}: loss {loss.item():.6f}, torch {torch.__version__}, "
        f"{RECORD.stat().st_size / 1e3:.1f} kB"
    )


if __name__ == "__main__":
    main()
