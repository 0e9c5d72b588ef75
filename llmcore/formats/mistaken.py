"""What a file seems to be that is no GGUF file."""

MAGICS = {  # how files begin that are opened by mistake
    b"PK\x03\x04": "a zip archive (a PyTorch checkpoint?)",
    b"\x1f\x8b": "compressed with gzip",
    b"lmgg": "a GGML file, which is older than GGUF",
    b"fmgg": "a GGMF file, which is older than GGUF",
    b"tjgg": "a GGJT file, which is older than GGUF",
}


def what_else(start: bytes) -> str:
    """Guess from its first bytes what a file is."""
    for magic, description in MAGICS.items():
        if start.startswith(magic):
            return f"it is {description}"
    if start[8:10] == b'{"':
        return "it looks like safetensors; convert it with convert_hf_to_gguf.py of llama.cpp"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        return f"it is text, {start[:40].decode()!r}; was a web page or a Git LFS pointer saved in its place?"
    return f"it begins with the bytes {start[:4].hex(' ')}"
