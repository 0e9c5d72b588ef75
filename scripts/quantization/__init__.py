"""The part of quantize.py that is our own: the search for scales."""
