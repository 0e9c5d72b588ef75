"""What a file is that was opened by mistake, and what to do instead: asked only once something is wrong."""

import mmap
import re
from collections.abc import Iterable
from pathlib import Path

STARTS = {  # how files of other formats begin
    b"PK\x03\x04": "a zip archive (a PyTorch checkpoint?)",
    b"\x1f\x8b": "compressed with gzip; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it",
    b"\xfd7zXZ\x00": "compressed with xz; unpack it",
    b"BZh": "compressed with bzip2; unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"lmgg": "a GGML file, which is older than GGUF",
    b"fmgg": "a GGMF file, which is older than GGUF",
    b"tjgg": "a GGJT file, which is older than GGUF",
}
PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|\?xml|!--)", re.I)
POINTER = b"version https://git-lfs"
PIECE = re.compile(
    r".*(?:-split-[a-z]+|\.part-?[\da-z]+(?:of\d+)?|\.\d{3})"
)  # cut with `split`, to be joined with cat

IMAGES = "the part of a model that looks at images (mmproj); open the file of the language model beside it"
KINDS = {  # general.type (or, where that is missing, general.architecture) -> what such a file is
    "adapter": "a LoRA adapter, changes to another model's weights: merge it into that model first"
    " (llama-export-lora of llama.cpp writes the merged GGUF file)",
    "mmproj": IMAGES,
    "clip": IMAGES,
    "clip-vision": IMAGES,
    "imatrix": "statistics of a model for quantizing it (imatrix), not the model",
    "controlvector": "a control vector, to be added to another model's activations, not a model",
}


def format_of(start: bytes) -> str:
    """What a file is by its first bytes, in words."""
    for magic, description in STARTS.items():
        if start.startswith(magic):
            return f"it is {description}"
    if start[8:10] == b'{"':
        return "it looks like safetensors; convert it with convert_hf_to_gguf.py of llama.cpp"
    shown = repr(start[:40].decode("utf-8", "ignore"))
    if PAGE.match(start):
        return f"it is a web page, {shown}; download the file itself, not the page that shows it"
    if start.startswith(POINTER):
        return f"it is text, {shown}, a Git LFS pointer in the file's place; get the file with `git lfs pull`"
    if is_text(start):
        return f"it is text, {shown}; was a web page or a Git LFS pointer saved in its place?"
    return f"it begins with the bytes {start[:4].hex(' ')}"


def is_text(start: bytes) -> bool:
    """Whether bytes are text in UTF-8, the last character of which may be cut."""
    if PAGE.match(start):
        return True
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(start) - error.start > 3 or error.reason != "unexpected end of data":
            return False
        text = start[: error.start].decode("utf-8")
    return text != "" and all(letter.isprintable() or letter in "\t\r\n\ufeff" for letter in text)


def cut_short(path: Path) -> str:
    """What to do about a file that ends too early, or does not begin as one."""
    if PIECE.fullmatch(path.name):
        return "is it a piece of a file? join all pieces in order first: cat PIECE1 PIECE2 ... >WHOLE.gguf"
    return "is the download complete?"


def joined_parts(path: Path, end: int) -> bool:
    """Whether the parts of a split model were joined: another file begins behind the tensors of this one."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"GGUF\x03\0\0\0", end) >= 0


def address(path: str) -> str:
    """What to do with an address of the web where a file should be."""
    hub = re.match(r"\w+://[^/]+/([\w.-]+/[\w.-]+)/(?:resolve|blob)/([^/]+)/([^?#]+\.gguf)", path)
    name = f", or name it hf:{hub[1]}/{hub[3]}" + ("" if hub[2] == "main" else f"@{hub[2]}") if hub else ""
    return f"this is an address, not a file; download the file and open that{name}"


def kind_of_file(metadata: dict) -> str | None:
    """What a sound GGUF file is that holds no language model; None where nothing says so."""
    if "clip.has_vision_encoder" in metadata or "clip.has_audio_encoder" in metadata:
        return IMAGES
    return next((KINDS[name] for key in ("general.type", "general.architecture")
                 if isinstance(name := metadata.get(key), str) and name in KINDS), None)  # fmt: skip


def why_unread(names: Iterable[str]) -> str:
    """What tensors that nothing reads mean for the user."""
    if all(re.match(r"(v|mm|a|s)\.|vision_|audio_|resampler\.", name) for name in names):
        return (
            "; they look at images or sound, which llmcore does not: this is a language model and its mmproj"
            " in one file, as ollama keeps them; get the GGUF file of the language model alone"
        )
    return "; the text would be wrong without it"
