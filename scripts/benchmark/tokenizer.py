"""How fast texts become ids, beside the `tokenizers` and `sentencepiece` libraries where they are installed.

    python scripts/benchmark/tokenizer.py MODEL.gguf [--megabytes 1] [--runs 5]

Prints seconds to make the tokenizer, medians of alternating runs over a mixed text, and the time for texts
that are hard on merges. Each run makes the tokenizer afresh, so that no cache of words is warm.
"""

import argparse
import random
import re
import statistics
import string
import sysconfig
import time
from pathlib import Path

from llmcore import load_tokenizer
from llmcore.loader import read_gguf
from llmcore.splits import SPLITS


def mixed_text(size, seed=0):
    """About `size` bytes of English and code (Python's own library), Polish, Chinese, numbers and emoji."""
    rng = random.Random(seed)
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    code = "".join(
        path.read_text(encoding="utf-8", errors="replace") for path in rng.sample(library, len(library) // 2)
    )
    syllables = re.findall(r"\w+", "nie prze wy za po do je mi ło wa ść ą czy szcz rze ów ny")
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(20_000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]  # Zipf's law
    hanzi = [chr(0x4E00 + i) for i in rng.sample(range(0x51A5), 4000)]

    def chinese():
        end = rng.choice("，。！？\n")  # noqa: RUF001
        return "".join(rng.choices(hanzi, weights[: len(hanzi)], k=rng.randint(5, 20))) + end

    def polish():
        return " ".join(rng.choices(words, weights, k=rng.randint(3, 12))).capitalize() + rng.choice(
            [". ", ", ", "?\n"]
        )

    def numbers():
        emoji = "".join(chr(rng.randrange(0x1F600, 0x1F64F)) for _ in range(rng.randint(1, 3)))
        number = f"{rng.random() * 10 ** rng.randint(0, 9):.{rng.randint(0, 6)}f}"
        return f"{number} {emoji}{rng.choice(string.punctuation)} "

    parts, total, place = [], 0, 0
    while total < size:
        kind = rng.randrange(4)
        if kind == 0:
            part, place = code[place : place + 400], place + 400
        else:
            part = "".join((polish, chinese, numbers)[kind - 1]() for _ in range(6))
        parts.append(part)
        total += len(part.encode())
    return "".join(parts)


def peer(metadata):
    """(name, encode) of the library that does the same work, or None."""
    tokens = metadata["tokenizer.ggml.tokens"]
    try:
        if metadata["tokenizer.ggml.model"] == "llama":
            import sentencepiece

            from llmcore import tokenizer

            processor = sentencepiece.SentencePieceProcessor()
            processor.LoadFromSerializedProto(
                tokenizer._model_proto(tokenizer.Vocabulary(metadata, "bench"), [])
            )
            return "sentencepiece", lambda text: processor.encode(" " + text)
        from tokenizers import Regex, models, normalizers, pre_tokenizers
        from tokenizers import Tokenizer as Peer

        split = SPLITS[metadata.get("tokenizer.ggml.pre", "default")]
        merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
        vocabulary = {token: i for i, token in enumerate(tokens)}
        if metadata["tokenizer.ggml.model"] == "gemma4":
            other = Peer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
            other.normalizer = normalizers.Replace(" ", "▁")
            return "tokenizers", lambda text: other.encode(text, add_special_tokens=False).ids
        other = Peer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=split.ignore_merges))
        cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in split.patterns]
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        other.pre_tokenizer = pre_tokenizers.Sequence([*cuts, level])
        return "tokenizers", lambda text: other.encode(text, add_special_tokens=False).ids
    except ImportError:
        return None


def seconds(work):
    """Time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--megabytes", type=float, default=1)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    text = mixed_text(int(args.megabytes * 1e6))
    ours, theirs, made = [], [], []
    for _ in range(args.runs):
        made.append(seconds(lambda: load_tokenizer(args.model)))
        tokenizer = load_tokenizer(args.model)
        ours.append(seconds(lambda tokenizer=tokenizer: tokenizer.encode(text, add_special=False)))
        if other := peer(read_gguf(args.model).metadata):
            theirs.append(seconds(lambda other=other: other[1](text)))
    n_bytes, n_ids = len(text.encode()), len(tokenizer.encode(text, add_special=False))
    print(f"{args.model.name}: made in {statistics.median(made):.2f} s")
    print(f"{n_bytes / 1e6:.2f} MB, {n_ids} ids: llmcore {statistics.median(ours):.3f} s", end="")
    if theirs:
        ratio = statistics.median(ours) / statistics.median(theirs)
        same = (
            "the same ids"
            if other[1](text) == tokenizer.encode(text, add_special=False)
            else "other ids: it knows no special tokens"
        )
        print(f", {other[0]} {statistics.median(theirs):.3f} s ({same}), ratio {ratio:.2f}", end="")
    print()
    rng = random.Random(1)
    for name, hard in (
        ("100,000 random letters", "".join(rng.choices(string.ascii_lowercase, k=100_000))),
        ("100,000 times a", "a" * 100_000),
        ("1,000,000 newlines", "\n" * 1_000_000),
        ("1,000,000 spaces", " " * 1_000_000),
    ):
        print(
            f"{name}: {seconds(lambda hard=hard: load_tokenizer(args.model).encode(hard)) - made[-1]:.2f} s"
        )


if __name__ == "__main__":
    main()
