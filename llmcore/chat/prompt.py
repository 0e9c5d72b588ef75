"""A conversation -> token ids: the template's control tokens, the messages' plain text."""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from ..errors import ModelFileError
from .template import render_template

OURS = {"messages", "add_generation_prompt", "bos_token", "eos_token", "template", "tools"}
END = "\udfff "  # behind the text of a message: a lone surrogate, which no text has


def encode_chat(
    tokenizer,
    messages: list[dict],
    *,
    add_generation_prompt: bool = True,
    tools: Iterable | None = None,
    template: Mapping[str, Any] | None = None,
    continue_final_message: bool = False,
) -> list[int]:
    """The ids of a conversation, ready for the model's answer: the template's control tokens, the messages'
    plain text.

    `tools` are functions or JSON schemas, `template` further variables that the template reads. With
    `continue_final_message` the prompt ends with the text of the last message, for the model to go on with.

    One BOS, whether the template writes it or the tokenizer adds it. Raises what `render_template` raises,
    ValueError also for a model without a template, or one whose template has no place for a system message.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "this model has no chat template, it only continues texts: python -m llmcore.generate"
        )
    bos, eos = (None if i is None else tokenizer.tokens[i] for i in (tokenizer.bos_id, tokenizer.eos_id))
    (disarmed, variables), stand_ins = _disarm([messages, checked_variables(template, tools)], tokenizer)
    render = partial(render_template, tokenizer.chat_template, bos_token=bos, eos_token=eos, **variables)
    if continue_final_message:
        text = _continued(partial(render, add_generation_prompt=False), disarmed)
    else:
        text = _with_system(partial(render, add_generation_prompt=add_generation_prompt), disarmed)
    ids = []
    for piece in tokenizer.special.split(text):
        ids += (
            [piece]
            if isinstance(piece, int)
            else tokenizer.encode(piece.translate(stand_ins), add_special=False)
        )
    return [tokenizer.bos_id, *ids] if tokenizer.add_bos and ids[:1] != [tokenizer.bos_id] else ids


def checked_variables(template: Mapping[str, Any] | None, tools: Iterable | None) -> dict[str, Any]:
    """The variables that a template gets beside the messages. Raises ValueError for one that is not a
    caller's to set, and one that is no JSON value.
    """
    variables = {} if template is None else template
    if not isinstance(variables, Mapping) or not all(isinstance(name, str) for name in variables):
        raise ValueError(
            f'template is {template!r}; it must map names to values, like {{"enable_thinking": False}}'
        )
    if taken := OURS & variables.keys():
        raise ValueError(f"template: {min(taken)} is set by the conversation and the model, not by hand")
    try:
        json.dumps(dict(variables), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"template: {template!r:.200} holds what is no JSON value ({error})") from None
    if tools is None:
        return dict(variables)
    from .tools import tools_for  # here, because few conversations have tools

    return {**variables, "tools": tools_for(tools)}


def _continued(render, messages):
    """What `render` makes of messages, up to the end of the last one's text, as transformers does it
    (utils/chat_template_utils.py). Raises ValueError if it has none, or none that the template shows.
    """
    *before, last = messages or [{}]
    parts = last.get("content")
    texts = (
        [i for i, part in enumerate(parts) if isinstance(part, dict) and isinstance(part.get("text"), str)]
        if isinstance(parts, list)
        else []
    )
    if not isinstance(parts, str) and not texts:
        raise ValueError("continue_final_message: the last message has no text to go on with")
    if texts:
        final = parts[texts[-1]]["text"]
        parts = [*parts]
        parts[texts[-1]] = parts[texts[-1]] | {"text": final + END}
    else:
        final, parts = parts, parts + END
    text = _with_system(render, [*before, last | {"content": parts}])
    end = text.rfind(END.strip())
    if end < 0 or final.strip() not in text:
        raise ValueError(
            "continue_final_message: this model's chat template does not show the last message as it is"
        )
    # A template that trims texts has trimmed the space of END; then it would have trimmed the text too.
    return text[:end] if text[end:].startswith(END) else text[:end].rstrip()


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
