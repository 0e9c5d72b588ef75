"""Is the server right? `python scripts/referee.py --model FILE --against URL` asks any server that speaks
OpenAI's protocol (llama-server, llama-cpp-python, ollama, mlx, vLLM) and compares it with the file's own
logits, computed here in float32.

The server continues texts and answers conversations, greedily; with its log-probabilities where it shows
them. Its tokens are followed one by one, and at each its probabilities are held against ours:

- the first token that differs, and how far apart the two are;
- how often both find the same token the likeliest;
- KL(ours || the server's) over the tokens shown (judging/compare.py has the formula);
- how many tokens each prompt has: a wrong tokenizer, BOS or chat template shows there first.

Then it says what that means: the same; rounded, as with activations of 8 bits; another template, tokenizer or
model; a penalty that nobody asked for. Exit status: 0 whatever was found (--json has a word for it), 1 if
there was nothing to compare.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import command_line
from judging import prompts
from judging.compare import Comparison, Difference, Model
from judging.server import Refused, Server, ServerError
from judging.verdict import BY_DEFAULT, Summary, judge, summarize
from tqdm import tqdm

import llmcore
from llmcore.chat import encode_chat
from llmcore.cli.command import decoded, note, on_one_line
from llmcore.speed.holding import WEIGHTS


@dataclass(frozen=True)
class Result:
    """All that there is to tell."""

    model: str
    server: Server
    comparisons: list[Comparison]
    texts: Summary | None
    chats: Summary | None
    found: list[tuple[str, str]]
    notes: list[str]
    refusals: list[str]


def read_prompts(path: Path) -> tuple[list[str], list[list[dict]]]:
    """(texts, conversations) of a file: on each line a text, or {"prompt": ...} or {"messages": ...}."""
    texts, conversations = list[str](), list[list[dict]]()
    for n, line in enumerate(decoded(str(path), path.read_bytes()).splitlines(), 1):
        fields = None
        if line.startswith("{"):
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError):
                fields = None  # a text that begins so
        if isinstance(fields, dict) and isinstance(fields.get("messages"), list):
            conversations.append(fields["messages"])
        elif isinstance(fields, dict) and isinstance(fields.get("prompt"), str):
            texts.append(fields["prompt"])
        elif line.strip():
            texts.append(line)
        else:
            raise ValueError(f"{path}: line {n} is empty; write one prompt on each line")
    return texts, conversations


def compare_texts(model: Model, server: Server, texts: list[str], n_tokens: int) -> Iterator[Comparison]:
    """A comparison for each text to continue."""
    for n, text in enumerate(texts, 1):
        ids = model.llm.encode_prompt(text)
        yield model.compare(f"prompt {n}", ids, server.complete(text, n_tokens), n_tokens)


def compare_chats(
    model: Model, server: Server, chats: list[list[dict]], n_tokens: int
) -> Iterator[Comparison]:
    """A comparison for each conversation to answer; without those that the file's template cannot show."""
    for n, messages in enumerate(chats, 1):
        try:
            ids = encode_chat(model.llm.tokenizer, messages)
        except llmcore.ModelFileError:
            raise
        except ValueError as error:
            note(f"conversation {n} is left out: {error}")
            continue
        yield model.compare(f"conversation {n}", ids, server.answer(messages, n_tokens), n_tokens)


def has_penalty(server: Server) -> bool:
    """Whether the server, asked for nothing else, does not take its likeliest token."""
    plain = server.complete(prompts.REPETITION, 8, plain=True)
    if plain.steps is None:
        return not server.strict and plain.text != server.complete(prompts.REPETITION, 8).text
    shown = [[item.logprob for item in step.top] for step in plain.steps]
    return any(
        step.chosen.logprob < max(top, default=-1e9) - 1e-6
        for step, top in zip(plain.steps, shown, strict=True)
    )


def run(args) -> None:
    """Ask, compare, judge, print. Raises ServerError, and what `llmcore.load` raises."""
    server = Server(args.against, args.api_key, args.timeout, args.name)
    texts, chats = read_prompts(args.prompts) if args.prompts else (prompts.TEXTS, prompts.CONVERSATIONS)
    server.find_model()
    model = Model(llmcore.load(args.model, weights=args.weights, threads=args.threads, progress=True))
    chats = chats if model.llm.tokenizer.chat_template else []
    with tqdm(total=len(texts) + len(chats), desc="asking", unit="prompt", disable=None) as bar:
        continued, no_texts = gather(compare_texts(model, server, texts, args.max_tokens), bar)
        answered, no_chats = gather(compare_chats(model, server, chats, args.max_tokens), bar)
    if not (continued or answered):
        raise no_texts or no_chats or ServerError("there is no prompt that both can read")
    summaries = [summarize(found) if found else None for found in (continued, answered)]
    result = Result(
        args.model,
        server,
        continued + answered,
        *summaries,
        found=judge(*summaries),
        notes=[BY_DEFAULT] if continued and has_penalty(server) else [],
        refusals=[str(refusal) for refusal in (no_texts, no_chats) if refusal],
    )
    if args.json:
        print(json.dumps(as_json(result), ensure_ascii=False))
        return
    print(*report(result), sep="\n")
    if any(word == "template" for word, _ in result.found):
        name = result.chats.counts[0][0] if result.chats.counts else answered[0].name
        ids = encode_chat(model.llm.tokenizer, chats[int(name.split()[1]) - 1])
        print(f"\n{name} by the file's template:\n\n{model.llm.tokenizer.decode(ids, special=True)!r}")


def gather(comparisons: Iterator[Comparison], bar) -> tuple[list[Comparison], Refused | None]:
    """All of them, or the reason why the server refuses the first: it may lack that kind of question."""
    found = list[Comparison]()
    try:
        for comparison in comparisons:
            found.append(comparison)
            bar.update()
    except Refused as refusal:
        if found:
            raise
        return [], refusal
    return found, None


def report(result: Result) -> Iterator[str]:
    """The lines of the result, for people."""
    yield f"file    {result.model}"
    yield f"server  {result.server.url}, model {on_one_line(str(result.server.model))}"
    for path, reason in result.server.silent.items():
        yield f"no log-probabilities from {path}: {reason}"
    yield from (f"left out: {refusal}" for refusal in result.refusals)
    yield ""
    yield f"{'':<14}prompts  tokens  same top  KL (nats)  largest  same texts"
    both = (("continued", result.texts), ("conversations", result.chats))
    yield from (row(kind, summary) for kind, summary in both if summary)
    yield ""
    for _, summary in both:
        if summary and summary.first:
            yield said(*summary.first)
        if summary and summary.counts:
            few = [f"{name} ({ours} here, {theirs} there)" for name, ours, theirs in summary.counts[:5]]
            more = f", and {len(summary.counts) - 5} more" if len(summary.counts) > 5 else ""
            yield f"prompts of other lengths: {', '.join(few)}{more}"
    yield from (f"{word.upper()}: {sentence}" for word, sentence in result.found)
    yield from (f"Note: {text}" for text in result.notes)


def row(kind: str, summary: Summary) -> str:
    """One line of the table."""
    kl, largest = ("-" if x is None else f"{x:.1e}" for x in (summary.kl, summary.largest))
    same = f"{summary.n_same / max(summary.n_tokens, 1):.1%}"
    return (
        f"{kind:<14}{summary.n_prompts:>7}{summary.n_tokens:>8}{same:>10}{kl:>11}{largest:>9}"
        f"  {summary.n_texts} of {summary.n_prompts}"
    )


def said(name: str, first: Difference) -> str:
    """The first token that differs, in words."""
    return (
        f"{name}, token {first.position}: {first.ours!r} by the file, {first.theirs!r} at the server,"
        f" {first.apart:.2g} nats apart by the file"
    )


def as_json(result: Result) -> dict:
    """The result for machines."""
    return {
        "model": str(result.model),
        "against": result.server.url,
        "server_model": result.server.model,
        "verdict": result.found[0][0],
        "found": [{"what": word, "sentence": sentence} for word, sentence in result.found],
        "notes": result.notes,
        "no_logprobs": result.server.silent,
        "refused": result.refusals,
        "texts": _summary_in_json(result.texts),
        "conversations": _summary_in_json(result.chats),
        "prompts": [_comparison_in_json(one) for one in result.comparisons],
    }


def _summary_in_json(summary):
    return None if summary is None else asdict(summary) | {"level": summary.level}


def _comparison_in_json(one):
    return {
        "name": one.name,
        "prompt_tokens": {"file": one.n_prompt, "server": one.reply.n_prompt},
        "text": one.reply.text,
        "tokens": one.n_tokens,
        "same_top": one.n_same,
        "first_difference": None if one.first is None else asdict(one.first),
        "kl": sum(one.kl) / len(one.kl) if one.kl else None,
    }


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="FILE", help="the file that the server runs")
    parser.add_argument(
        "--against", required=True, metavar="URL", help="the server, like http://127.0.0.1:8080"
    )
    parser.add_argument(
        "--prompts", metavar="F", type=Path, help='a prompt a line: a text, {"prompt"}, {"messages"}'
    )
    parser.add_argument(
        "--max-tokens", metavar="N", type=_whole, default=16, help="tokens a prompt (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--name", metavar="M", help="the server's name for the model; else the first that it lists"
    )
    parser.add_argument("--api-key", metavar="K", help="the server's key")
    parser.add_argument(
        "--timeout", metavar="S", type=float, default=120, help="patience for an answer (%(default)s s)"
    )
    parser.add_argument(
        "--weights", choices=WEIGHTS, default="auto", help="how weights are held (%(default)s)"
    )
    parser.add_argument(
        "--threads", type=_whole, metavar="N", help="compute with N threads; else one for each core"
    )
    return parser


def _whole(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def main() -> None:
    """Run the command line."""
    args = _parser().parse_args()
    command_line.run(lambda: run(args))


if __name__ == "__main__":
    main()
