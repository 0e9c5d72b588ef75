"""The parts of referee.py: a server asked, its answers compared, the comparison judged."""
