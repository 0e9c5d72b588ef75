"""A conversation -> token ids: the template's markup, the messages' plain text."""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from ..errors import ModelFileError
from .messages import plain_messages
from .reasoning import reasoning_of
from .template import render_template

OURS = {"messages", "add_generation_prompt", "bos_token", "eos_token", "template", "tools"}
ROLES = {"system", "developer", "user", "assistant", "tool", "function", "ipython", "model"}
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
    """The ids of a conversation, ready for the model's answer: the template's markup, the messages' plain
    text.

    `tools` are functions or JSON schemas (see `tools_for`), `template` further variables that the template
    reads. With `continue_final_message` the prompt ends with the text of the last message, for the model to
    go on with. Whatever the template uses as markup is plain text in all of these. One BOS, whether the
    template writes it or the tokenizer adds it.

    Raises what `render_template` raises, ValueError also for a model without a template, or one whose
    template has no place for a system message, or leaves out the last message.
    """
    if tokenizer.chat_template is None:
        raise ValueError("this model has no chat template: it continues texts (generate), and answers none")
    bos, eos = (None if i is None else tokenizer.tokens[i] for i in (tokenizer.bos_id, tokenizer.eos_id))
    disarm = Disarm(tokenizer)
    messages = [disarm.message(message) for message in plain_messages(messages)]
    given = disarm.value({"tools": None} | checked_variables(template, tools))
    options = given | {"bos_token": bos, "eos_token": eos}
    options["add_generation_prompt"] = add_generation_prompt and not continue_final_message
    render = partial(render_template, tokenizer.chat_template, **options)
    make = _continued if continue_final_message else _complete
    try:
        text = make(render, messages)
    except ModelFileError as error:
        # A template made for tools alone takes an empty list of them, or its own name for it (firefunction).
        listed = given["tools"] or []
        with suppress(ValueError):
            more = {"tools": listed, "functions": json.dumps(listed), "datetime": f"{datetime.now():%c}"}
            return disarm.finish(make(partial(render, **more), messages))
        raise error from None
    return disarm.finish(text)


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
    final = messages[-1]["content"] if messages else ""
    if not final:
        raise ValueError("continue_final_message: the last message has no text to go on with")
    text = _complete(render, [*messages[:-1], messages[-1] | {"content": final + END}])
    end = text.rfind(END.strip())
    if end < 0 or final.strip() not in text:
        raise ValueError(
            "continue_final_message: this model's chat template does not show the last message as it is"
        )
    # A template that trims texts has trimmed the space of END; then it would have trimmed the text too.
    return text[:end] if text[end:].startswith(END) else text[:end].rstrip()


class Disarm:
    """Makes plain text of the tokens in messages, and knows them again in the prompt.

    Where the text of a token begins, its first character gets a stand-in: a lone surrogate, which no text has
    (those of the messages become U+FFFD, as in encode). So the template sees all else as it is, and may trim,
    split and compare it; and what still is the text of a token in the prompt was written by the template. Of
    the user-defined tokens, which are found in any text, those that the template writes or looks for are
    markup, as control tokens are; the others (white space, words, tags of HTML) are tokens in messages, too.
    """

    def __init__(self, tokenizer):
        """Nothing is disarmed yet."""
        self.tokenizer, self.stand_ins = tokenizer, {}
        user_defined = tokenizer.user_defined.ids
        self.named = {
            text for text in user_defined if may_be_markup(text) and text in tokenizer.chat_template
        }
        markers = reasoning_of(tokenizer.chat_template)
        is_text = markers and not any(
            text in markers.open + markers.close
            for text in tokenizer.special.ids.keys() - user_defined.keys()
        )
        self.markers = markers if is_text and not markers.anywhere else None

    def message(self, message: dict) -> dict:
        """A message with all its texts disarmed. The thought that an answer begins with keeps its markers."""
        plain = self.value(message)
        if message["role"] in ROLES:  # the program's word, which templates compare
            plain["role"] = message["role"]
        if message["role"] == "assistant" and self.markers:
            plain["content"] = self._answer(message["content"])
        return plain

    def value(self, value):
        """The same value with every text in it disarmed, whatever it is nested in."""
        if isinstance(value, dict):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return self._text(value) if isinstance(value, str) else value

    def finish(self, text: str) -> list[int]:
        """The ids of a prompt made of disarmed messages, with one BOS if the model wants it."""
        tokenizer = self.tokenizer
        pieces, types = tokenizer.special.split(text), tokenizer.user_defined.ids
        written = {tokenizer.tokens[piece] for piece in pieces if isinstance(piece, int)}
        markup = self.named | {text for text in written if may_be_markup(text)}
        found = {text: i for text, i in types.items() if text not in markup}
        plain = replace(tokenizer, user_defined=type(tokenizer.special)(found, tokenizer.special.strips))
        table = {ord(stand_in): head for head, stand_in in self.stand_ins.items()}
        ids: list[int] = []
        for piece in pieces:
            is_token = isinstance(piece, int)
            ids += [piece] if is_token else plain.encode(piece.translate(table), add_special=False)
        return [tokenizer.bos_id, *ids] if tokenizer.add_bos and ids[:1] != [tokenizer.bos_id] else ids

    def _text(self, text):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        special, user_defined = self.tokenizer.special, self.tokenizer.user_defined.ids
        present = [
            token
            for head, tokens in special.heads.items()
            if head in text
            for token in tokens
            if token in text
        ]
        armed = [token for token in present if token not in user_defined or may_be_markup(token)]
        if not armed:
            return text
        for token in armed:
            self.stand_ins.setdefault(token[0], chr(0xDD00 + len(self.stand_ins)))
        begins = re.compile(f"(?=({'|'.join(map(re.escape, armed))}))(.)", re.DOTALL)
        return begins.sub(lambda match: self.stand_ins[match[2]], text)

    def _answer(self, text):
        """An answer: templates look for the markers of the thought that it begins with, to leave that out."""
        head, close, rest = text.partition(self.markers.close)
        thought = head.lstrip().removeprefix(self.markers.open)
        opened = thought != head.lstrip()
        looks = re.search(rf"split\(\s*['\"]{re.escape(self.markers.close)}", self.tokenizer.chat_template)
        if not close or not (opened or looks):
            return self._text(text)
        return (self.markers.open if opened else "") + self._text(thought) + close + self._text(rest)


def may_be_markup(token: str) -> bool:
    """Whether a user-defined token is more than a word, white space or punctuation.

    >>> [may_be_markup(token) for token in ("</think>", '<|"|>', "▁▁", "the", "```")]
    [True, True, False, False, False]
    """
    plain = token.replace("▁", "")
    is_tag = len(plain) > 2 and plain[0] == "<" and plain[-1] == ">"
    return is_tag or (any(map(str.isalpha, plain)) and not plain.isalnum())


def _complete(render, messages):
    """`render(messages)`; ValueError if a system text or the last message is refused or left out."""
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
    if _leaves_out(system, messages, text, render):
        raise ValueError(advice)
    if _leaves_out(messages[-1:], messages, text, render):
        role = messages[-1]["role"]
        raise ValueError(f"this model's chat template leaves out the last message, of the role {role!r}")
    return text


def _leaves_out(some, messages, text, render):
    """Whether the prompt would be the same with another text in some of the messages."""
    if all(message["content"].strip() in text for message in some):
        return False
    # A template may rewrite the text, but then another text makes another prompt.
    other = [message | {"content": "?"} if message in some else message for message in messages]
    with suppress(ValueError):
        return render(other) == text
    return False
