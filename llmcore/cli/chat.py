"""A conversation in the terminal: `python -m llmcore.chat --model M`.

Answers go to standard output, all else to standard error. Without a terminal each line of standard input is a
turn, and the first error ends the conversation with exit status 1.
"""

import argparse
import json
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..chat import encode_chat
from ..chat.session import Dropped, Session, Text, turns
from ..errors import ContextOverflow
from ..llm import LLM
from ..speed.cache_file import CacheFileError
from ..tokenizers.streaming import CONTEXT_FULL
from .command import Say, command_line, dimmed, note, open_draft_model, open_model, sentence
from .options import Parser, add_options, add_prompt_cache
from .report import said_by_file, timings

STOP, DROP = "stop", "drop-oldest"  # what to do when the context is full
INTERRUPTED = "interrupted"


@dataclass
class Terminal:
    """A session and its screen."""

    session: Session
    # Seeds the answers, so that one seed repeats a conversation, and /retry no answer
    rng: np.random.Generator
    policy: str  # STOP or DROP
    say: Say
    write: Callable[[str, bool], None]  # a piece of an answer, and whether it is reasoning
    ask: Callable[[str], bool]  # told that the context is full: shall the oldest turns be dropped?
    costs: list[str] = field(default_factory=list)  # of each answer, one line

    def answer(self) -> str:
        """Have the last message answered; returns how it ended. What was written before Ctrl-C stays."""
        seed = int(self.rng.integers(1 << 32))
        try:
            return self._answer(seed, self.policy == DROP)
        except ContextOverflow as overflow:
            if self.policy != DROP and len(turns(self.session.messages)) > 1 and self.ask(str(overflow)):
                return self._answer(seed, True)
            ways = f"/undo, /clear, --context N or --context-policy {DROP} make room"
            raise ContextOverflow(f"{overflow}; {ways}") from None

    def _answer(self, seed, drop_oldest):
        session, begun = self.session, []
        with (
            deferred_interrupt(begun) as interrupts,
            closing(session.answer(seed=seed, drop_oldest=drop_oldest)) as events,
        ):
            for event in events:
                if isinstance(event, Text):
                    begun.append(True)
                    self.write(event.piece, event.is_reasoning)
                elif isinstance(event, Dropped):
                    self.say(f"the context is full: dropped the oldest {event.n} turns")
                if interrupts:
                    break
        self.write("\n", False)
        done = session.last
        end = INTERRUPTED if interrupts else done.end
        self.costs.append(timings(done.times, done.n_prompt, end, done.n_cached))
        self.say(self.costs[-1])
        if end == CONTEXT_FULL:
            self.say(
                f"the answer stops here because the context of {session.llm.context_length} tokens is full"
            )
        return end


@contextmanager
def deferred_interrupt(begun: list) -> Iterator[list]:
    """A list, empty until Ctrl-C comes while an answer is written, so that what is written stays.

    As long as nothing has `begun`, and for a second Ctrl-C, KeyboardInterrupt is raised at once.
    """
    interrupts: list[bool] = []

    def on_interrupt(*_):
        interrupts.append(True)
        if len(interrupts) > 1 or not begun:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


# Commands. Each takes the terminal and the text after its name.


def help_(chat, _):
    """The list of commands."""
    for name, (_, argument, what) in COMMANDS.items():
        chat.say(f"{name + ' ' + argument:<13} {what}")
    chat.say("Ctrl-C stops an answer, Ctrl-D ends. A message that begins with / needs a space before it.")


def system(chat, text):
    """Set the system message."""
    session = chat.session
    rest = [message for message in session.messages if message["role"] != "system"]
    first = [{"role": "system", "content": text}] if text else []
    tried = [*first, *(rest[:1] or [{"role": "user", "content": "?"}])]
    encode_chat(session.llm.tokenizer, tried, template=session.template)  # or it is refused
    session.messages = first + rest


def clear(chat, _):
    """Forget all turns."""
    chat.session.messages = [message for message in chat.session.messages if message["role"] == "system"]


def undo(chat, _):
    """Take back the last message and its answer."""
    starts = turns(chat.session.messages)
    if not starts:
        raise ValueError("there is no turn to take back")
    chat.session.messages = chat.session.messages[: starts[-1]]


def retry(chat, _):
    """Have the last message answered anew."""
    starts = turns(chat.session.messages)
    if not starts:
        raise ValueError("there is no message to answer")
    chat.session.messages = chat.session.messages[: starts[-1] + 1]
    return chat.answer()


def save(chat, path):
    """Write the conversation to a file, beside it first: a full disk must not cost the older one."""
    text = json.dumps(chat.session.messages, ensure_ascii=False, indent=1) + "\n"
    beside = Path(f"{path}.{os.getpid()}.part")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    n = chat.session.save_cache(beside_messages(path))
    cached = f"; what was read of them, {n} tokens, in {beside_messages(path)}" if n else ""
    chat.say(f"{path}: {len(chat.session.messages)} messages{cached}")


def beside_messages(path) -> str:
    """Where the cache of a conversation is kept."""
    return f"{path}.cache"


def load(chat, path):
    """Go on with the conversation in a file."""
    try:
        messages = [saved(m) for m in json.loads(Path(path).read_text(encoding="utf-8-sig"))]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(
            f'{path}: not a list of messages like {{"role": "user", "content": "Hello"}}'
        ) from None
    chat.session.messages, cached = messages, beside_messages(path)
    chat.say(f"{path}: {len(messages)} messages")
    if os.path.exists(cached):
        try:
            chat.say(f"{cached}: {chat.session.load_cache(cached)} tokens need not be read again")
        except CacheFileError as error:
            chat.say(f"note: the conversation will be read anew, since it cannot be used: {error}")


def saved(message) -> dict:
    """A message of a file, if it is one of a conversation that /save writes; else ValueError."""
    kept = {key: message[key] for key in ("role", "content", "reasoning_content") if key in message}
    if kept["role"] not in ("system", "user", "assistant") or not all(
        isinstance(v, str) for v in kept.values()
    ):
        raise ValueError("no message of a conversation")
    return {"content": kept["content"], **kept}


def stats(chat, _):
    """Tokens used and left, and what each answer cost."""
    n, size = 0, chat.session.llm.context_length
    if turns(chat.session.messages):
        session, plain = chat.session, {"add_generation_prompt": False, "template": chat.session.template}
        n = len(encode_chat(session.llm.tokenizer, session.messages, **plain))
    chat.say(f"context: {n} of {size} tokens used, {max(0, size - n)} left")
    for i, cost in enumerate(chat.costs, 1):
        chat.say(f"answer {i}: {cost}")


def bye(chat, _):
    """End."""
    raise EOFError


COMMANDS = {  # name: function, what follows it, its line in /help
    "/help": (help_, "", "this list"),
    "/system": (
        system,
        "TEXT",
        "set the system message, which tells the model how to answer; without TEXT there is none",
    ),
    "/clear": (clear, "", "forget all turns"),
    "/undo": (undo, "", "take back the last message and its answer"),
    "/retry": (retry, "", "have the last message answered anew"),
    "/save": (save, "FILE", "write the conversation to FILE, as JSON, and to FILE.cache what was read of it"),
    "/load": (load, "FILE", "go on with the conversation in FILE"),
    "/stats": (stats, "", "tokens used and left, and what each answer cost"),
    "/bye": (bye, "", "end"),
}


def turn(chat: Terminal, line: str) -> str | None:
    """Do what a line says, a command or a message; returns how an answer ended. On failure all stays."""
    session = chat.session
    before, session.messages = session.messages, list(session.messages)
    name, _, text = line.strip().partition(" ")
    try:
        if not line.startswith("/"):
            session.messages.append({"role": "user", "content": line.strip()})
            return chat.answer()
        if name not in COMMANDS:
            raise ValueError(f"no command {name}; /help lists those there are")
        command, argument, _ = COMMANDS[name]
        if (text and not argument) or (argument == "FILE" and not text):
            raise ValueError(f"{name} needs a {argument}" if argument else f"{name} takes nothing after it")
        return command(chat, text.strip())
    except BaseException:
        session.messages = before
        raise


def run(args: argparse.Namespace, given: dict, say: Say) -> int:
    """Load, then turn by turn."""
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if terminal:
        with suppress(ImportError):
            import readline  # noqa: F401  (gives `input` line editing and a history)
    llm, load_seconds = open_model(args, say)
    seed = secrets.randbits(32) if args.seed is None else args.seed
    chat = open_chat(args, llm, llm.sampling(**given), seed, terminal, say)
    system(chat, args.system or "")  # also tells whether the model can chat at all
    if args.prompt_cache:
        n, n_known = chat.session.read_ahead(args.prompt_cache)
        chat.say(f"{args.prompt_cache}: had {n_known} of the {n} tokens that come before the first message")
    chat.say(f"weights: {llm.held}")
    chat.say(
        f"load {load_seconds:.2f} s | context {llm.context_length} tokens | seed {seed} | "
        + " | ".join([*said_by_file(llm, given), "/help lists the commands"])
    )
    return talk(chat, terminal)


def open_chat(args: argparse.Namespace, llm: LLM, sampling, seed: int, terminal: bool, say: Say) -> Terminal:
    """A conversation, and how it is shown: on a terminal thoughts are dimmed, and questions asked."""
    options: dict[str, Any] = {"template": dict(args.template)}
    options["draft_model"] = open_draft_model(args, say)
    session = Session(llm, sampling, args.max_tokens, args.draft, args.stop, **options)

    def write(piece, is_reasoning):
        """Show a piece of an answer at once."""
        print(dimmed(piece) if terminal and is_reasoning else piece, end="", flush=True)

    def ask(problem):
        """Whether the oldest turns may be dropped; without a terminal nobody can say so."""
        return terminal and input(f"{problem}. Drop the oldest turns? [y/N] ").lower() in ("y", "yes")

    rng = np.random.default_rng(seed)
    return Terminal(session, rng, args.context_policy, say=partial(say, dim=terminal), write=write, ask=ask)


def talk(chat: Terminal, terminal: bool) -> int:
    """Turn by turn, until the lines end; returns the exit status."""
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
            note(f"error: {sentence(error)}")
        except KeyboardInterrupt:
            if not terminal:
                raise
            print("\n(Ctrl-D or /bye ends)", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser("python -m llmcore.chat", description="Talk with a GGUF model.")
    add_options(parser)
    add_prompt_cache(parser)
    what = "when the context is full: end (on a terminal: ask), or drop the oldest turns (%(default)s)"
    parser.add_argument("--context-policy", choices=(STOP, DROP), default=STOP, help=what)
    return command_line(parser, run, argv)
