"""The command line: `python -m llmcore.generate --model M --prompt P`.

With --chat a model that was made for conversations answers the prompt, which is otherwise continued. --prompts-file has
several prompts continued together, one a line; each line of the output is the text of one, as a JSON string.

Only text goes to standard output; the seed, a progress bar and one line of timings go to standard error.
Exit status: 0, 1 for a bad file or prompt, 2 for bad arguments, 130 on Ctrl-C.
"""

import argparse
import json
import os
import re
import secrets
import sys
import time
from pathlib import Path

from .chat import encode_chat
from .cli.command import command_line, open_model
from .cli.options import OPTIONS, SWITCHES, _whole, add_options
from .cli.report import Clock, report_logprobs, say_how
from .sampling import Sampling
from .writing import STOP_STRING, decode_tokens, until_stop

BATCH = 8  # texts that are written together; a pass over 8 rows costs little more than over 2


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command_line(_parser(), run, argv, check_batch)




def check_batch(args) -> None:
    """Raises ValueError for options that mean nothing for one prompt, or for several."""
    if args.prompts_file is None and args.batch is not None:
        raise ValueError("--batch is for several prompts: it needs --prompts-file")
    for name in ("logprobs", "echo", "draft"):
        if args.prompts_file is not None and getattr(args, name):
            raise ValueError(f"--{name} is for one prompt, not for --prompts-file")


def run(args, sampling: Sampling, say) -> int:
    """Load, generate, report."""
    sys.stdout.reconfigure(encoding="utf-8")
    if args.prompts_file is not None:
        return run_batch(args, sampling, say)
    prompt = read_prompt(args)
    llm, load_seconds = open_model(args, say)
    (prompt_ids,), options = what_to_do(args, sampling, say, llm, [prompt])
    clock = Clock()
    tokens = clock.watch(llm.tokens(prompt_ids, draft=args.draft, **options))
    say_how(say, llm, sampling, options["seed"])
    if args.logprobs:
        tokens = report_logprobs(tokens, llm, args.logprobs)
    if args.echo:
        print(prompt, end="", flush=True)
    status = 0
    try:
        for piece in until_stop(decode_tokens(llm.tokenizer, tokens), args.stop):
            print(piece, end="", flush=True)
        end = clock.end or STOP_STRING
    except KeyboardInterrupt:
        end, status = "interrupted", 130
    if sys.stdout.isatty():
        print(flush=True)
    say(f"load {load_seconds:.2f} s | {clock.line(len(prompt_ids), end)}")
    return status


def run_batch(args, sampling: Sampling, say) -> int:
    """Load, generate all texts together, report."""
    prompts = read_prompts(args.prompts_file)
    llm, load_seconds = open_model(args, say)
    prompts_ids, options = what_to_do(args, sampling, say, llm, prompts)
    begin = time.perf_counter()
    texts = llm.texts(prompts_ids, batch=args.batch or BATCH, stop=args.stop, **options)
    say_how(say, llm, sampling, options["seed"])
    n_texts, n_tokens, status, end = 0, 0, 0, ""
    try:
        for text in texts:
            print(json.dumps(text.text, ensure_ascii=False), flush=True)
            n_texts, n_tokens = n_texts + 1, n_tokens + text.n_tokens
    except KeyboardInterrupt:
        status, end = 130, " | interrupted"
    seconds = time.perf_counter() - begin
    say(
        f"load {load_seconds:.2f} s | {len(prompts)} prompts of {sum(map(len, prompts_ids))} tokens | {n_texts} texts"
        f" of {n_tokens} tokens, all in {seconds:.2f} s ({n_tokens / seconds:.1f} tokens/s){end}"
    )
    return status




def what_to_do(args, sampling, say, llm, prompts):
    """The ids of each prompt, put into the chat template if that is wanted, and the options all texts share."""
    if args.chat or args.system is not None:
        system = [] if args.system is None else [{"role": "system", "content": args.system}]
        ids = [encode_chat(llm.tokenizer, [*system, {"role": "user", "content": prompt}]) for prompt in prompts]
    else:
        ids = [llm.encode_prompt(prompt) for prompt in prompts]
        if llm.tokenizer.chat_template is not None:
            say("note: the prompt is continued, not answered; with --chat this model answers it")
    seed = secrets.randbits(32) if args.seed is None else args.seed
    max_tokens = args.max_tokens or llm.context_length
    return ids, {"max_tokens": max_tokens, "sampling": sampling, "seed": seed, "ignore_eos": args.ignore_eos}




def read_prompt(args) -> str:
    """The prompt that was asked for."""
    if args.prompt_file is None and args.prompt != "-":
        return decoded("--prompt", os.fsencode(args.prompt))
    return read_text(args.prompt_file or "-")


def read_prompts(path) -> list[str]:
    """The prompts of a file, one a line."""
    prompts = re.split(r"\r?\n", read_text(path))
    for n, prompt in enumerate(prompts, 1):
        if not prompt:
            raise ValueError(f"{path}: line {n} is empty; write one prompt on each line")
    return prompts


def read_text(path) -> str:
    """The text of a file, or of standard input (-); one line end at its very end is not part of it."""
    where, data = ("standard input", sys.stdin.buffer.read()) if path == "-" else (path, Path(path).read_bytes())
    return re.sub(r"\r?\n\Z", "", decoded(where, data))


def decoded(where, data) -> str:
    """The text of bytes in UTF-8; `where` they come from is for the error."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: byte {error.start} is not UTF-8; convert the prompt to UTF-8") from None














def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m llmcore.generate", description="Continue a text with a GGUF model."
    )
    add_options(parser, OPTIONS, SWITCHES)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="P", help="the text to continue; - reads it from standard input")
    prompt.add_argument("--prompt-file", metavar="F", help="a file (UTF-8) with the text to continue")
    prompt.add_argument("--prompts-file", metavar="F", help="a file (UTF-8) with a text to continue on each line")
    parser.add_argument("--batch", metavar="N", type=_whole(1), help=f"prompts of --prompts-file at a time ({BATCH})")
    return parser




if __name__ == "__main__":
    sys.exit(main())
