"""An agent: `python -m llmcore agent --model M [--allow PATH] "question"`.

A model that is given tools may answer with a call of one. The call is made, its answer goes into the
conversation, and the model is asked again, until it answers in words: `work` is all there is to it. Each call
is shown and must be confirmed. The answer goes to standard output, all else to standard error.
"""

import argparse
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..chat.session import Session, Text
from ..tokenizers.streaming import CONTEXT_FULL, MAX_TOKENS
from .allowed import Allowed
from .command import Say, command_line, dimmed, note, open_model, sentence
from .options import Parser, add_model, add_sampling, add_template, count, draft_tokens
from .report import said_by_file, timings
from .steps import BySchema, ByTemplate, Step, knows_tools
from .toolbox import Tool, built_in, cut

REFUSED = "The user did not allow this call."
ARGUMENT = 300  # characters of an argument, of an answer, that are shown
ROOM = 4  # the answer of a tool may fill a part of the context: one in so many


def work(ask, messages: list[dict], tools: dict[str, Tool], screen: "Screen", max_steps: int) -> str:
    """Think, call, answer: ask until the model answers in words, and answer its calls. Returns the answer.

    `ask(messages, last)` gives a `Step`. All that was said is appended to the messages. Raises ValueError if
    max_steps bring no answer.
    """
    for n in range(1, max_steps + 1):
        step = ask(messages, last=n == max_steps)
        messages.append(step.message)
        screen.show(n, step)
        calls = step.message.get("tool_calls", ())
        if not calls and not step.problem:
            return step.message["content"]
        for call in calls:
            messages.append(answered(call, tools, screen))
        if step.problem:
            messages.append({"role": "user", "content": f"That was not understood: {step.problem}. Go on."})
        screen.keep(messages)
    raise ValueError(f"no answer after {max_steps} steps; --max-steps N allows more")


def answered(call: dict, tools: dict[str, Tool], screen: "Screen") -> dict:
    """The message that answers a call, once the user allows it; what goes wrong is told to the model."""
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    content = REFUSED
    if screen.confirm(name, arguments):
        try:
            content = screen.fit(tools[name].answer(arguments))
        except (ValueError, OSError) as error:
            content = f"error: {sentence(error)}"
    screen.tell(content)
    return {"role": "tool", "tool_call_id": call["id"], "name": name, "content": content}


@dataclass
class Screen:
    """What the user sees of the work, decides, and keeps."""

    say: Say
    yes: bool  # all calls are allowed
    terminal: bool
    fit: Callable[[str], str] = str  # cuts the answer of a tool
    path: Path | None = None  # of the transcript
    head: dict = field(default_factory=dict)  # what it begins with
    n_tokens: int = 0  # of the step so far

    def watch(self, _: Text) -> None:
        """Count the tokens of a step while it is written."""
        self.n_tokens += 1
        if self.terminal:
            print(f"\r{dimmed(f'{self.n_tokens} tokens ')}", end="", file=sys.stderr, flush=True)

    def show(self, n: int, step: Step) -> None:
        """Tell what a step is, but for an answer, which is printed."""
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr)
        self.n_tokens, done, message = 0, step.done, step.message
        self.say(
            f"step {n}: {timings(done.times, done.n_prompt, done.end, done.n_cached)}", dim=self.terminal
        )
        for line in message.get("reasoning_content", "").splitlines():
            self.say(f"  {line}", dim=self.terminal)
        if step.problem or message.get("tool_calls"):
            for line in message["content"].splitlines():
                self.say(f"  {line}", dim=self.terminal)
        if step.problem:
            self.say(f"not understood: {step.problem}")
        elif not message.get("tool_calls") and done.end in (MAX_TOKENS, CONTEXT_FULL):
            self.say(f"the answer is cut off: {done.end}")

    def confirm(self, name: str, arguments: dict) -> bool:
        """Show a call, and whether the user allows it, who must see all of it."""
        shown = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items()]
        shown = [cut(text, ARGUMENT) for text in shown] if self.yes else shown
        note(f"call: {name}({', '.join(shown)})")
        if self.yes:
            return True
        print("allow it? [y/N] ", end="", file=sys.stderr, flush=True)
        line = ""
        try:
            line = sys.stdin.readline()
        finally:
            if not line:  # Ctrl-C, or Ctrl-D
                print(file=sys.stderr)
        return line.strip().lower() in ("y", "yes")

    def tell(self, content: str) -> None:
        """The beginning of a tool's answer."""
        n_lines = content.count("\n") + 1
        size = f" ({n_lines} lines, {len(content):,} characters)" if n_lines > 1 else ""
        self.say(f"answer{size}: {content[:ARGUMENT].strip()}", dim=self.terminal)

    def keep(self, messages: list[dict], **end) -> None:
        """Write the transcript, beside its place first: a full disk must not cost the older one."""
        if self.path is None:
            return
        text = json.dumps(self.head | end | {"messages": messages}, ensure_ascii=False, indent=1) + "\n"
        beside = Path(f"{self.path}.{os.getpid()}.part")
        try:
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, self.path)
        finally:
            beside.unlink(missing_ok=True)


def run(args: argparse.Namespace, given: dict, say: Say) -> int:
    """Open the model and its tools, then work."""
    check(args)
    tools = built_in(Allowed.of(args.allow))
    messages = [{"role": "user", "content": args.question}]
    if args.system:
        messages.insert(0, {"role": "system", "content": args.system})
    terminal = sys.stderr.isatty() and not args.quiet
    screen = Screen(say, args.yes, terminal, path=args.transcript and Path(args.transcript))
    with ExitStack() as servers:
        for command in args.mcp:
            from .servers import tools_of_server  # here, because few agents have one

            tools += servers.enter_context(tools_of_server(command))
        llm, load_seconds = open_model(args, say)
        seed = secrets.randbits(32) if args.seed is None else args.seed
        rng = np.random.default_rng(seed)
        seeds = iter(lambda: int(rng.integers(1 << 32)), None)
        session = Session(
            llm, llm.sampling(**given), args.max_tokens, args.draft, template=dict(args.template)
        )
        ask = speaker(session, seeds, screen, tools, given)
        screen.fit = lambda text: fitted(text, llm)
        screen.head = {"model": str(args.model), "seed": seed, "tools": [tool.schema for tool in tools]}
        screen.keep(messages)
        say(f"load {load_seconds:.2f} s | " + " | ".join([f"seed {seed}", *said_by_file(llm, given)]))
        say(f"tools: {', '.join(tool.name for tool in tools)}")
        answer = work(ask, messages, {tool.name: tool for tool in tools}, screen, args.max_steps)
        screen.keep(messages, answer=answer)
    print(answer)
    return 0


def speaker(session: Session, seeds: Iterator[int], screen: Screen, tools: list[Tool], given: dict):
    """What asks the model: by its template if that knows tools, else under a schema."""
    llm = session.llm
    if llm.tokenizer.chat_template is None:
        raise ValueError("this model has no chat template: it continues texts (generate), and uses no tools")
    if knows_tools(llm.tokenizer, session.template):
        session.tools = [tool.schema for tool in tools]
        return ByTemplate(session, seeds, screen.watch)
    screen.say("this model's chat template knows no tools: each step is written under a JSON schema")
    return BySchema(
        session, seeds, screen.watch, tools, lambda schema: llm.sampling(**given, json_schema=schema)
    )


def fitted(text: str, llm) -> str:
    """The answer of a tool, cut if it fills more of the context than it may."""
    room, n_tokens = llm.context_length // ROOM, len(llm.tokenizer.encode(text, add_special=False))
    return text if n_tokens <= room else cut(text, len(text) * room // n_tokens)


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for what would end badly after the model was loaded."""
    if not args.yes and not (sys.stdin and sys.stdin.isatty()):
        raise ValueError(
            "nobody can confirm the calls, since standard input is no terminal; --yes allows them all"
        )
    if args.transcript and not Path(args.transcript).absolute().parent.is_dir():
        raise ValueError(f"--transcript {args.transcript}: there is no such folder")
    if not args.question.strip():
        raise ValueError("the question is empty")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser("python -m llmcore agent", description="Have a model answer a question with tools.")
    parser.add_argument("question", metavar="QUESTION", help="what the agent shall answer or find out")
    allow = "a folder or file that the agent may read; may be repeated; without it none"
    parser.add_argument("--allow", metavar="PATH", action="append", default=[], help=allow)
    mcp = "a command that starts an MCP server, whose tools are added; may be repeated"
    parser.add_argument("--mcp", metavar="COMMAND", action="append", default=[], help=mcp)
    parser.add_argument("--yes", action="store_true", help="allow all calls without asking")
    steps = "messages of the model (%(default)s)"
    parser.add_argument("--max-steps", metavar="N", type=count(1), default=10, help=steps)
    tokens = "tokens of one message of the model (%(default)s)"
    parser.add_argument("--max-tokens", metavar="N", type=count(1), default=1000, help=tokens)
    parser.add_argument("--transcript", metavar="FILE", help="write all that was said to FILE, as JSON")
    add_model(parser)
    add_template(parser)
    add_sampling(parser)
    draft = "guess up to N tokens ahead where the text repeats itself: the same, sooner"
    parser.add_argument("--draft", metavar="lookup:N", type=draft_tokens, help=draft)
    return command_line(parser, run, argv)
