"""Before all else: guess what the model finds likeliest, after the beginnings of the reader's own text.

Shape key: R rows.
"""

from ....tokenizers.vocabulary import NORMAL
from ...recording import Run
from ..run import candidates

WANTED: frozenset[str] = frozenset({"l_out"})
ROUNDS = 6
PLACES = (0, 2, 5)  # among the candidates that can be shown: the likeliest, and two to choose against it


def part(run: Run) -> dict | None:
    """The rounds: a row, and the four tokens to choose from, in the order of their ids."""
    rounds = [made for row in range(len(run.rows)) if (made := choices(run, row)) is not None]
    return {"rounds": rounds[-ROUNDS:]} if rounds else None


def choices(run: Run, row: int) -> dict | None:
    """The tokens to choose from after a row: three of the model's, and the one that came in the text."""
    tokenizer, came = run.llm.tokenizer, run.targets[row]
    if run.chat and not is_text(tokenizer, run.ids[run.rows[row]]):
        return None  # what the chat template puts around a message is no guess
    likely = [int(i) for i in candidates(run)[row]["ids"] if is_text(tokenizer, int(i))]
    if not is_text(tokenizer, came) or len(likely) <= PLACES[-1]:
        return None
    found = [likely[place] for place in PLACES]
    if came not in found:
        found.append(came)
    elif len(likely) > 9:
        found.append(likely[9])
    return {"row": row, "ids": sorted(found), "best": likely[0]}


def is_text(tokenizer, token_id: int) -> bool:
    """Whether a token can be seen as what it is: plain text, and not only white space or half a character."""
    text = tokenizer.token_text(token_id)
    return tokenizer.types[token_id] == NORMAL and bool(text.strip()) and "\ufffd" not in text


def code(run: Run) -> list:
    """None: this is play."""
    return []
