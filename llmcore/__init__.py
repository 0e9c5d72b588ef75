"""llmcore: a minimal LLM inference engine in NumPy. `load` opens a model; loader.py begins the story."""

from importlib import import_module

from .errors import ContextOverflow, ModelFileError, UnsupportedModel

# Imported on first use: `python -m llmcore.loader` needs no engine, and must not find itself loaded already.
_HOMES = {"LLM": "llm", "load": "llm", "load_tokenizer": "llm", "Tokenizer": "tokenizer"}

__all__ = [
    "LLM",
    "ContextOverflow",
    "ModelFileError",
    "Tokenizer",
    "UnsupportedModel",
    "chat",
    "load",
    "load_tokenizer",
]


def __getattr__(name):
    if name == "chat":
        return import_module(".chat", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module 'llmcore' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
