"""Train a tiny llama model from random numbers: `python scripts/train.py --grammar --out DIR`.

Every K steps a complete model is written: m_1.gguf is the random start, m_2.gguf comes after K steps,
m_3.gguf after 2 K, ..., m_final.gguf after all. They have the same keys and the same tensors of the same
sizes, and other numbers. DIR/losses.csv holds the loss of each step. What training itself needs to go on is
in DIR/state.npz: the same command started again after an interruption goes on from there, and ends at the
same numbers.

In training/: backprop.py (the gradient), adamw.py (the step), corpus.py and grammar.py (the texts),
archive.py (the file).
"""

import argparse
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from command_line import refuse, run
from tqdm import tqdm
from training import archive, checkpoint, corpus
from training.adamw import adamw, clip, learning_rate
from training.backprop import PAD, loss_and_gradients, losses

from llmcore.config import read_config
from llmcore.speed.machine import keep_freed_memory
from llmcore.tokenizer import Tokenizer

SIZES = ("layers", "width", "heads", "kv_heads", "ff", "context")
NUMBERS = {  # option: (default, least, meaning); a default of None depends on others
    "layers": (2, 1, "blocks (2)"),
    "width": (64, 2, "width of the residual stream (64)"),
    "heads": (4, 1, "query heads (4)"),
    "kv_heads": (
        None,
        1,
        "key/value heads, which query heads share (half as many, or as many if --heads is odd)",
    ),
    "ff": (None, 1, "width of the feed-forward (3 times --width)"),
    "vocab": (512, archive.SMALLEST_VOCABULARY, "tokens at most (512)"),
    "context": (64, 1, "tokens of a text at most (64)"),
    "batch": (64, 1, "texts of a step (64)"),
    "steps": (2000, 1, "how many steps (2000)"),
    "every": (None, 1, "steps from one model to the next (a quarter of all)"),
    "seed": (0, 0, "of all that is random (0)"),
}


def train(options: argparse.Namespace, report: Callable[[str], None] = print) -> None:
    """Train, or go on training, as `options` say; raises ValueError and OSError for what the user can put
    right.
    """
    text = None if options.grammar else read_text(options.text)
    keys, tokenizer, batches = prepare(options, text)
    config = read_config(keys, options.out)
    options.out.mkdir(parents=True, exist_ok=True)
    belongs_to = identity(options, text)
    state = checkpoint.load(options.out / "state.npz", belongs_to)
    if state is None:
        refuse_models_without_state(options.out)
        state = checkpoint.fresh(archive.random_start(keys, np.random.default_rng(options.seed)))
        weights = sum(array.size for array in state["params"].values())
        V = tokenizer.vocab_size
        report(
            f"{weights:,} weights, {V} tokens; "
            f"a model that knows nothing has a loss of ln {V} = {math.log(V):.4f}"
        )
    else:
        report(f"going on after step {state['step']} of {options.steps}")

    def save():
        state["held_out"][state["step"]] = held_out = held_out_loss(state["params"], config, batches.held_out)
        checkpoint.save(options.out / "state.npz", state, belongs_to)
        name = model_name(state["step"], options)
        archive.write_archive(options.out / name, keys, state["params"])
        write_losses(options.out / "losses.csv", state, batches.floor)
        report(
            f"{name:12} step {state['step']:6}   held-out loss {held_out:.4f}{above(held_out, batches.floor)}"
        )

    save()  # the random start, or again what an interruption may have kept from being written
    take_steps(state, config, batches.batch, options, save)


def take_steps(state, config, batch, options, save):
    """The loop: a batch, its gradient, a step; and every so often `save()`."""
    tokens, began = 0, time.perf_counter()
    bar = tqdm(total=options.steps, initial=state["step"], unit="step", disable=None, leave=False)
    with bar, np.errstate(over="raise", invalid="raise", divide="raise"):
        for step in range(state["step"] + 1, options.steps + 1):
            ids_BT = batch(step)
            loss, grads = loss_and_gradients(state["params"], config, ids_BT)
            clip(grads)
            rate = learning_rate(step, options.steps, options.lr)
            adamw(state["params"], grads, state["means"], state["squares"], step, rate)
            state["step"] = step
            state["losses"].append(loss)
            tokens += np.count_nonzero(ids_BT[:, 1:] != PAD)
            speed = tokens / (time.perf_counter() - began)
            bar.set_postfix_str(f"loss {loss:.3f}, {speed:,.0f} tokens/s", refresh=False)
            bar.update()
            if step % options.every == 0 or step == options.steps:
                save()


def prepare(options, text):
    """The head of the archive, its tokenizer, and the corpus of batches."""
    keys = archive.model_keys(**{name: getattr(options, name) for name in SIZES})
    lines = corpus.grammar_lines(options.seed) if text is None else text.splitlines()
    keys |= archive.tokenizer_keys(lines, options.vocab)
    tokenizer = Tokenizer.from_metadata(keys, options.out)
    sizes = options.seed, options.batch, options.context
    if text is None:
        return keys, tokenizer, corpus.grammar_corpus(tokenizer, *sizes)
    return keys, tokenizer, corpus.text_corpus(tokenizer, text, *sizes)


def read_text(path):
    """The text to learn; ValueError where there is none."""
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if not text.strip():
        raise ValueError(f"{path} is empty")
    return text


def identity(options, text):
    """What must be the same for a run to go on: the text, and all options but where the result goes."""
    learned = (
        "the grammar" if text is None else f"text of SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    )
    return {"corpus": learned, **{name: getattr(options, name) for name in (*NUMBERS, "lr")}}


def refuse_models_without_state(out):
    """Models that nothing here can continue were not made by this run, and are not overwritten."""
    if models := sorted(out.glob("m_*.gguf")):
        raise ValueError(f"{models[0]} is there and no state.npz to go on from; give another --out")


def model_name(step, options):
    """m_1 is the random start, m_final comes after the last step."""
    return "m_final.gguf" if step == options.steps else f"m_{step // options.every + 1}.gguf"


def held_out_loss(params, config, batches):
    """Mean loss in nats per token over texts that training never sees."""
    return float(np.concatenate([losses(params, config, ids_BT) for ids_BT in batches]).mean(dtype=float))


def above(loss, floor):
    """How far a loss is above the floor, where there is one."""
    return "" if floor is None else f"   {loss / floor - 1:+.2%} of the entropy {floor:.4f}"


def write_losses(path, state, floor):
    """The loss of each step, and of held-out texts where it was measured (step 0 is the random start)."""
    rows = ["step,loss,held_out,floor"]
    for step in range(state["step"] + 1):
        loss = f"{state['losses'][step - 1]:.6f}" if step else ""
        held_out = f"{state['held_out'][step]:.6f}" if step in state["held_out"] else ""
        rows.append(f"{step},{loss},{held_out},{'' if floor is None else f'{floor:.6f}'}")
    part = path.with_name(path.name + ".part")
    part.write_text("\n".join(rows) + "\n")
    os.replace(part, path)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; those left out that depend on others are filled in."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0] + ".")
    parser.error = refuse
    parser.add_argument("text", nargs="?", help="a file of UTF-8 text to learn")
    parser.add_argument(
        "--grammar", action="store_true", help="learn sentences of scripts/training/grammar.py, without end"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where models and state go")
    for name, (default, _, meaning) in NUMBERS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=default, metavar="N", help=meaning
        )
    parser.add_argument(
        "--lr", type=float, default=5e-3, metavar="X", help="the highest learning rate (0.005)"
    )
    options = parser.parse_args(arguments)
    if options.grammar == (options.text is not None):
        parser.error("give a text to learn, or --grammar")
    if options.kv_heads is None:
        options.kv_heads = options.heads // 2 if options.heads % 2 == 0 else options.heads
    options.ff = 3 * options.width if options.ff is None else options.ff
    options.every = max(1, options.steps // 4) if options.every is None else options.every
    for name, (_, least, _) in NUMBERS.items():
        if getattr(options, name) < least:
            parser.error(
                f"--{name.replace('_', '-')} is {getattr(options, name)}; the least that works is {least}"
            )
    if not 0 < options.lr < math.inf:
        parser.error(f"--lr is {options.lr}; it must be above 0")
    return options


def main() -> None:
    """Run the command line."""
    options = parse()
    keep_freed_memory()
    try:
        train(options, report=tqdm.write)
    except FloatingPointError as error:
        problem = f"the numbers grew out of bounds ({error}); a smaller --lr than {options.lr} may help"
        raise ValueError(problem) from error
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last model written", file=sys.stderr)
        raise


if __name__ == "__main__":
    run(main)
