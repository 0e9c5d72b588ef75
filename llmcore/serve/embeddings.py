"""Texts -> vectors: the last or the mean hidden state behind the last norm, of length 1."""

from dataclasses import dataclass

import numpy as np
from starlette.responses import JSONResponse, Response

from ..llm import LLM
from ..model import norm
from ..samplers.options import Sampling
from .answers import Over
from .checks import RequestError, texts_or_ids
from .engine import Engine
from .jobs import Job, failure
from .replies import embedding
from .requests import EMBEDDING, checked, tried
from .texts import FAILED, Reading


@dataclass(frozen=True)
class Wanted:
    """What is to be embedded, and how it shall be told."""

    prompts: list[list[int]]
    pooling: str  # mean or last
    encoding: str  # float or base64
    n_dimensions: int


def read(llm: LLM, body: dict, pooling: str) -> Wanted:
    """A request for embeddings; `pooling` where it does not say. Raises RequestError."""
    given = checked(body, EMBEDDING)
    if "input" not in given:
        raise RequestError("input is missing", "input", "missing_required_parameter")
    n_most = llm.config.d_model
    n_dimensions = given.get("dimensions", n_most)
    if n_dimensions > n_most:
        raise RequestError(f"dimensions is {n_dimensions}; this model has {n_most}", "dimensions")
    texts = tried(lambda: texts_or_ids("input", given["input"]), "input")
    prompts = [llm.tokenizer.encode(text) if isinstance(text, str) else text for text in texts]
    for ids in prompts:
        tried(lambda ids=ids: llm.writer(ids, max_tokens=1, sampling=Sampling()), "input")
    encoding = given.get("encoding_format", "float")
    return Wanted(prompts, given.get("pooling", pooling), encoding, n_dimensions)


class Listener:
    """Waits for the end of a text."""

    def __init__(self, put):
        """`put(over)` is called once."""
        self._put = put

    def close(self, text, end: str, error: Exception | None) -> None:
        """The text is over."""
        self._put(Over(text, end, error))


def job(engine: Engine, wanted: Wanted) -> Job:
    """The texts of a request, submitted. Raises QueueFull and Stopping."""
    llm = engine.llm

    def last(_, x_TD):
        return norm(x_TD[-1:], llm.weights.output_norm, llm.config)[0]

    def total(sum_D, x_TD):
        return sum_D + norm(x_TD, llm.weights.output_norm, llm.config).sum(axis=0, dtype=np.float64)

    pool = last if wanted.pooling == "last" else total
    return Job(
        engine,
        lambda put_for: [Reading(ids, pool, Listener(put_for(i))) for i, ids in enumerate(wanted.prompts)],
    )


async def collected(job: Job, wanted: Wanted, model: str) -> Response:
    """The whole reply."""
    async for _, heard in job.heard():
        if isinstance(heard, Over) and heard.end == FAILED:
            raise failure(heard.error)
    data = []
    texts = [text for text in job.texts if isinstance(text, Reading)]
    for i, text in enumerate(texts):
        vector_D = np.asarray(text.pooled_D, np.float64)[: wanted.n_dimensions]
        data.append(embedding(vector_D / (np.linalg.norm(vector_D) or 1.0), i, wanted.encoding))
    usage = {"prompt_tokens": job.n_prompt, "total_tokens": job.n_prompt}
    return JSONResponse({"object": "list", "data": data, "model": model, "usage": usage})
