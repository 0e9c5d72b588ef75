"""The markers that models write around a thought, by what their chat template has.

A template never says which markers its model thinks between, but it writes them when it repeats an earlier
thought or opens a new one. So the template's own text is looked through, and a model's name is never asked
for.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reasoning:
    """A thought stands between `open` and `close`.

    `anywhere`: the opening marker is a control token, so it opens a thought after text, too. A tag of plain
    letters such as <think> does so only where nothing else was said before: an answer may speak about tags.
    `silent`: further markup of an answer, neither thought nor said.
    """

    open: str
    close: str
    anywhere: bool = False
    silent: tuple[str, ...] = ()


TAGS = Reasoning("<think>", "</think>")

# What the template's text has -> its markers; the first that fits counts, so what is special stands first.
TABLE = (
    ("<|channel>thought", Reasoning("<|channel>thought", "<channel|>", anywhere=True)),  # Gemma 4
    (
        "<|channel|>analysis",  # gpt-oss
        Reasoning(
            "<|channel|>analysis<|message|>",
            "<|end|>",
            anywhere=True,
            silent=("<|start|>assistant", "<|channel|>final<|message|>", "<|channel|>commentary<|message|>"),
        ),
    ),
    ("to=self", Reasoning(" to=self<|message|>", "<|eom|>", anywhere=True)),
    ("<seed:think>", Reasoning("<seed:think>", "</seed:think>")),
    ("<mm:think>", Reasoning("<mm:think>", "</mm:think>")),
    ("[THINK]", Reasoning("[THINK]", "[/THINK]", anywhere=True)),  # Magistral, Ministral
    ("<|START_THINKING|>", Reasoning("<|START_THINKING|>", "<|END_THINKING|>", anywhere=True)),  # Command
    ("<|inner_prefix|>", Reasoning("<|inner_prefix|>", "<|inner_suffix|>", anywhere=True)),  # Apertus
    (
        "'think' if thinking",
        Reasoning("<|open|>think<|sep|>", "<|close|>think<|sep|>", anywhere=True),
    ),  # Kimi K3
    ("assistant<|think|>", Reasoning("<|think|>", "<|end|>", anywhere=True)),  # Solar
    ("[BEGIN FINAL RESPONSE]", Reasoning("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]")),  # Apriel
    (
        "':opensource'",
        Reasoning("<think:opensource>", "</think:opensource>"),
    ),  # Hunyuan writes '<think{}>'.format(...)
    ("<think>", TAGS),
    ("</think>", TAGS),
)


def reasoning_of(template: str) -> Reasoning | None:
    """The markers of the thoughts that a template writes; None if it writes none."""
    return next((markers for text, markers in TABLE if text in template), None)
