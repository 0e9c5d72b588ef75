"""How well a model predicts a text: `python scripts/perplexity.py --model M --text F`, by llama.cpp's
protocol.

    perplexity = exp(mean of -ln p(token | tokens before it))

- the whole text is tokenized at once, with BOS before it if the model wants one, and cut into chunks of
  --context tokens; what is left at the end is dropped. The text must have at least two chunks;
- in each chunk the first token is replaced by BOS, if the model wants one;
- the tokens of the second half are scored, from position context / 2 + 1 on: each has half a chunk or more
  before it.

The standard error is that of the mean, sqrt(variance / (count - 1)), times the perplexity. As in llama.cpp,
one line end at the very end of the text is left out, and control tokens written out in the text are text.

--compare BASE tells how far the model is from another with the same vocabulary, such as itself before
quantization:

    KL(base || model) = sum over the vocabulary of p_base (ln p_base - ln p_model),
                        averaged over all scored positions

and how often both find the same token the most likely. llama.cpp computes the same (--kl-divergence), from
logits of the base rounded to 16 bits.

Source: tools/perplexity/perplexity.cpp of llama.cpp, the figures of which these are.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import command_line
import numpy as np
from tqdm import tqdm

import llmcore
from llmcore.cli.command import decoded
from llmcore.model import prefill, unembed
from llmcore.speed.holding import WEIGHTS
from llmcore.speed.machine import restart_with_threads
from llmcore.writing import finite

ROWS = 64  # positions whose logits are in memory at a time: 67 MB for a vocabulary of 262,144


@dataclass(frozen=True)
class Mean:
    """A mean of n values and its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Mean":
        """The mean of values (n,), n above 1, in float64."""
        return cls(float(values.mean()), math.sqrt(values.var() / (len(values) - 1)))

    def exp(self) -> "Mean":
        """e to it; the error to first order."""
        return Mean(math.exp(self.value), math.exp(self.value) * self.error)


def chunks(llm: llmcore.LLM, text: str, context: int) -> tuple[np.ndarray, int]:
    """The ids of a text as chunks (n, context), and how many ids are left over. ValueError if it has less
    than two.
    """
    ids = llm.tokenizer.encode(text.removesuffix("\n"))
    if len(ids) < 2 * context:
        raise ValueError(
            f"the text has {len(ids)} tokens; a context of {context} needs {2 * context} at least: "
            "give a longer text or a smaller --context"
        )
    count = len(ids) // context
    return np.array(ids[: count * context]).reshape(count, context), len(ids) - count * context


def log_probabilities(llm: llmcore.LLM, ids_T: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What a model predicts in the second half of a chunk: (next ids (R,), ln p float32 (R, V)), ROWS at a
    time.
    """
    given_T = ids_T.copy()
    if llm.tokenizer.add_bos:
        given_T[0] = llm.tokenizer.bos_id
    x_TD = np.concatenate(list(prefill(llm.weights, llm.config, given_T, llm.empty_cache())))
    for start in range(len(ids_T) // 2, len(ids_T) - 1, ROWS):
        stop = min(start + ROWS, len(ids_T) - 1)
        logits_RV = unembed(llm.weights, llm.config, x_TD[start:stop])
        finite(logits_RV, start + 1)
        logits_RV -= logits_RV.max(axis=1, keepdims=True)
        logits_RV -= np.log(np.exp(logits_RV).sum(axis=1, dtype=np.float64, keepdims=True)).astype(np.float32)
        yield ids_T[start + 1 : stop + 1], logits_RV


def score(llm: llmcore.LLM, ids_T: np.ndarray, base: llmcore.LLM | None = None) -> np.ndarray:
    """Each scored token of a chunk: float64 (1, n) with its -ln p, or (4, n) if there is a base.

    The others are the base's -ln p, KL(base || model), and whether both find the same token the most likely.
    """
    others = log_probabilities(base, ids_T) if base else None
    parts = []
    for next_R, p_RV in log_probabilities(llm, ids_T):
        rows_R = np.arange(len(next_R))
        part = [-p_RV[rows_R, next_R]]
        if others:
            _, base_RV = next(others)
            part.append(-base_RV[rows_R, next_R])
            part.append(np.einsum("rv,rv->r", np.exp(base_RV), base_RV - p_RV, dtype=np.float64))
            part.append(p_RV.argmax(axis=1) == base_RV.argmax(axis=1))
        parts.append(np.array(part, np.float64))
    return np.concatenate(parts, axis=1)


def scores(llm, ids_CT, base=None, progress=False) -> np.ndarray:
    """`score` of all chunks, float64 (1 or 4, n); `progress` shows a bar with the perplexity so far."""
    done = []
    with tqdm(ids_CT, desc="perplexity", unit="chunk", disable=None if progress else True) as bar:
        for ids_T in bar:
            done.append(score(llm, ids_T, base))
            so_far = math.exp(sum(part[0].sum() for part in done) / sum(part.shape[1] for part in done))
            bar.set_postfix_str(f"{so_far:.4f}")
    return np.concatenate(done, axis=1)


def report(columns: np.ndarray, model: str, base: str) -> Iterator[str]:
    """The lines of the result: what `scores` returned, in words."""
    ppl = Mean.of(columns[0]).exp()
    yield f"perplexity: {ppl.value:.4f} +/- {ppl.error:.4f}  {model}"
    if len(columns) == 1:
        return
    ppl, ratio, kl = (Mean.of(values) for values in (columns[1], columns[0] - columns[1], columns[2]))
    same = Mean.of(columns[3])
    yield f"perplexity: {ppl.exp().value:.4f} +/- {ppl.exp().error:.4f}  {base} (base)"
    ratio = ratio.exp()
    yield f"ratio:      {ratio.value:.4f} +/- {ratio.error:.4f}  perplexity of the model / of the base"
    yield f"KL:         {kl.value:.6f} +/- {kl.error:.6f}  nats, mean KL(base || model)"
    yield f"same top:   {same.value:.2%} +/- {same.error:.2%}  of positions have the same most likely token"


def run(args) -> None:
    """Load, score, print. Raises what `llmcore.load` and `chunks` raise."""
    text = decoded(args.text, Path(args.text).read_bytes())  # line ends as they are
    models = []
    for path in filter(None, (args.model, args.compare)):
        llm = llmcore.load(
            path, weights=args.weights, context_length=args.context, threads=args.threads, progress=True
        )
        models.append(llm)
    if args.compare and models[0].tokenizer.tokens != models[1].tokenizer.tokens:
        sizes = " and ".join(f"{llm.tokenizer.vocab_size:,} tokens" for llm in models)
        raise ValueError(
            f"{args.model} and {args.compare} have different vocabularies ({sizes}): nothing to compare"
        )
    ids_CT, left = chunks(models[0], text, args.context)
    n_all = len(ids_CT)
    ids_CT = ids_CT[: args.chunks]
    scored = len(ids_CT) * (args.context - 1 - args.context // 2)
    print(
        f"{n_all * args.context + left} tokens: {len(ids_CT)} of {n_all} chunks of "
        f"{args.context}, {scored} tokens scored; the last {left} fill no chunk and are dropped"
    )
    columns = scores(models[0], ids_CT, *models[1:], progress=True)
    print(*report(columns, args.model, args.compare), sep="\n")


def _whole(least):
    def parse(text):
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} is too small; it must be {least} or more")
        return number

    return parse


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="M", help="model to measure")
    parser.add_argument("--text", required=True, metavar="F", help="text to predict, a file in UTF-8")
    parser.add_argument(
        "--context", type=_whole(4), default=512, metavar="N", help="tokens of a chunk (%(default)s)"
    )
    parser.add_argument(
        "--chunks", type=_whole(1), metavar="N", help="stop after so many; else take the whole text"
    )
    parser.add_argument("--compare", metavar="BASE", help="model to compare with: KL(base || model)")
    parser.add_argument(
        "--weights", choices=WEIGHTS, default="auto", help="how weights are held (%(default)s)"
    )
    parser.add_argument(
        "--threads", type=_whole(1), metavar="N", help="compute with N threads; else one for each core"
    )
    return parser


def main() -> None:
    """Run the command line."""
    args = _parser().parse_args()
    if args.threads is not None:
        restart_with_threads(args.threads)
    command_line.run(lambda: run(args))


if __name__ == "__main__":
    main()
