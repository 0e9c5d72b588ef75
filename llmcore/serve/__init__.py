"""A server that speaks OpenAI's protocol, and its page: `python -m llmcore serve --model M`.

Requests come in on one thread (`app`), are read and checked (`requests`), wait in the queue of another, which
computes (`engine`), and what the model writes goes back piece by piece (`answers`, `replies`).
"""
