"""The archive of a tiny llama model: its head, a body of random numbers to begin with, and the file of both.

Training changes the body's numbers and nothing else; the head is made once, before the first step.
"""

import io
import math
from pathlib import Path

import gguf_file
import numpy as np
import sentencepiece

from llmcore.tokenizers.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN

UNK_ID, BOS_ID, EOS_ID = 0, 1, 2
SMALLEST_VOCABULARY = 3 + 256 + 1  # the special tokens, the bytes, and ▁


def model_keys(*, layers, width, heads, kv_heads, ff, context) -> dict:
    """The keys that say what shape the model has. Raises ValueError for sizes that make no model."""
    if width % heads or width // heads % 2:
        raise ValueError(f"a width of {width} does not make {heads} heads of an even width")
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads cannot share {kv_heads} key/value heads evenly")
    return {
        "general.architecture": "llama",
        "general.name": "tiny llama of scripts/train.py",
        "llama.context_length": context,
        "llama.embedding_length": width,
        "llama.block_count": layers,
        "llama.feed_forward_length": ff,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": width // heads,
        "llama.rope.freq_base": 10000.0,
    }


def learn_pieces(lines: list[str], vocab: int) -> sentencepiece.SentencePieceProcessor:
    """A vocabulary of at most `vocab` tokens, learned from lines of text.

    Byte pair encoding (Sennrich et al. 2016, arXiv:1508.07909) joins the most frequent pair again and again;
    each join's score says when it was. Raises ValueError where there is nothing to learn from or too few
    tokens are allowed.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab,
            hard_vocab_limit=False,  # a text of few words needs fewer
            byte_fallback=True,
            character_coverage=0.9995,  # what is rarer falls to bytes
            normalization_rule_name="identity",  # the engine normalizes nothing either
            remove_extra_whitespaces=False,
            max_sentence_length=1 << 20,
            num_threads=1,  # for the same result each time
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            minloglevel=3,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"no vocabulary of {vocab} tokens can be made of this text: {reason:.300}"
        ) from error
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def tokenizer_keys(lines: list[str], vocab: int) -> dict:
    """A vocabulary of at most `vocab` tokens learned from lines of text, as the keys that hold it."""
    pieces = learn_pieces(lines, vocab)
    ids = range(len(pieces))
    kind = {UNK_ID: UNKNOWN, BOS_ID: CONTROL, EOS_ID: CONTROL}
    return {
        "llama.vocab_size": len(pieces),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [pieces.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": np.array([pieces.get_score(i) for i in ids], np.float32),
        "tokenizer.ggml.token_type": np.array(
            [kind.get(i, BYTE if pieces.is_byte(i) else NORMAL) for i in ids], np.int32
        ),
        "tokenizer.ggml.bos_token_id": BOS_ID,
        "tokenizer.ggml.eos_token_id": EOS_ID,
        "tokenizer.ggml.unknown_token_id": UNK_ID,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def shapes(keys: dict) -> dict[str, tuple[int, ...]]:
    """The tensors of a model and their shapes, (out, in) as the file has them; the output matrix is the
    embedding.
    """
    D, F, V = (keys[f"llama.{name}"] for name in ("embedding_length", "feed_forward_length", "vocab_size"))
    kv_width = D // keys["llama.attention.head_count"] * keys["llama.attention.head_count_kv"]
    in_block = {
        "attn_norm.weight": (D,),
        "attn_q.weight": (D, D),
        "attn_k.weight": (kv_width, D),
        "attn_v.weight": (kv_width, D),
        "attn_output.weight": (D, D),
        "ffn_norm.weight": (D,),
        "ffn_gate.weight": (F, D),
        "ffn_up.weight": (F, D),
        "ffn_down.weight": (D, F),
    }
    in_blocks = {
        f"blk.{i}.{name}": shape for i in range(keys["llama.block_count"]) for name, shape in in_block.items()
    }
    return {"token_embd.weight": (V, D), **in_blocks, "output_norm.weight": (D,)}


def random_start(keys: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The body before training, float32: gains 1, matrices normal.

    A matrix of n inputs with a spread of 1/sqrt(n) passes numbers on as large as they came. The two that
    write into the residual stream are smaller by sqrt(2 L), as it sums what 2 L of them write (GPT-2). Small
    embeddings make all tokens about equally likely, a loss of ln V.
    """
    params = {}
    for name, shape in shapes(keys).items():
        if len(shape) == 1:
            params[name] = np.ones(shape, np.float32)
            continue
        spread = 0.02 if name == "token_embd.weight" else 1 / math.sqrt(shape[1])
        if name.endswith(("attn_output.weight", "ffn_down.weight")):
            spread /= math.sqrt(2 * keys["llama.block_count"])
        params[name] = rng.normal(0, spread, shape).astype(np.float32)
    return params


def write_archive(path: Path, keys: dict, params: dict[str, np.ndarray]) -> None:
    """Write head and body as a GGUF file."""
    gguf_file.write(
        path, keys, {name: (array.shape, "F32") for name, array in params.items()}, params.values()
    )
