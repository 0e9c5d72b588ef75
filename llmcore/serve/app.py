"""The routes: what comes in is read, handed to the engine, and its answer written back."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ..llm import LLM
from . import embeddings, requests
from .checks import RequestError, read_json
from .engine import Engine, QueueFull, Stopping
from .guard import Guard
from .jobs import Choices, failure
from .replies import DONE, ChatForm, TextForm, event, head_of, model_card, reason_of, usage_of
from .requests import checked
from .texts import CANCELLED

PAGE = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MOST_BYTES = 16 << 20  # of a request
READERS = 4  # requests that are read at a time
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Served:
    """A model that is served, and under what terms."""

    llm: LLM
    names: Sequence[str]  # the first is its own, the others stand for it, too
    engine: Engine
    sampling: Mapping = field(default_factory=dict)  # what the server was told
    pooling: str = "mean"
    local: bool = True
    key: str | None = None
    origins: Sequence[str] = ()
    created: int = field(default_factory=lambda: int(time.time()))
    readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(READERS, "llmcore-reader"))

    async def read(self, work, *arguments):
        """`work(*arguments)` on another thread: to render a template takes a while."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, work, *arguments)

    def check_model(self, body: Mapping) -> str:
        """The name that a request calls the model by; without one it is the model's own."""
        name = body.get("model") or self.names[0]
        if name not in self.names:
            raise no_model(name, self.names)
        return name


def no_model(name, names) -> RequestError:
    """The error for a model that is not here."""
    message = f"there is no model {name!r:.100} here; there is {', '.join(names)}"
    return RequestError(message, "model", "model_not_found", status=404)


class Events(StreamingResponse):
    """A stream of events; `close` is called when it ends, however that comes."""

    def __init__(self, content, close):
        """`content`: the events."""
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(content, media_type="text/event-stream", headers=headers)
        self._close = close

    async def __call__(self, scope, receive, send):
        """Send them, as long as the client is there."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


async def body_of(request: Request) -> dict:
    """The JSON object that a request brings."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_BYTES:
            raise RequestError(f"the body has more than {MOST_BYTES >> 20} MB", status=413)
    return read_json(bytes(data))


async def unless_gone(request: Request, work):
    """What `work` returns; it is cancelled if the client leaves first."""

    async def gone():
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else Response(status_code=499)
    finally:
        for task in tasks:
            task.cancel()


async def write(served: Served, request: Request, body: dict, read, form_of) -> Response:
    """Have texts written that `read` finds asked for, and told in the form of `form_of(asked)`."""
    model = served.check_model(body)
    if served.engine.room() <= 0:  # before the work of reading it
        raise QueueFull

    def read_all():
        asked = read(served.llm, body, served.sampling)
        return asked, list(asked.writers(served.llm))

    asked, writers = await served.read(read_all)
    choices, form = Choices(served.engine, asked, writers), form_of(asked)
    if asked.stream:
        return Events(streamed(choices, form, head_of(form, model, form.chunk)), choices.job.close)
    try:
        return await unless_gone(request, collected(choices, form, head_of(form, model, form.whole)))
    finally:
        choices.job.close()


async def collected(choices: Choices, form, head: dict) -> Response:
    """The whole reply."""
    async for _ in choices.deltas():
        pass
    told = zip(choices.answers, choices.logprobs, choices.calls, choices.ends, strict=True)
    usage = usage_of(choices.job.n_prompt, choices.job.n_cached, choices.answers)
    return JSONResponse(
        head | {"choices": [form.choice(i, *one) for i, one in enumerate(told)], "usage": usage}
    )


async def streamed(choices: Choices, form, head: dict):
    """The events of a reply, each as soon as it is certain."""
    asked = choices.asked
    empty = {"usage": None} if asked.include_usage else {}
    for i in range(len(choices.answers)):
        if (first := form.first(i)) is not None:
            yield event(head | {"choices": [first]} | empty)
    try:
        async for i, delta, end in choices.deltas():
            if delta:
                yield event(head | {"choices": [form.part(i, delta)]} | empty)
            if end == CANCELLED:
                return
            if end:
                reason = reason_of(end, bool(choices.calls[i]))
                yield event(head | {"choices": [form.last(i, reason)]} | empty)
        if asked.include_usage:
            usage = usage_of(choices.job.n_prompt, choices.job.n_cached, choices.answers)
            yield event(head | {"choices": [], "usage": usage})
    except RequestError as error:
        yield event(error.body)
    yield DONE


async def chat(served: Served, request: Request) -> Response:
    """POST /v1/chat/completions."""
    body = await body_of(request)
    return await write(
        served, request, body, requests.read_chat, lambda asked: ChatForm(served.llm.tokenizer, asked.n_top)
    )


async def complete(served: Served, request: Request) -> Response:
    """POST /v1/completions."""
    body = await body_of(request)
    return await write(
        served,
        request,
        body,
        requests.read_completion,
        lambda asked: TextForm(served.llm.tokenizer, asked.n_top, asked.echo, asked.n),
    )


async def embed(served: Served, request: Request) -> Response:
    """POST /v1/embeddings."""
    body = await body_of(request)
    model = served.check_model(body)
    wanted = await served.read(embeddings.read, served.llm, body, served.pooling)
    job = embeddings.job(served.engine, wanted)
    try:
        return await unless_gone(request, embeddings.collected(job, wanted, model))
    finally:
        job.close()


async def models(served: Served, request: Request) -> Response:
    """GET /v1/models."""
    return JSONResponse({"object": "list", "data": [card(served, name) for name in served.names]})


async def model(served: Served, request: Request) -> Response:
    """GET /v1/models/NAME."""
    if (name := request.path_params["name"]) not in served.names:
        raise no_model(name, served.names)
    return JSONResponse(card(served, name))


def card(served, name):
    """What is told of the model; of its sampling what a request is free to change."""
    sampling = vars(served.llm.sampling(**served.sampling))
    simple = {k: v for k, v in sampling.items() if isinstance(v, int | float)}
    return model_card(name, served.llm, served.created, simple)


async def tokenize(served: Served, request: Request) -> Response:
    """POST /tokenize: the ids of a text, or of a conversation."""
    body = await body_of(request)
    served.check_model(body)
    given = checked(body, requests.TOKENIZE)
    ids = await served.read(requests.tokenized, served.llm, given)
    reply = {"tokens": ids, "count": len(ids), "max_model_len": served.llm.context_length}
    if given.get("with_pieces"):
        token_text = served.llm.tokenizer.token_text
        reply["tokens"] = [{"id": i, "piece": token_text(i)} for i in ids]
    return JSONResponse(reply)


async def detokenize(served: Served, request: Request) -> Response:
    """POST /detokenize: the text of ids."""
    body = await body_of(request)
    served.check_model(body)
    content = requests.detokenized(served.llm, checked(body, requests.DETOKENIZE))
    return JSONResponse({"content": content, "prompt": content})


async def health(served: Served, request: Request) -> Response:
    """GET /health: 200 while texts can be written."""
    engine = served.engine
    status = "ok" if engine.alive else "stopping"
    counts = {"running": len(engine.running), "waiting": len(engine.waiting)}
    return JSONResponse({"status": status, "model": served.names[0], **counts}, 200 if engine.alive else 503)


async def metrics(served: Served, request: Request) -> Response:
    """GET /metrics, for Prometheus."""
    engine = served.engine
    gauges = {
        "requests_running": ("Texts that are being read or written.", len(engine.running)),
        "requests_waiting": ("Texts that wait for a place.", len(engine.waiting)),
        "kept_bytes": ("Memory of caches that are kept for who goes on.", engine.prefixes.nbytes),
    }
    return Response(engine.metrics.text(gauges), media_type="text/plain; version=0.0.4")


async def page(served: Served, request: Request) -> Response:
    """GET / and what the page consists of."""
    path = PAGE / request.path_params.get("name", "index.html")
    if path.parent != PAGE or path.suffix not in KINDS or not path.is_file():
        raise HTTPException(404)
    return Response(path.read_bytes(), media_type=KINDS[path.suffix], headers=PAGE_HEADERS)


async def tell_error(request: Request, error: Exception) -> Response:
    """Any error in the form of OpenAI's protocol."""
    if isinstance(error, ClientDisconnect):  # in the middle of its request: nobody hears this
        return Response(status_code=499)
    if isinstance(error, QueueFull):
        message = "as many requests wait as the server lets wait; try again"
        error = RequestError(message, code="queue_full", status=429, headers={"Retry-After": "1"})
    elif isinstance(error, Stopping):
        error = failure(error)
    elif isinstance(error, HTTPException):
        what = f"there is no {request.method} {request.url.path}"
        code = "unknown_url" if error.status_code == 404 else "method_not_allowed"
        error = RequestError(what, code=code, status=error.status_code, headers=error.headers)
    elif not isinstance(error, RequestError):
        logging.getLogger(__name__).error("a request failed", exc_info=error)
        error = RequestError(f"a fault of the server: {type(error).__name__}", status=500)
    return JSONResponse(error.body, error.status, error.headers)


ROUTES = (
    ("GET", "/", page),
    ("GET", "/page/{name}", page),
    ("GET", "/health", health),
    ("GET", "/metrics", metrics),
    ("GET", "/v1/models", models),
    ("GET", "/v1/models/{name:path}", model),
    ("POST", "/v1/chat/completions", chat),
    ("POST", "/v1/completions", complete),
    ("POST", "/v1/embeddings", embed),
    ("POST", "/tokenize", tokenize),
    ("POST", "/detokenize", detokenize),
)


def make_app(served: Served) -> Guard:
    """The ASGI application. Its engine is the caller's to start and stop."""
    routes = [Route(path, partial(handler, served), methods=[method]) for method, path, handler in ROUTES]
    errors = (RequestError, QueueFull, Stopping, HTTPException, ClientDisconnect, Exception)
    app = Starlette(routes=routes, exception_handlers=dict.fromkeys(errors, tell_error))
    paths = {path for _, path, _ in ROUTES}
    return Guard(app, served.engine.metrics, paths, served.local, served.key, served.origins)
