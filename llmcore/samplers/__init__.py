"""How tokens are chosen: the options that all runs have, and one file for each filter that few runs ask for.

A file of a filter has `keep(ids, logits, sampling, text)`, which returns the candidates that stay and their
logits. It bears the name that llama.cpp gives the filter in a sequence of samplers.
"""
