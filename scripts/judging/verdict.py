"""The figures of a comparison, and what they mean.

The bounds lie between what was measured on SmolLM2-135M with llama.cpp (mean KL over the likeliest tokens):
weights in float32 with the cache in float16 5e-7, activations rounded to 8 bits 3e-3, a wrong template 1.
"""

from dataclasses import asdict, dataclass

import numpy as np

from judging.compare import Comparison, Difference

SAME, DIFFERENT = 1e-5, 0.1  # mean KL in nats: below the first rounding, above the second another model
TIE, FAR = 0.05, 1.0  # nats between two tokens: where rounding decides, and where it cannot


@dataclass(frozen=True)
class Summary:
    """All prompts of one kind together."""

    n_prompts: int
    n_tokens: int
    n_same: int  # positions where both find the same token the likeliest
    kl: float | None  # mean; None: the server shows no log-probabilities
    largest: float | None  # difference of a shown log-probability
    apart: float  # the most nats between the two tokens of a first difference
    n_texts: int  # texts without a difference
    first: tuple[str, Difference] | None  # the first difference, and of which prompt
    counts: list[tuple[str, int, int]]  # prompts whose tokens the two count differently: name, ours, theirs
    n_not_greedy: int

    @property
    def level(self) -> str:
        """same, rounded or different, by the log-probabilities, or else by the texts."""
        if self.kl is not None:
            return "same" if self.kl < SAME else "rounded" if self.kl < DIFFERENT else "different"
        if self.apart <= TIE:
            return "same"
        return "rounded" if self.apart <= FAR else "different"


def summarize(comparisons: list[Comparison]) -> Summary:
    """The figures of several prompts."""
    kl = [value for one in comparisons for value in one.kl]
    gaps = [abs(gap) for one in comparisons for gap in one.gaps]
    firsts = [(one.name, one.first) for one in comparisons if one.first]
    counts = [(one.name, one.n_prompt, one.reply.n_prompt) for one in comparisons]
    return Summary(
        n_prompts=len(comparisons),
        n_tokens=sum(one.n_tokens for one in comparisons),
        n_same=sum(one.n_same for one in comparisons),
        kl=max(0.0, float(np.mean(kl))) if kl else None,
        largest=float(max(gaps)) if gaps else None,
        apart=max((first.apart for _, first in firsts), default=0.0),
        n_texts=len(comparisons) - len(firsts),
        first=firsts[0] if firsts else None,
        counts=[(name, ours, theirs) for name, ours, theirs in counts if theirs not in (None, ours)],
        n_not_greedy=sum(one.n_not_greedy for one in comparisons),
    )


def judge(texts: Summary | None, chats: Summary | None) -> list[tuple[str, str]]:
    """What was found, as (a word for machines, a sentence for people), the gravest first."""
    found = []
    judged = texts or chats
    assert judged is not None
    if texts and texts.counts:
        name, ours, theirs = texts.counts[0]
        found.append(("tokenizer", TOKENIZER.format(name=name, ours=ours, theirs=theirs)))
    if texts and chats and texts.level != "different" and (chats.counts or chats.level == "different"):
        found.append(("template", _template(texts, chats)))
    elif chats and chats.counts and not texts:
        found.append(("template", _template(None, chats)))
    if not found or judged.level == "rounded":
        found.append((judged.level, WORDS[judged.level, judged.kl is not None].format(**_figures(judged))))
    if any(summary and summary.n_not_greedy for summary in (texts, chats)):
        found.append(("penalty", PENALTY))
    return sorted(found, key=lambda item: ORDER.index(item[0]))


def _figures(summary):
    differ = summary.n_prompts - summary.n_texts
    return asdict(summary) | {"differ": differ, "kl": summary.kl or 0, "largest": summary.largest or 0}


def _template(texts, chats):
    if chats.counts:
        name, ours, theirs = chats.counts[0]
        proof = f"{name} has {ours} tokens by the file's template and {theirs} at the server"
    else:
        proof = f"a KL of {chats.kl:.2g} nats" if chats.kl is not None else "the answers differ"
    rest = "Texts that are only continued agree. " if texts else ""
    return (
        f"The server does not use the file's chat template: {proof}. {rest}The prompt by the file is below."
    )


ORDER = ("different", "tokenizer", "template", "penalty", "rounded", "same")
TOKENIZER = (
    "The server reads prompts as other tokens: {name} has {ours} tokens by the file and {theirs} at the"
    " server. One more or less is a BOS that is missing or doubled; else its tokenizer is another."
)
PENALTY = (
    "The server does not take its own likeliest token at temperature 0, although it was asked for no penalty:"
    " its greedy texts are not those of the model."
)
BY_DEFAULT = (
    'unless it is asked for "repeat_penalty": 1.0, as it was here, this server penalizes repetitions even at'
    " temperature 0"
)
WORDS = {
    ("same", True): (
        "The server computes what the file says: the mean KL is {kl:.1g} nats, no more than the rounding of"
        " float32, or of a cache in float16."
    ),
    ("same", False): (
        "The server writes what the file says: {n_texts} of {n_prompts} texts are ours to the last token, and"
        " the others part where two tokens are as likely. It shows no log-probabilities, so small errors stay"
        " unseen."
    ),
    ("rounded", True): (
        "The server rounds: the mean KL is {kl:.1g} nats, and {differ} of {n_prompts} texts differ. The model"
        " is the right one; this is what activations rounded to 8 bits do (llama.cpp, with quantized"
        " weights), bfloat16, or another quantization of the same model."
    ),
    ("rounded", False): (
        "The server rounds: {differ} of {n_prompts} texts differ, where the two tokens are at most"
        " {apart:.2g} nats apart. This is what activations rounded to 8 bits do (llama.cpp, with quantized"
        " weights), bfloat16, or another quantization. It shows no log-probabilities, which would tell more."
    ),
    ("different", True): (
        "The server computes something else: the mean KL is {kl:.2g} nats, {differ} of {n_prompts} texts"
        " differ. It runs another file or a much coarser quantization, or computes wrongly."
    ),
    ("different", False): (
        "The server writes something else: {differ} of {n_prompts} texts differ, one by a token that we find"
        " {apart:.2g} nats less likely. It runs another file or a much coarser quantization, penalizes"
        " repetitions, or computes wrongly."
    ),
}
