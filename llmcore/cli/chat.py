"""A conversation in the terminal: `python -m llmcore.chat --model M`.

Each turn is one prompt, the whole conversation so far. The KV cache of the turn before holds nearly all of it already,
so only what is new is processed. Answers go to standard output, all else to standard error. Without a terminal each
line of standard input is a turn, and the first error ends the conversation with exit status 1.
"""

import argparse
import json
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import numpy as np

from ..chat import encode_chat
from ..errors import ContextOverflow
from ..llm import LLM
from ..sampling import Sampling
from ..writing import CONTEXT_FULL, STOP_STRING, decode_tokens, overlap, until_stop
from .command import command_line, open_model
from .options import OPTIONS, SWITCHES, add_options
from .report import Clock

THINK, THOUGHT = "<think>", "</think>"  # what reasoning models write around their reasoning
DIM, PLAIN = "\033[2m", "\033[0m"
STOP, DROP = "stop", "drop-oldest"  # what to do when the context is full
INTERRUPTED = "interrupted"


@dataclass
class Conversation:
    """Messages, and what the cache holds of them: the one thing that changes while the program runs."""

    llm: LLM
    how: Sampling
    rng: np.random.Generator  # seeds the answers, so that one seed repeats a conversation, and /retry no answer
    max_tokens: int
    draft: int | None  # tokens to guess ahead, see drafting.py
    stop: list[str]
    policy: str  # STOP or DROP
    say: Callable[[str], None]
    write: Callable[[str, bool], None]  # a piece of an answer, and whether it is reasoning
    ask: Callable[[str], bool]  # told that the context is full: shall the oldest turns be dropped?
    messages: list[dict] = field(default_factory=list)
    costs: list[str] = field(default_factory=list)  # of each answer, one line

    def __post_init__(self):
        self.forget()

    def forget(self):
        """Begin with an empty cache."""
        self.cache, self.ids = self.llm.empty_cache(), []  # the first cache.length of the ids are in the cache

    def answer(self) -> str:
        """Have the last message answered; returns how the answer ended. What was written before Ctrl-C stays."""
        ids = self.as_written(self.prompt_ids())
        # one token at least is left to process: its logits choose the next
        n_cached = self.cache.truncate(min(n_equal(self.ids, ids), self.cache.length, len(ids) - 1))
        self.ids = list(ids)
        thinking = self.llm.tokenizer.decode(ids[-8:], special=True).rstrip().endswith(THINK)
        written = [THINK + "\n"] if thinking else []
        seed, clock = int(self.rng.integers(1 << 32)), Clock()
        with deferred_interrupt() as interrupts:
            try:
                options = {"max_tokens": self.max_tokens, "sampling": self.how, "seed": seed, "draft": self.draft}
                tokens = self.llm.tokens(ids, cache=self.cache, **options)
                pieces = decode_tokens(self.llm.tokenizer, self.noted(clock.watch(tokens), interrupts))
                for piece, is_reasoning in reasoning(until_stop(pieces, self.stop), thinking):
                    written.append(piece)
                    self.write(piece, is_reasoning)
            except KeyboardInterrupt:  # a second one: the cache may be in the middle of something
                self.forget()
        self.write("\n", False)
        if interrupts and not written:
            raise KeyboardInterrupt
        text, end = "".join(written), INTERRUPTED if interrupts else clock.end or STOP_STRING
        if text.rfind(THINK) > text.rfind(THOUGHT):
            text += f"\n{THOUGHT}\n\n"  # or the template would not know what to leave out
        self.messages.append({"role": "assistant", "content": text})
        self.costs.append(clock.line(len(ids) - n_cached, end, n_cached))
        self.say(self.costs[-1])
        if end == CONTEXT_FULL:
            self.say(f"the answer stops here because the context of {self.llm.context_length} tokens is full")
        return end

    def noted(self, tokens, interrupts):
        """The same tokens, until there is an interrupt; notes their ids."""
        for token in tokens:
            self.ids.append(token.id)
            yield token
            if interrupts:
                return

    def as_written(self, ids: list[int]) -> list[int]:
        """The same text in the tokens of the last prompt and answer as far as these spell it, control tokens aside.

        A model may write "Hello" as He, llo; read anew, in the one token Hello, the text would not match the cache.
        """
        spelled, n = list(ids), 0
        while (n := n + n_equal(self.ids[n:], spelled[n:])) < min(len(self.ids), len(spelled)):
            run = list(takewhile(self.llm.tokenizer.token_bytes, self.ids[n:]))  # a control token has no bytes
            text, end, other = b"".join(map(self.llm.tokenizer.token_bytes, run)), n, b""
            while (
                len(other) < len(text)
                and end < len(spelled)
                and (piece := self.llm.tokenizer.token_bytes(spelled[end]))
            ):
                other, end = other + piece, end + 1
            if not run or text != other:
                break
            spelled[n:end] = run
        return spelled if len(spelled) <= self.llm.context_length else ids

    def prompt_ids(self) -> list[int]:
        """The ids of the conversation; if too many, the oldest turns are dropped, or ContextOverflow is raised."""
        ids, size = encode_chat(self.llm.tokenizer, self.messages), self.llm.context_length
        room = min(self.max_tokens, size // 4)  # for the answer
        problem = f"the conversation has {len(ids)} tokens with this message, the context holds {size}"
        if len(ids) <= (size - room if self.policy == DROP else size):
            return ids
        messages, n_dropped = list(self.messages), 0
        if self.policy == DROP or self.ask(problem):
            while len(ids) > size - room and len(starts := turns(messages)) > 1:
                del messages[starts[0] : starts[1]]
                n_dropped += 1
                ids = encode_chat(self.llm.tokenizer, messages)
        if len(ids) > size:
            raise ContextOverflow(f"{problem}; /undo, /clear, --context N or --context-policy {DROP} make room")
        self.messages = messages
        if n_dropped:
            self.say(f"{problem}: dropped the oldest {n_dropped} turns")
        return ids


def n_equal(a: list, b: list) -> int:
    """How many items two lists begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def turns(messages) -> list[int]:
    """Where the turns begin: the places of the user's messages."""
    return [i for i, message in enumerate(messages) if message["role"] == "user"]


@contextmanager
def deferred_interrupt() -> Iterator[list]:
    """A list, empty until Ctrl-C, which could leave the cache half written if it raised KeyboardInterrupt at once.

    A second Ctrl-C does.
    """
    interrupts = []

    def on_interrupt(*_):
        interrupts.append(True)
        if len(interrupts) > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def reasoning(pieces: Iterator[str], thinking: bool) -> Iterator[tuple[str, bool]]:
    """(piece, whether it is reasoning); the tags count as reasoning and may span pieces."""
    held = ""
    for piece in pieces:
        held += piece
        while (at := held.find(THOUGHT if thinking else THINK)) >= 0:
            cut = at + len(THOUGHT) if thinking else at
            yield held[:cut], thinking
            held, thinking = held[cut:], not thinking
        certain = len(held) - overlap(held, THOUGHT if thinking else THINK)
        yield held[:certain], thinking
        held = held[certain:]
    yield held, thinking


# Commands. Each takes the conversation and the text after its name; its docstring is its line in /help.


def help_(chat, _):
    """this list"""
    for name, (command, argument) in COMMANDS.items():
        chat.say(f"{name + ' ' + argument:<13} {command.__doc__}")
    chat.say("Ctrl-C stops an answer, Ctrl-D ends. A message that begins with / needs a space before it.")


def system(chat, text):
    """set the system message, which tells the model how to answer; without TEXT there is none"""
    rest = [message for message in chat.messages if message["role"] != "system"]
    first = [{"role": "system", "content": text}] if text else []
    encode_chat(chat.llm.tokenizer, [*first, *(rest[:1] or [{"role": "user", "content": "?"}])])  # or it is refused
    chat.messages = first + rest


def clear(chat, _):
    """forget all turns"""
    chat.messages = [message for message in chat.messages if message["role"] == "system"]


def undo(chat, _):
    """take back the last message and its answer"""
    if not turns(chat.messages):
        raise ValueError("there is no turn to take back")
    chat.messages = chat.messages[: turns(chat.messages)[-1]]


def retry(chat, _):
    """have the last message answered anew"""
    if not turns(chat.messages):
        raise ValueError("there is no message to answer")
    chat.messages = chat.messages[: turns(chat.messages)[-1] + 1]
    return chat.answer()


def save(chat, path):
    """write the conversation to FILE, as JSON"""
    Path(path).write_text(json.dumps(chat.messages, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    chat.say(f"{path}: {len(chat.messages)} messages")


def load(chat, path):
    """go on with the conversation in FILE"""
    try:
        messages = [(m["role"], m["content"]) for m in json.loads(Path(path).read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError, RecursionError):
        messages = [(None, None)]
    if any(role not in ("system", "user", "assistant") or not isinstance(text, str) for role, text in messages):
        raise ValueError(f'{path}: not a list of messages like {{"role": "user", "content": "Hello"}}')
    chat.messages = [{"role": role, "content": text} for role, text in messages]
    chat.say(f"{path}: {len(chat.messages)} messages")


def stats(chat, _):
    """tokens used and left, and what each answer cost"""
    n, size = 0, chat.llm.context_length
    if turns(chat.messages):
        n = len(encode_chat(chat.llm.tokenizer, chat.messages, add_generation_prompt=False))
    chat.say(f"context: {n} of {size} tokens used, {max(0, size - n)} left")
    for i, cost in enumerate(chat.costs, 1):
        chat.say(f"answer {i}: {cost}")


def bye(chat, _):
    """end"""
    raise EOFError


COMMANDS = {"/help": (help_, ""), "/system": (system, "TEXT"), "/clear": (clear, ""), "/undo": (undo, "")}
COMMANDS |= {"/retry": (retry, ""), "/save": (save, "FILE"), "/load": (load, "FILE"), "/stats": (stats, "")}
COMMANDS |= {"/bye": (bye, "")}


def turn(chat: Conversation, line: str) -> str | None:
    """Do what a line says, a command or a message; returns how an answer ended. On failure the messages stay."""
    before, chat.messages = chat.messages, list(chat.messages)
    name, _, text = line.strip().partition(" ")
    try:
        if not line.startswith("/"):
            chat.messages.append({"role": "user", "content": line.strip()})
            return chat.answer()
        if name not in COMMANDS:
            raise ValueError(f"no command {name}; /help lists those there are")
        command, argument = COMMANDS[name]
        if (text and not argument) or (argument == "FILE" and not text):
            raise ValueError(f"{name} needs a {argument}" if argument else f"{name} takes nothing after it")
        return command(chat, text.strip())
    except BaseException:
        chat.messages = before
        raise


def run(args, how: Sampling, say) -> int:
    """Load, then turn by turn."""
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    sys.stdout.reconfigure(encoding="utf-8")
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if terminal:
        with suppress(ImportError):
            import readline  # noqa: F401  (gives `input` line editing and a history)
    llm, load_seconds = open_model(args, say)
    seed = secrets.randbits(32) if args.seed is None else args.seed

    def dimmed(text, dim=True):
        return f"{DIM}{text}{PLAIN}" if terminal and dim and text else text

    chat = Conversation(
        llm,
        how,
        np.random.default_rng(seed),
        args.max_tokens or llm.context_length,
        args.draft,
        args.stop,
        args.context_policy,
        say=lambda text: say(dimmed(text)),
        write=lambda piece, is_reasoning: print(dimmed(piece, is_reasoning), end="", flush=True),
        ask=lambda problem: terminal and input(f"{problem}. Drop the oldest turns? [y/N] ").lower() in ("y", "yes"),
    )
    system(chat, args.system or "")  # also tells whether the model can chat at all
    chat.say(f"weights: {llm.held}")
    chat.say(
        f"load {load_seconds:.2f} s | context {llm.context_length} tokens | seed {seed} | /help lists the commands"
    )
    while True:
        try:
            line = input("> ") if terminal else sys.stdin.readline() or "/bye"
            if line.strip() and turn(chat, line) == INTERRUPTED and not terminal:
                return 130
        except EOFError:
            return 0
        except (ValueError, OSError) as error:
            if not terminal:
                raise
            print(f"error: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            if not terminal:
                raise
            print("\n(Ctrl-D or /bye ends)", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m llmcore.chat", description="Talk with a GGUF model.")
    options = [option for option in OPTIONS if option[0] != "--logprobs"]
    add_options(parser, options, [switch for switch in SWITCHES if switch[0] == "--quiet"])
    what = "when the context is full: end (on a terminal: ask), or drop the oldest turns (%(default)s)"
    parser.add_argument("--context-policy", choices=(STOP, DROP), default=STOP, help=what)
    return command_line(parser, run, argv)
