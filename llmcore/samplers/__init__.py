"""How tokens are chosen: the options that all runs have, and one file for each filter that few runs ask for.

A file of a filter has `keep(ids, logits, sampling, text)`, which returns the candidates that stay and their
logits. It bears the name that llama.cpp gives the filter in a sequence of samplers.
"""


def read_sampling(metadata: dict, path) -> dict:
    """{option: value} of what a file names; `path` is for warnings."""
    if not any(key.startswith("general.sampling.") for key in metadata):
        return {}
    from .of_file import read_keys  # here, because few files have an opinion

    return read_keys(metadata, path)


def prepare(sampling, tokenizer, ignore_eos: bool = False) -> tuple:
    """What the filters that look at the vocabulary need for one text: DRY's breakers, none if it is off, and
    the constraint, None if the text may be any.

    Raises ValueError for a bias of a token that the model does not have, and what `constraint_of` raises.
    """
    breakers, constraint = {}, None
    if sampling.logit_bias:
        from .logit_bias import check

        check(sampling, tokenizer.vocab_size)
    if sampling.dry_multiplier:
        from .dry import find_breakers

        breakers = find_breakers(tokenizer, sampling.dry_sequence_breakers)
    if sampling.is_constrained:
        from .constraint import constraint_of

        constraint = constraint_of(sampling, tokenizer, ignore_eos)
    return breakers, constraint
