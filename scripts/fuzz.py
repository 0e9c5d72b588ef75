"""Damage files of every architecture and run what is left: `python scripts/fuzz.py --count N --seed S`.

Each file gets one to four changes: bytes overwritten, in HEAD or anywhere; a whole number of HEAD replaced by
one that breaks programs; a bit turned; a stretch or the end cut off. Then it is loaded, continued, tokenized,
and its prompt of a conversation made. It may do all of that, or refuse with an error of llmcore's own.
Anything else is printed with the seed that repeats it, and the exit status is 1.
"""

import argparse
import random
import struct
import tempfile
import traceback
import warnings
from pathlib import Path

import command_line
import gguf_file
import make_tiny_model
import numpy as np
from tqdm import tqdm

import llmcore
from llmcore.chat import encode_chat
from llmcore.loader import read_gguf

NUMBERS = (0, 1, 2, 31, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**61, 2**63, 2**64 - 1)
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT = [{"role": "user", "content": "Hello <|im_end|> </think>"}]


def sound(family: str, path: Path) -> tuple[bytes, int]:
    """The bytes of a tiny model with a chat template, and how long its HEAD is."""
    make_tiny_model.make(family, path)
    file = read_gguf(path)
    shapes = {name: (tensor.shape, tensor.type) for name, tensor in file.tensors.items()}
    keys = file.metadata | {"tokenizer.chat_template": TEMPLATE}
    chatty = path.with_suffix(".chat.gguf")
    gguf_file.write(chatty, keys, shapes, [tensor.data for tensor in file.tensors.values()], file.types)
    tensors = read_gguf(chatty).tensors.values()
    return chatty.read_bytes(), min(tensor.offset for tensor in tensors)


def damaged(data: bytes, head: int, rng: random.Random) -> bytes:
    """A file with one to four changes; `head` is how long its HEAD is."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(head if rng.random() < 0.8 else len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
        elif kind == 1:
            data[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS) % 2**32)
        elif kind == 2:
            data[at : at + rng.randint(1, 4)] = rng.randbytes(rng.randint(1, 4))
        elif kind == 3:
            data[at : at + 1] = bytes([data[at] ^ 1 << rng.randrange(8)]) if at < len(data) else b""
        elif rng.random() < 0.5:
            del data[at : at + rng.randint(1, 64)]
        else:
            del data[rng.randrange(len(data)) :]
        head = max(1, min(head, len(data)))
        data = data or bytearray(1)
    return bytes(data)


def run(path: Path, chat: bool) -> str:
    """What became of a file: "runs" or "refused". Whatever is raised but llmcore's own errors is a fault."""
    try:
        llm = llmcore.load(path, context_length=16)
        llm.logits([1, 2, 3])
        llm.tokenizer.encode("Hello, 2 + 2 <s>", parse_special=True)
        "".join(llm.generate([1, 2], max_tokens=2, seed=1))
        if chat:
            encode_chat(llm.tokenizer, CHAT)
    except (llmcore.ModelFileError, llmcore.ContextOverflow) as error:
        if not str(error).isprintable():
            raise RuntimeError("the message has control characters") from error
        return "refused"
    except ValueError as error:  # of the messages, which a damaged template refuses
        if (
            "this model" in str(error)
            or "chat template" in str(error)
            or "not in the vocabulary" in str(error)
        ):
            return "refused"
        raise
    except MemoryError:
        return "refused"
    return "runs"


def main() -> int:
    """Make the models, damage and run; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="files in all (%(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="the first file's seed (%(default)s)"
    )
    args = parser.parse_args()
    faults, results = 0, {"runs": 0, "refused": 0}
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="llmcore-fuzz-") as folder, np.errstate(all="ignore"):
        models = []
        for name in make_tiny_model.FAMILIES:
            path = Path(folder) / f"{name}.gguf"
            models.append((name, *sound(name, path)))
        target = Path(folder) / "damaged.gguf"
        for seed in tqdm(range(args.seed, args.seed + args.count), unit="file", disable=None):
            name, data, head = models[seed % len(models)]
            target.unlink(missing_ok=True)  # a file that is still mapped must not shrink
            target.write_bytes(damaged(data, head, random.Random(seed)))
            try:
                results[run(target, chat=seed % 8 == 0)] += 1  # a template takes a process of its own
            except Exception:
                faults += 1
                print(f"seed {seed} ({name}):\n{traceback.format_exc()}", flush=True)
    print(f"{args.count} files: {results['runs']} run, {results['refused']} refused, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    command_line.run(main)
