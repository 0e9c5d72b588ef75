"""The command `python -m llmcore lens --model M --prompt P`: what would a model say after each half layer?

Two tables for the terminal, of `glass.logit_lens` and `glass.votes`. Row by row: the best token after the
mixer and after the feed-forward, and the place of the token that is followed. Then its logit as a sum.
"""

import argparse
from collections.abc import Iterator, Sequence

import numpy as np

from .. import glass
from ..generate import encode
from ..llm import LLM
from .command import Say, command_line, on_one_line, open_model, read_prompt
from .options import Parser, add_model, add_prompt, add_template, count

WIDTH = 16  # of a token in a table


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser("python -m llmcore lens", description="What would a model say after each half layer?")
    add_prompt(parser)
    parser.add_argument("--token", metavar="TEXT", help="the token to follow; else the likeliest next one")
    parser.add_argument("--rather-than", metavar="TEXT", help="... against this one; else the runner-up")
    votes = "print so many of the largest votes of each kind (8)"
    parser.add_argument("--votes", metavar="N", type=count(0), default=8, help=votes)
    add_model(parser)
    add_template(parser)
    return command_line(parser, run, argv)


def run(args: argparse.Namespace, given: dict, say: Say) -> int:
    """Open, encode, look, print."""
    prompt = read_prompt(args)
    llm, _ = open_model(args, say)
    ids = encode(args, llm, prompt, say)
    logits_V = llm.logits(ids)[-1]
    best, second = (int(i) for i in glass.best_of(logits_V[None], 2)[0])
    token = best if args.token is None else one_token(llm, "--token", args.token)
    other = second if token == best else best
    if args.rather_than is not None:
        other = one_token(llm, "--rather-than", args.rather_than)
    for line in [*lens_lines(llm, ids, token), "", *vote_lines(llm, ids, token, other, args.votes)]:
        print(line)
    return 0


def one_token(llm: LLM, flag: str, text: str) -> int:
    """The token that a text is. Raises ValueError where it is none, or several."""
    ids = llm.tokenizer.encode(text, add_special=False, parse_special=True)
    if len(ids) != 1:
        pieces = ", ".join(shown(llm, i).strip() for i in ids)
        raise ValueError(f"{flag} {text!r} is not one token of this model but {len(ids)}: {pieces}")
    return ids[0]


def shown(llm: LLM, token: int, width: int = WIDTH) -> str:
    """A token as a quoted text of that width."""
    text = repr(on_one_line(llm.tokenizer.decode([token], special=True)))
    return f"{text if len(text) <= width else text[: width - 1] + '…':{width}}"


def lens_lines(llm: LLM, ids: Sequence[int], token: int) -> Iterator[str]:
    """The table of the lens at the last token of the prompt."""
    lens = glass.logit_lens(llm, ids, best=1, follow=[token], rows=[len(ids) - 1])
    cells = {}
    for point, top, p, rank in zip(
        lens.points, lens.top_ids, lens.top_probabilities, lens.ranks, strict=True
    ):
        kind = "mixer" if point.piece == "mixer" else "ffn"
        cells[point.layer, kind] = f"{shown(llm, int(top[0, 0]))} {p[0, 0]:6.1%} {rank[0, 0] + 1:>8,}"
    name, blank = shown(llm, token).strip(), " " * (WIDTH + 16)
    place = f"{'says':{WIDTH}} chance {'place':>8}"
    end = repr(on_one_line(llm.tokenizer.decode(ids[-8:], special=True)))
    yield f"What would follow {end}, were this the last layer? Place: that of {name}"
    yield f"among {llm.config.vocab_size:,} tokens."
    yield ""
    yield f"layer  {'after the mixer':{WIDTH + 16}}   after the feed-forward"
    yield f"       {place}   {place}"
    for i in range(-1, len(llm.config.layers)):
        first, then = (cells.get((i, kind), blank) for kind in ("mixer", "ffn"))
        yield f"{'embd' if i < 0 else i:>5}  {first}   {then}".rstrip()
    yield "Early layers do not write for the output matrix yet: read places there, not words."


def vote_lines(llm: LLM, ids: Sequence[int], token: int, other: int, n: int) -> Iterator[str]:
    """Who voted for the token rather than the other: half layers, then heads and where they looked."""
    votes = glass.votes(llm, ids, token, rather_than=other)
    for_, against = shown(llm, token).strip(), shown(llm, other).strip()
    of = f"of {len(votes.pieces)} pieces" + (f" and {votes.bias:+.3f} of biases" if votes.bias else "")
    yield f"Votes for {for_} rather than {against}: {votes.logit:+.3f} in all, {of}."
    for piece, layer, vote in sorted(votes.pieces, key=lambda piece: -abs(piece[2]))[:n]:
        where = "" if layer < 0 else f"layer {layer:>3}  "
        yield f"  {vote:+8.3f}  {where}{piece.replace('_', ' ')}"
    heads = [(vote, i, head) for i, of in votes.heads.items() for head, vote in enumerate(of)]
    if not heads or not n:
        return
    last = glass.keep(llm, ids, ["kq_soft_max"], [len(ids) - 1])
    yield "Of the heads, and the token that each took most from:"
    for vote, i, head in sorted(heads, key=lambda one: -abs(one[0]))[:n]:
        shares_S = last["kq_soft_max", i][head, 0]
        at = int(np.argmax(shares_S))
        where = f"layer {i:>3}  head {head:>3}  {shares_S[at]:4.0%} of"
        yield f"  {vote:+8.3f}  {where} {shown(llm, int(ids[at]))}".rstrip()
