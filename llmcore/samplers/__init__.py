"""How tokens are chosen: the options that all runs have, and one file for each filter that few runs ask for.

A file of a filter has `keep(ids, logits, sampling, text)`, which returns the candidates that stay and their
logits. It bears the name that llama.cpp gives the filter in a sequence of samplers.
"""


def prepare(sampling, tokenizer) -> dict:
    """What the filters that look at the vocabulary need: DRY's breakers. Raises ValueError for a bias of a token
    that the model does not have.
    """
    from .dry import find_breakers
    from .logit_bias import check

    check(sampling, tokenizer.vocab_size)
    return find_breakers(tokenizer, sampling.dry_sequence_breakers) if sampling.dry_multiplier else {}
