"""A conversation -> token ids: the template's control tokens, the messages' plain text."""

import re
from contextlib import suppress
from functools import partial

from ..errors import ModelFileError
from .template import render_template


def encode_chat(tokenizer, messages: list[dict], *, add_generation_prompt: bool = True) -> list[int]:
    """The ids of a conversation, ready for the model's answer: the template's control tokens, the messages'
    plain text.

    One BOS, whether the template writes it or the tokenizer adds it. Raises what `render_template` raises,
    ValueError also for a model without a template, or one whose template has no place for a system message.
    """
    if tokenizer.chat_template is None:
        raise ValueError("this model has no chat template: it continues texts (generate), and answers none")
    bos, eos = (None if i is None else tokenizer.tokens[i] for i in (tokenizer.bos_id, tokenizer.eos_id))
    template = partial(render_template, tokenizer.chat_template, bos_token=bos, eos_token=eos)
    disarmed, stand_ins = _disarm(messages, tokenizer)
    text = _with_system(partial(template, add_generation_prompt=add_generation_prompt), disarmed)
    ids: list[int] = []
    for piece in tokenizer.special.split(text):
        ids += (
            [piece]
            if isinstance(piece, int)
            else tokenizer.encode(piece.translate(stand_ins), add_special=False)
        )
    return [tokenizer.bos_id, *ids] if tokenizer.add_bos and ids[:1] != [tokenizer.bos_id] else ids


def _disarm(messages, tokenizer):
    """The messages without the text of any control token, and the table that `str.translate` takes the
    changes back by.

    Where such a text begins, its first character gets a stand-in: a lone surrogate, which no text has (those
    of the messages become U+FFFD, as in encode). So the template sees all else as it is, and may trim, split
    and compare it.
    """
    heads = tokenizer.special.heads.items()
    stand_ins = {}

    def disarm(value, role=False):
        """The same value with every text in it disarmed, whatever it is nested in."""
        if isinstance(value, dict):
            return {disarm(key): disarm(item, role=key == "role") for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [disarm(item) for item in value]
        if not isinstance(value, str) or role:  # a role is the program's word; templates compare it
            return value
        text = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        present = [token for head, tokens in heads if head in text for token in tokens if token in text]
        control = [token for token in present if token not in tokenizer.user_defined.ids]
        if not control:
            return text
        for token in control:
            stand_ins.setdefault(token[0], chr(0xDD00 + len(stand_ins)))
        begins = re.compile(f"(?=({'|'.join(map(re.escape, control))}))(.)", re.DOTALL)
        return begins.sub(lambda match: stand_ins[match[2]], text)

    return disarm(messages), {ord(stand_in): head for head, stand_in in stand_ins.items()}


def _with_system(render, messages):
    """`render(messages)`; ValueError if their system text is refused or makes no difference."""
    system = [message for message in messages if message.get("role") == "system"]
    advice = (
        "this model's chat template has no system role: put that text at the head of the first user message"
    )
    try:
        text = render(messages)
    except ModelFileError:
        raise
    except ValueError as refusal:
        error = refusal
        if system:
            with suppress(ValueError):  # if they are refused without it too, something else is wrong
                render([message for message in messages if message not in system])
                error = ValueError(f"{advice} ({refusal})")
        raise error from None
    # A template may rewrite the text, but then another text makes another prompt.
    other = [message | {"content": "?"} if message in system else message for message in messages]
    if any(str(message.get("content")).strip() not in text for message in system) and render(other) == text:
        raise ValueError(advice)
    return text
