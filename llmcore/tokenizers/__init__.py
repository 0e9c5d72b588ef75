"""The algorithms that turn text into tokens, a file each, loaded by the models that use them; vocabularies
and splits.
"""
