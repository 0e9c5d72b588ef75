"""The parts of bench.py, and two benchmarks of their own: dequantize.py and tokenizer.py."""
