"""The errors a user can put right.

Each message says what is wrong, where, and what to do; the command line prints it as one line.
"""


class ModelFileError(ValueError):
    """The model file is damaged or contradicts itself; the message names the file and the key or tensor."""


class UnsupportedModel(ModelFileError):
    """The file is sound, but its architecture, tokenizer or tensor type is one we lack; the message lists ours."""


class ContextOverflow(ValueError):
    """The prompt does not fit into the context; the message gives both numbers."""


class HubError(ValueError):
    """The Hugging Face hub has no such model, refuses it or cannot be reached; the message says what to do."""
