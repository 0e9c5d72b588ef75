"""The commands: what they can be told, how they run, what they report."""
