"""`generate --prompts-file F`: several prompts written together, one a line."""

import json
import re
import time

from .command import open_model, read_text, sampling_for
from .report import say_choices

BATCH = 8  # texts that are written together; a pass over 8 rows costs little more than over 2


def check_batch(args) -> None:
    """Raises ValueError for options that mean nothing for one prompt, or for several."""
    if args.prompts_file is None and args.batch is not None:
        raise ValueError("--batch is for several prompts: it needs --prompts-file")
    for name in ("logprobs", "echo", "draft", "draft_model", "prompt_cache"):
        if args.prompts_file is not None and getattr(args, name):
            name = name.replace("_", "-")
            raise ValueError(f"--{name} is for one prompt, not for --prompts-file")


def run_batch(args, given: dict, say, encode, seed: int) -> int:
    """Load, write all texts together, report; `encode(llm, prompt)` gives the ids of a prompt."""
    prompts = re.split(r"\r?\n", read_text(args.prompts_file))
    for n, prompt in enumerate(prompts, 1):
        if not prompt:
            raise ValueError(f"{args.prompts_file}: line {n} is empty; write one prompt on each line")
    llm, load_seconds = open_model(args, say)
    prompts_ids = [encode(llm, prompt) for prompt in prompts]
    begin = time.perf_counter()
    options = {
        "max_tokens": args.max_tokens or llm.context_length,
        "sampling": sampling_for(args, llm, given),
        "seed": seed,
    }
    texts = llm.texts(
        prompts_ids, batch=args.batch or BATCH, stop=args.stop, ignore_eos=args.ignore_eos, **options
    )
    say_choices(say, llm, given, seed)
    n_texts, n_tokens, status, end = 0, 0, 0, ""
    try:
        for text in texts:
            print(json.dumps(text.text, ensure_ascii=False), flush=True)
            n_texts, n_tokens = n_texts + 1, n_tokens + text.n_tokens
    except KeyboardInterrupt:
        status, end = 130, " | interrupted"
    seconds = time.perf_counter() - begin
    say(
        f"load {load_seconds:.2f} s | {len(prompts)} prompts of {sum(map(len, prompts_ids))} tokens |"
        f" {n_texts} texts of {n_tokens} tokens, all in {seconds:.2f} s"
        f" ({n_tokens / seconds:.1f} tokens/s){end}"
    )
    return status
