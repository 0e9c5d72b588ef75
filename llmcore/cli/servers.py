"""The tools of MCP servers: programs that speak the Model Context Protocol over standard input and output.

The official library is asynchronous; it lives in a thread of its own, and is waited for so many seconds and
no longer: a server that ends or hangs costs one line.
"""

import asyncio
import concurrent.futures
import shlex
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .toolbox import Tool

SECONDS = 30.0  # that a server may take to start, or to answer a call
MOST_TOOLS = 1000


@contextmanager
def tools_of_server(command: str, taken=(), seconds: float = SECONDS) -> Iterator[list[Tool]]:
    """The tools of the server that a command starts, as long as it is needed; a name that is `taken` gets a
    number.

    Raises ValueError if the server does not start, ImportError without the library.
    """
    server = Server(command, seconds)
    try:
        names = set(taken)
        yield [_tool(server, tool, names) for tool in server.start()]
    finally:
        server.stop()


def _tool(server, tool, names):
    name, n = tool.name, 2
    while name in names:
        name, n = f"{tool.name}_{n}", n + 1
    names.add(name)
    schema = {"name": name, "description": tool.description or "", "parameters": tool.input_schema}
    return Tool({"type": "function", "function": schema}, lambda arguments: server.call(tool.name, arguments))


class Server:
    """One server: a process, and the thread that speaks with it."""

    def __init__(self, command: str, seconds: float):
        """Nothing is started yet."""
        self.command, self.seconds = command, seconds
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._ready: concurrent.futures.Future = concurrent.futures.Future()
        self._loop: Any = None
        self._thread = threading.Thread(target=self._live, daemon=True)

    def start(self) -> list:
        """Start the server; its tools."""
        try:
            import mcp  # noqa: F401  (the thread needs it)
        except ImportError:
            raise ImportError('--mcp needs mcp; get it with: pip install "llmcore[agent]"') from None
        self._thread.start()
        try:
            self._session, tools = self._ready.result(self.seconds)
        except concurrent.futures.TimeoutError:
            raise self._problem(f"does not answer within {self.seconds:g} seconds") from None
        except Exception as error:
            raise self._problem(f"does not start ({_innermost(error)})") from None
        return tools

    def call(self, name: str, arguments: dict) -> str:
        """What a tool answers. Raises ValueError if it fails, or if the server does."""
        if not self._thread.is_alive():
            raise self._problem("has ended")
        answer = asyncio.run_coroutine_threadsafe(self._session.call_tool(name, arguments), self._loop)
        try:
            result = answer.result(self.seconds)
        except concurrent.futures.TimeoutError:
            answer.cancel()
            raise self._problem(f"does not answer within {self.seconds:g} seconds") from None
        except Exception as error:
            raise self._problem(f"does not answer ({_innermost(error)})") from None
        text = "\n".join(getattr(part, "text", f"[{part.type}, not shown]") for part in result.content)
        if result.is_error:
            raise ValueError(text or "the tool failed without a word")
        return text

    def stop(self) -> None:
        """End the server."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(self.seconds)
        self._errors.close()

    def _live(self):
        """All that the thread does."""
        try:
            asyncio.run(self._speak())
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error if isinstance(error, Exception) else RuntimeError(error))

    async def _speak(self):
        """Start the server, and keep the connection until the end is wanted."""
        from mcp import ClientSession, StdioServerParameters, stdio_client

        self._end, self._loop = asyncio.Event(), asyncio.get_running_loop()
        program, *arguments = shlex.split(self.command) or [""]
        parameters = StdioServerParameters(command=program, args=arguments)
        async with (
            stdio_client(parameters, errlog=self._errors) as streams,
            ClientSession(*streams) as session,
        ):
            beginning = asyncio.create_task(self._begin(session))
            ending = asyncio.create_task(self._end.wait())
            await asyncio.wait([beginning, ending], return_when=asyncio.FIRST_COMPLETED)
            if not beginning.done():
                beginning.cancel()
                return
            self._ready.set_result((session, beginning.result()))
            await ending

    async def _begin(self, session):
        """Greet the server; its tools, which come in pages."""
        from mcp.types import PaginatedRequestParams

        await session.initialize()
        page = await session.list_tools()
        tools = list(page.tools)
        while page.next_cursor and len(tools) < MOST_TOOLS:
            page = await session.list_tools(params=PaginatedRequestParams(cursor=page.next_cursor))
            tools += page.tools
        return tools

    def _problem(self, what):
        """An error about this server, with the last line that it wrote to standard error."""
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        last = f"; it said: {lines[-1][:200]}" if lines else ""
        return ValueError(f"the MCP server {self.command!r} {what}{last}")


def _innermost(error):
    """What an error says; of a group the first."""
    while getattr(error, "exceptions", None):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
