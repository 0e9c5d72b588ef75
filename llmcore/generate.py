"""The command `python -m llmcore.generate --model M --prompt P`: open, encode, write, print.

With --chat a model that was made for conversations answers the prompt, which is otherwise continued.
--prompts-file has several prompts continued together, one a line; each line of the output is the text of one,
as a JSON string.

Only text goes to standard output; the seed, a progress bar and one line of timings go to standard error.
Exit status: 0, 1 for a bad file or prompt, 2 for bad arguments, 130 on Ctrl-C.
"""

if __name__ == "__main__":  # before the imports, which take a third of a second
    from .cli.interrupt import leave_at_once

    leave_at_once()

import argparse
import secrets
import sys

from .cli.command import (
    Say,
    cached_prompt,
    command_line,
    open_draft_model,
    open_model,
    read_prompt,
    sampling_for,
)
from .cli.options import check_generate, generate_parser, is_answer
from .cli.report import Clock, report_logprobs, say_choices, timings
from .llm import LLM
from .tokenizers.streaming import STOP_STRING, decode_tokens


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command_line(generate_parser(), run, argv, check_generate)


def run(args: argparse.Namespace, given: dict, say: Say) -> int:
    """Open, encode, write, print."""
    seed = secrets.randbits(32) if args.seed is None else args.seed
    if args.prompts_file is not None:
        from .cli.batch import run_batch  # here, because one prompt needs no company

        return run_batch(args, given, say, lambda llm, prompt: encode(args, llm, prompt), seed)
    prompt = read_prompt(args)
    llm, load_seconds = open_model(args, say)
    ids = encode(args, llm, prompt, say)
    clock, max_tokens = Clock(), args.max_tokens or llm.context_length
    options = {"max_tokens": max_tokens, "ignore_eos": args.ignore_eos, "draft": args.draft}
    options["draft_model"] = open_draft_model(args, say)
    cache, n_cached = cached_prompt(args, llm, ids, lambda prompt: encode(args, llm, prompt))
    tokens = clock.watch(
        llm.tokens(ids, sampling=sampling_for(args, llm, given), seed=seed, cache=cache, **options)
    )
    say_choices(say, llm, given, seed)
    if args.logprobs:
        tokens = report_logprobs(tokens, llm, args.logprobs)
    if args.echo:
        print(prompt, end="", flush=True)
    status = 0
    try:
        for piece in decode_tokens(llm.tokenizer, tokens, args.stop):
            print(piece, end="", flush=True)
        end = clock.end or STOP_STRING
    except KeyboardInterrupt:
        end, status = "interrupted", 130
    if sys.stdout.isatty():
        print(flush=True)
    say(f"load {load_seconds:.2f} s | {timings(clock.times, len(ids) - n_cached, end, n_cached)}")
    return status


def encode(args: argparse.Namespace, llm: LLM, prompt: str, say: Say = lambda text: None) -> list[int]:
    """The ids of a prompt: as it stands, or as a user's message in the model's own chat template."""
    if is_answer(args):
        from .chat import encode_chat  # here, because a text that is only continued needs no template

        system = [] if args.system is None else [{"role": "system", "content": args.system}]
        begun = [] if args.prefill is None else [{"role": "assistant", "content": args.prefill}]
        messages = [*system, {"role": "user", "content": prompt}, *begun]
        template = dict(args.template)
        return encode_chat(llm.tokenizer, messages, template=template, continue_final_message=bool(begun))
    if llm.tokenizer.chat_template is not None:
        say("note: the prompt is continued, not answered; with --chat this model answers it")
    return llm.encode_prompt(prompt)


if __name__ == "__main__":
    sys.exit(main())
