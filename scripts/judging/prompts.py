"""What is asked by default: texts to continue in several languages, code and numbers, and conversations."""

TEXTS = (
    "Once upon a time",
    "The capital of Poland is",
    "Water boils at a temperature of",
    "It was the best of times, it was the worst of times,",
    "In 1969, the first people to walk on the Moon",
    "My favourite recipe for bread begins with",
    "Dear Sir or Madam,\nI am writing to",
    "Q: What is the largest planet of the solar system?\nA:",
    "The difference between a virus and a bacterium is that",
    "La capitale de la France est",
    "Il était une fois une petite fille qui",
    "Die Hauptstadt von Deutschland ist",
    "Es war einmal ein König, der",
    "El perro y el gato son",
    "O rio mais longo do mundo é",
    "La Divina Commedia fu scritta da",
    "Wisła jest najdłuższą rzeką",
    "Dawno, dawno temu żyła",
    "Столица России —",
    "日本の首都は",
    "def fibonacci(n):\n",
    "#include <stdio.h>\n\nint main(",
    "SELECT name, COUNT(*) FROM customers",
    '{"name": "Alice", "age": 30, "city":',
    "import numpy as np\n\nx = np.",
    "1, 1, 2, 3, 5, 8,",
    "2 + 2 = 4\n3 + 5 = 8\n12 + 30 =",
    "3.14159",
    "Monday, Tuesday, Wednesday,",
    "| year | sales |\n|---|---|\n| 2019 |",
)
CONVERSATIONS: tuple[list[dict], ...] = (
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "Write a function in Python that reverses a list."}],
    [{"role": "user", "content": "Napisz jedno zdanie o Wiśle."}],
    [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Nice to meet you, Ada."},
        {"role": "user", "content": "What is my name?"},
    ],
    [
        {"role": "system", "content": "You answer in one word."},
        {"role": "user", "content": "Is the sky blue?"},
    ],
)
# Repeats itself so surely that only a penalty can make a model do otherwise.
REPETITION = "no, no, no, no, no, no, no, no, no, no, no, no,"
