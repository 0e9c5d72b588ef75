"""The grammar's figures: each against another way to find it."""

import random
from itertools import product

import numpy as np
import pytest
from training import grammar
from training.grammar import RULES, START

SAMPLES = 20_000


@pytest.fixture(scope="module")
def sentences():
    rng = random.Random(0)
    return [grammar.sample(rng) for _ in range(SAMPLES)]


def test_probabilities_of_each_symbol_sum_to_one():
    for symbol, options in RULES.items():
        assert sum(p for p, _ in options) == pytest.approx(1), symbol


def test_every_sentence_parses(sentences):
    assert all(map(grammar.parses, sentences))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the",
        "the dog",
        "the dog sleep",  # agreement
        "many dogs sleeps",
        "the dogs sleep",  # "the" is of one
        "many dogs that see the cat sleeps",  # the verb agrees with the dogs
        "the dog that many cats sees sleeps",
        "the dog sleeps sleeps",
        "the dog sees",
        "the dog says the cat sleeps",
        "the  dog sleeps",
        " the dog sleeps",
        "the dog sleeps ",
        "The dog sleeps",
        "S",
        "ONE DOES",
        "the wolf sleeps",
    ],
)
def test_other_texts_do_not_parse(text):
    assert not grammar.parses(text)
    assert grammar.log_probability(text) == -np.inf


def test_probability_by_hand():
    # S, ONE, ONE_BODY, ONE_THAT, DOES and the words of four lists.
    expected = 0.6 * 0.8 * (1 / 4) * 0.75 * (1 / 6) * 0.8 * 0.4 * (1 / 4)
    assert np.exp(grammar.log_probability("the dog sleeps")) == pytest.approx(expected)
    expected = 0.6 * 0.2 * (1 / 3) * 0.5 * (1 / 5) * 0.4 * (1 / 4) * 0.75 * (1 / 6) * 0.8
    assert np.exp(grammar.log_probability("tom likes two cats")) == pytest.approx(expected)


def nullable():
    """Symbols that can be empty, by iteration to a fixed point."""
    found = set()
    for _ in RULES:
        found |= {
            symbol
            for symbol, options in RULES.items()
            if any(found.issuperset(parts) for _, parts in options)
        }
    return found


def first_and_follow():
    """FIRST of each rule and FOLLOW of each symbol, by iteration to a fixed point (Aho et al., 4.4)."""
    empty = nullable()
    first, follow = {symbol: set() for symbol in RULES}, {symbol: set() for symbol in RULES}
    follow[START].add("the end")

    def begin(parts):
        words = set()
        for part in parts:
            words |= first.get(part, {part})
            if part not in empty:
                break
        return words

    for _ in range(2 * len(RULES)):
        for symbol, options in RULES.items():
            for _, parts in options:
                first[symbol] |= begin(parts)
                for i, part in enumerate(parts):
                    if part in RULES:
                        follow[part] |= begin(parts[i + 1 :])
                        follow[part] |= follow[symbol] if empty.issuperset(parts[i + 1 :]) else set()
    return begin, follow, empty


def test_one_word_decides_each_rule():
    """The grammar is LL(1), and so no text has two derivations."""
    begin, follow, empty = first_and_follow()
    for symbol, options in RULES.items():
        starts = [
            begin(parts) | (follow[symbol] if empty.issuperset(parts) else set()) for _, parts in options
        ]
        assert sum(map(len, starts)) == len(set().union(*starts)), symbol


def expansions(parts, budget):
    """All texts of at most `budget` words from a row of symbols, once for each derivation, with its
    probability.
    """
    if not parts:
        yield (), 1.0
        return
    head, rest = parts[0], parts[1:]
    if head not in RULES:
        if budget:
            for words, p in expansions(rest, budget - 1):
                yield (head, *words), p
        return
    options = RULES[head]
    if all(len(option) == 1 and option[0] not in RULES for _, option in options):
        options = [(1.0, options[0][1])]  # one word stands for the list
    for p, option in options:
        for words, q in expansions(option + rest, budget):
            yield words, p * q


def test_no_short_text_has_two_derivations():
    texts = [words for words, _ in expansions((START,), 12)]
    assert len(texts) > 1000
    assert len(texts) == len(set(texts))


def test_short_texts_parse_exactly_if_they_can_be_derived():
    words = ["the", "two", "dog", "dogs", "tom", "big", "sees", "see", "sleeps", "that", "says"]
    lexicon = {"the": "ONE_DET", "two": "MANY_DET", "dog": "ONE_NOUN", "dogs": "MANY_NOUN", "tom": "NAME"}
    lexicon |= {"big": "ADJECTIVE", "sees": "SEES", "see": "SEE", "sleeps": "SLEEPS", "says": "SAYS"}
    stands_for = {RULES[symbol][0][1][0]: word for word, symbol in lexicon.items()}
    derived = {" ".join(stands_for.get(word, word) for word in text) for text, _ in expansions((START,), 5)}
    for n in range(1, 6):
        for text in map(" ".join, product(words, repeat=n)):
            assert grammar.parses(text) == (text in derived), text


def test_entropy_is_that_of_samples(sentences):
    surprises = np.array([-grammar.log_probability(text) for text in sentences])
    error = surprises.std() / np.sqrt(SAMPLES)
    assert error < 0.01 * grammar.entropy()
    assert abs(surprises.mean() - grammar.entropy()) < 4 * error


def test_expected_words_are_those_of_samples(sentences):
    expected = grammar.expected_words()
    assert set(expected) == set(grammar.WORDS)
    for word in ("the", "that", "tom", "dogs", "see", "says"):
        counts = np.array([text.split().count(word) for text in sentences])
        assert abs(counts.mean() - expected[word]) < 4 * counts.std() / np.sqrt(SAMPLES), word
    lengths = np.array([len(text.split()) for text in sentences])
    assert abs(lengths.mean() - sum(expected.values())) < 4 * lengths.std() / np.sqrt(SAMPLES)
