"""A thousand requests, of which many break off: nothing leaks, none is lost, and no text is another's."""

import asyncio
import gc
import json
import random
import re
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason='pip install "llmcore[serve]"')
from serving import served
from test_conversation import CHATML, make_model

import llmcore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="tells memory by /proc"),
]
BAD = [
    b"{",
    b"\xff",
    b"[]",
    b'{"prompt": 3}',
    b'{"prompt": "a", "top_p": 7}',
    b'{"model": "x", "prompt": "a"}',
]


def resident():
    """Bytes of memory that this process has."""
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])


async def until_idle(engine):
    while engine.running or engine.waiting:
        await asyncio.sleep(0.01)


async def post(port, body, stay=None):
    """(status, text) of what comes back; after `stay` seconds the client leaves: (None, "")."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    try:
        data = await asyncio.wait_for(reader.read(), stay)
    except asyncio.TimeoutError:
        writer.transport.abort()
        return None, ""
    writer.close()
    return int(data.split(b" ", 2)[1]), data.partition(b"\r\n\r\n")[2].decode()


def text_of(body, streamed):
    """The text of a reply."""
    if not streamed:
        return json.loads(body)["choices"][0]["text"]
    parts = re.findall(r"^data: (\{.*\})\r?$", body, re.MULTILINE)
    return "".join(choice["text"] for part in parts for choice in json.loads(part)["choices"])


def test_a_thousand_requests(tmp_path):
    path = make_model(tmp_path / "load.gguf", CHATML)
    llm, rng = llmcore.load(path), random.Random(5)
    asked = []
    for n in range(24):
        prompt = [rng.randrange(3, 250) for _ in range(rng.choice([2, 9, 40, 200]))]
        asked.append(
            {"prompt": prompt, "max_tokens": rng.choice([1, 8, 40]), "temperature": n % 2, "seed": n}
        )
    want = ["".join(llm.generate(**fields)) for fields in asked]
    done, broken, refused, memory, objects = [], 0, 0, [], []

    async def one(port, gate):
        nonlocal broken, refused
        async with gate:
            kind = rng.random()
            if kind < 0.15:
                status, body = await post(port, rng.choice(BAD))
                assert status in (400, 404), body
                assert "error" in json.loads(body)
                refused += 1
                return
            n, streamed = rng.randrange(len(asked)), rng.random() < 0.5
            body = json.dumps(asked[n] | {"stream": streamed}).encode()
            if kind < 0.45:
                broken += 1
                await post(port, body if kind > 0.2 else body[:-9], stay=rng.random() * 0.05)
                return
            status, reply = await post(port, body)
            assert status == 200, reply
            assert text_of(reply, streamed) == want[n], (n, streamed)
            done.append(n)

    async def all_of_them(engine, port):
        gate = asyncio.Semaphore(24)
        for _ in range(4):
            await asyncio.gather(*(one(port, gate) for _ in range(250)))
            await until_idle(engine)
            memory.append(resident())
            gc.collect()
            objects.append(len(gc.get_objects()))

    with served(llm) as (engine, port):
        asyncio.run(all_of_them(engine, port))
        assert (engine.running, list(engine.waiting)) == ([], [])
        assert int(re.search(r"cached_tokens_total (\d+)", engine.metrics.text({}))[1]) > 0
    assert len(done) + broken + refused == 1000
    assert min(len(done), broken, refused) > 100
    assert memory[3] <= 1.05 * memory[1], [size >> 20 for size in memory]
    assert objects[3] <= 1.01 * objects[1], objects


def test_a_body_that_never_ends_holds_nobody_up(tmp_path):
    """A hundred clients that stop in the middle of their requests, and one that asks."""
    path = make_model(tmp_path / "load.gguf", CHATML)

    async def slow(port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
        return writer

    async def ask(port):
        writers = [await slow(port) for _ in range(100)]
        status, _ = await post(port, b'{"prompt": "a", "max_tokens": 4}')
        for writer in writers:
            writer.close()
        return status

    with served(llmcore.load(path)) as (_, port):
        assert asyncio.run(ask(port)) == 200
