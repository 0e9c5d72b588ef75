"""The whole chain in one command, in a few minutes: `python scripts/story.py` (needs the extra `plot` for its
picture).

    m_1 -> m_2 -> ... -> m_final     training: the same archive, each time with better numbers (train.py)
    m_final -> Q8_0, Q4_0, Q4_K      quantization: fewer bits a number, and their price (quantize.py)
    each of them -> sentences        inference: the engine runs every one of these files, as it runs any other

The texts come from a small grammar (grammar.py) whose entropy is known, so the loss has a floor that no model
can pass. What is measured: perplexity = exp(mean of -ln p(token | tokens before it)) over sentences that
training never saw, the end of each included; and KL = mean over the same places of the sum of p_final (ln
p_final - ln p).
"""

import argparse
import csv
import importlib.util
import math
from pathlib import Path

import numpy as np
import train
from command_line import run
from quantize import quantize_file
from training import grammar
from training.corpus import sentences

import llmcore
from llmcore.glass.page import write_page
from llmcore.glass.page.scenes import wanted
from llmcore.glass.recording import record
from llmcore.ops import log_softmax

TYPES = ("Q8_0", "Q4_0", "Q4_K")
SIZES = ("--width", "256", "--heads", "4", "--ff", "512", "--lr", "0.002")  # rows that Q4_K can hold
HELD_OUT = 300  # sentences to measure with
SAMPLES = 200  # sentences that each model writes, to count those that parse
BLUE, ORANGE = "#1f5fa8", "#d9822b"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Training, quantization, inference: the whole chain, small.")
    parser.add_argument("--out", type=Path, default=Path("models/story"), metavar="DIR", help="(%(default)s)")
    parser.add_argument(
        "--steps", type=int, default=2000, metavar="N", help="steps of training (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of all that is random (%(default)s)"
    )
    args = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("the picture needs matplotlib: pip install -e '.[plot]'")
    run(lambda: tell(args))


def tell(args) -> None:
    """The story, from the first number to the picture."""
    print("TRAINING: the same archive, other numbers\n")
    options = [
        "--grammar",
        "--out",
        str(args.out),
        "--steps",
        str(args.steps),
        "--seed",
        str(args.seed),
        *SIZES,
    ]
    train.train(train.parse(options))
    curve = read_curve(args.out / "losses.csv")
    models = [*sorted(args.out.glob("m_?.gguf")), args.out / "m_final.gguf"]

    print("\nINFERENCE: what each of them says at temperature 1\n")
    print(f"{'model':<14}{'parse':>6}   the first of {SAMPLES} sentences")
    for path in models:
        texts = write(llmcore.load(path), SAMPLES)
        print(f"{path.stem:<14}{np.mean([grammar.parses(text) for text in texts]):>6.0%}   {shown(texts[0])}")

    print("\nQUANTIZATION: fewer bits for the same numbers\n")
    results = quantized(args.out, held_out(llmcore.load(models[-1]), args.seed))
    print(
        f"{'type':<6}{'MB':>8}{'bits a weight':>15}{'perplexity':>12}{'KL':>12}{'same top':>10}{'parse':>7}"
    )
    for row in results:
        figures = (
            f"{row['bytes'] / 1e6:>8.2f}{row['bits']:>15.2f}{row['perplexity']:>12.4f}{row['kl']:>12.2e}"
        )
        print(f"{row['type']:<6}{figures}{row['same']:>10.2%}{row['parse']:>7.0%}")
    floor = curve["floor"][0]
    print(f"floor: the grammar's entropy is {floor:.4f} nats a token, a perplexity of {math.exp(floor):.4f}")
    picture = args.out / "story.png"
    draw(curve, results, picture)
    print(f"wrote {picture}")
    page = explain(models[-1], args.out / "story.html")
    print(f"wrote {page}: one sentence of m_final, followed number by number")


def explain(model: Path, page: Path) -> Path:
    """The page on which the last model's next words are followed, after two words of the grammar."""
    llm, file = llmcore.load(model), llmcore.loader.read_gguf(model)
    words = sentences("page", 1)[0].split()[:2]
    ids = [llm.tokenizer.bos_id, *llm.tokenizer.encode(" ".join(words), add_special=False)]
    run = record(llm, file, ids, wanted(), max_tokens=4, seed=0, sampling=llm.sampling(temperature=1.0))
    write_page(run, page)
    return page


def read_curve(path: Path) -> dict[str, np.ndarray]:
    """The columns of losses.csv; NaN where a step has no such number."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}


def held_out(llm, seed) -> list[list[int]]:
    """Sentences that training did not draw, as ids from BOS to EOS."""
    bos, eos = llm.tokenizer.bos_id, llm.tokenizer.eos_id
    texts = sentences(f"{seed} story", HELD_OUT)
    return [
        [bos, *llm.tokenizer.encode(text, add_special=False), eos][: llm.context_length] for text in texts
    ]


def write(llm, n: int) -> list[str]:
    """Sentences that a model draws from its own distribution, nothing filtered."""
    options = {
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "max_tokens": llm.context_length - 1,
    }
    return ["".join(llm.generate([llm.tokenizer.bos_id], seed=seed, **options)).strip() for seed in range(n)]


def shown(text: str) -> str:
    """A text on one line of the terminal."""
    text = " ".join(text.split())
    return text if len(text) <= 90 else text[:87] + "..."


def quantized(out: Path, texts: list[list[int]]) -> list[dict]:
    """m_final in each type: how large, and how well it predicts the texts, beside m_final as trained."""
    final = out / "m_final.gguf"
    base = log_probabilities(llmcore.load(final), texts)
    results = []
    for type in ("F32", *TYPES):
        path = final if type == "F32" else out / f"m_final-{type}.gguf"
        if path != final:
            quantize_file(final, path, type, force=True)
        llm = llmcore.load(path)
        log_p = log_probabilities(llm, texts)
        tensors = llmcore.loader.read_gguf(path).tensors.values()
        n_bytes, n_weights = sum(t.nbytes for t in tensors), sum(math.prod(t.shape) for t in tensors)
        results.append(
            {"type": type, "bytes": n_bytes, "bits": 8 * n_bytes / n_weights} | compare(log_p, base, texts)
        )
        results[-1]["parse"] = np.mean([grammar.parses(text) for text in write(llm, SAMPLES)])
    return results


def log_probabilities(llm, texts) -> np.ndarray:
    """ln p of every token at each place of the texts, float32 (places, V)."""
    return np.concatenate([log_softmax(llm.logits(ids[:-1])) for ids in texts])


def compare(log_p, base, texts) -> dict:
    """Perplexity, KL from the base, and how often both find the same token the most likely."""
    targets = np.concatenate([ids[1:] for ids in texts])
    loss = -log_p[np.arange(len(targets)), targets].mean(dtype=float)
    kl = np.einsum("pv,pv->p", np.exp(base), base - log_p, dtype=float).mean()
    same = np.mean(log_p.argmax(axis=1) == base.argmax(axis=1))
    return {"perplexity": math.exp(loss), "kl": max(0.0, float(kl)), "same": same}


def draw(curve, results, path: Path) -> None:
    """The loss on its way to the floor, and what each bit is worth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(curve["step"], curve["loss"], color=BLUE, alpha=0.35, linewidth=1, label="each batch")
    measured = np.isfinite(curve["held_out"])
    left.plot(
        curve["step"][measured], curve["held_out"][measured], "o-", color=BLUE, label="held-out sentences"
    )
    left.axhline(curve["floor"][0], color=ORANGE, linestyle="--", label="entropy of the grammar")
    names = [f"m_{i + 1}" for i in range(measured.sum() - 1)] + ["m_final"]
    for name, step, loss in zip(names, curve["step"][measured], curve["held_out"][measured], strict=True):
        left.annotate(name, (step, loss), (4, 8), textcoords="offset points", fontsize=9)
    left.set(title="training", xlabel="step", ylabel="loss, nats a token", yscale="log")
    left.set_yticks(range(2, 7), labels=range(2, 7))
    left.minorticks_off()
    left.legend(frameon=False)

    whole, *smaller = results
    right.plot([row["bytes"] / 1e6 for row in smaller], [row["kl"] for row in smaller], "o", color=BLUE)
    for row in smaller:
        label = f"{row['type']}, {row['bits']:.1f} bits: perplexity {row['perplexity']:.4f}"
        right.annotate(
            label, (row["bytes"] / 1e6, row["kl"]), (8, -3), textcoords="offset points", fontsize=9
        )
    right.axvline(whole["bytes"] / 1e6, color=ORANGE, linestyle="--")
    label = f"F32, 32 bits\nperplexity {whole['perplexity']:.4f}\nKL 0 "
    right.annotate(
        label, (whole["bytes"] / 1e6, 0.5), (-6, 0), ("data", "axes fraction"), "offset points", ha="right"
    )
    right.set(
        title="quantization of m_final",
        xlabel="size, MB",
        ylabel="KL from m_final, nats a token",
        yscale="log",
    )
    right.set_xlim(0, 1.1 * whole["bytes"] / 1e6)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
