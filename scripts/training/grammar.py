"""A language whose entropy is known: sentences of a small probabilistic grammar, with agreement and
recursion.

    python scripts/grammar.py 5 --seed 1

prints five sentences. In a probabilistic context-free grammar each symbol chooses one of its rules,
independently of everything else. So the entropy of a sentence is the sum over symbols of how often it is used
times the entropy of its choice (Grenander 1967, Booth & Thompson 1973), a number that no model can predict
better than.

Entropy of a derivation is entropy of a text only if no text has two derivations. Here one word is always
enough to know the next rule (the grammar is LL(1), Knuth 1971; a test checks it), hence each sentence has one
derivation, and `derivation` finds it without ever going back.
"""

import argparse
import math
import random
from collections import Counter

import numpy as np

# SYMBOL: probability rule | probability rule ...; without probabilities all are equally likely. A rule is a
# row of symbols (upper case) and words, and may be empty. A noun phrase is of ONE or of MANY, and its verb
# agrees with it.
GRAMMAR = """
S:        0.6 ONE DOES | 0.4 MANY DO
ONE:      0.8 ONE_DET ONE_BODY | 0.2 NAME
MANY:     MANY_DET MANY_BODY
ONE_BODY:  0.25 ADJECTIVE ONE_BODY | 0.75 ONE_NOUN ONE_THAT
MANY_BODY: 0.25 ADJECTIVE MANY_BODY | 0.75 MANY_NOUN MANY_THAT
ONE_THAT:  0.8 | 0.2 that ONE_CLAUSE
MANY_THAT: 0.8 | 0.2 that MANY_CLAUSE
ONE_CLAUSE:  0.6 DOES | 0.25 ONE SEES | 0.15 MANY SEE
MANY_CLAUSE: 0.6 DO | 0.25 ONE SEES | 0.15 MANY SEE
DOES:     0.4 SLEEPS | 0.5 SEES OBJECT | 0.1 SAYS that S
DO:       0.4 SLEEP | 0.5 SEE OBJECT | 0.1 SAY that S
OBJECT:   0.6 ONE | 0.4 MANY
ONE_DET:  the | a | every | this
MANY_DET: some | many | two | these
NAME:     anna | tom | rex
ADJECTIVE: big | small | young | brown | happy | wild
ONE_NOUN:  dog | cat | bird | horse | farmer | girl
MANY_NOUN: dogs | cats | birds | horses | farmers | girls
SLEEPS:   sleeps | runs | sings | waits
SLEEP:    sleep | run | sing | wait
SEES:     sees | likes | hears | finds | follows
SEE:      see | like | hear | find | follow
SAYS:     says | knows
SAY:      say | know
"""


def read_rules(text: str) -> dict[str, list[tuple[float, tuple[str, ...]]]]:
    """Symbol -> its rules, each a probability and what the symbol becomes."""
    rules = {}
    for line in text.strip().splitlines():
        symbol, options = line.split(":")
        options = [option.split() for option in options.split("|")]
        if options[0][0][0].isdigit():
            rules[symbol] = [(float(p), tuple(parts)) for p, *parts in options]
        else:
            rules[symbol] = [(1 / len(options), tuple(parts)) for parts in options]
    return rules


RULES = read_rules(GRAMMAR)
START = "S"
WORDS = sorted(
    {part for options in RULES.values() for _, parts in options for part in parts if part not in RULES}
)


def sample(rng: random.Random) -> str:
    """A random sentence: expand the leftmost symbol until only words are left."""
    words, stack = [], [START]
    while stack:
        symbol = stack.pop()
        if symbol not in RULES:
            words.append(symbol)
            continue
        options = RULES[symbol]
        (_, parts), *_ = rng.choices(options, [p for p, _ in options])
        stack += reversed(parts)
    return " ".join(words)


def first_words(parts: tuple[str, ...]) -> set[str]:
    """The words that a row of symbols can begin with; "" among them if the row can be empty."""
    if not parts:
        return {""}
    head, *rest = parts
    words = {head}
    if head in RULES:
        words = set().union(*(first_words(option) for _, option in RULES[head]))
    return words if "" not in words else words - {""} | first_words(tuple(rest))


# (symbol, next word) -> the rule to take; under "" the rule that can be empty, which is taken where no other
# fits.
TABLE = {
    (symbol, word): (p, parts)
    for symbol, options in RULES.items()
    for p, parts in options
    for word in first_words(parts)
}


def derivation(text: str) -> list[float] | None:
    """The probabilities of the rules that make up a sentence, in order; None if it is not one of the
    grammar's.
    """
    probabilities, stack = [], [START]
    for word in [*text.split(" "), None]:  # None is the end
        while stack and stack[-1] in RULES:
            symbol = stack.pop()
            rule = TABLE.get((symbol, word)) or TABLE.get((symbol, ""))
            if rule is None:
                return None
            probabilities.append(rule[0])
            stack += reversed(rule[1])
        if word is not None and (not stack or stack.pop() != word):
            return None
    return None if stack else probabilities


def parses(text: str) -> bool:
    """Whether a text is a sentence of the grammar."""
    return derivation(text) is not None


def log_probability(text: str) -> float:
    """ln P(sentence): the sum of its rules' ln p, since there is but one derivation; -inf if it is none."""
    probabilities = derivation(text)
    return -math.inf if probabilities is None else sum(map(math.log, probabilities))


def expected_uses() -> dict[str, float]:
    """How often a sentence uses each symbol, on average.

    n = e_S + n M, where M[a, b] is how many b one a becomes on average; hence n = e_S (1 - M)^-1.
    """
    symbols = list(RULES)
    M = np.zeros((len(symbols), len(symbols)))
    for a, symbol in enumerate(symbols):
        for p, parts in RULES[symbol]:
            for part in parts:
                if part in RULES:
                    M[a, symbols.index(part)] += p
    start = np.array([symbol == START for symbol in symbols], float)
    return dict(zip(symbols, np.linalg.solve(np.eye(len(symbols)) - M.T, start).tolist(), strict=True))


def entropy() -> float:
    """The entropy of a sentence in nats: sum over symbols of uses times -sum p ln p over its rules."""
    uses = expected_uses()
    return sum(uses[symbol] * -sum(p * math.log(p) for p, _ in options) for symbol, options in RULES.items())


def expected_words() -> dict[str, float]:
    """How often a sentence holds each word, on average."""
    counts = Counter()
    for symbol, n in expected_uses().items():
        for p, parts in RULES[symbol]:
            counts.update({part: n * p * parts.count(part) for part in {*parts} - RULES.keys()})
    return dict(counts)


def main() -> None:
    """Print sentences, and what is known of all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("count", type=int, nargs="?", default=10, help="how many sentences (10)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    for _ in range(args.count):
        print(sample(rng))
    words = sum(expected_words().values())
    print(f"a sentence: {entropy():.4f} nats, {words:.3f} of the {len(WORDS)} words on average")


if __name__ == "__main__":
    main()
