"""The parts of train.py: the gradient, the step, the texts, the file, and the state between two runs."""
