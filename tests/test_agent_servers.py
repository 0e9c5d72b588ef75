"""MCP servers as tools: one written with the same library, and those that end, hang or are none."""

import sys
import time

import pytest

pytest.importorskip("mcp")
from llmcore.cli.servers import tools_of_server
from llmcore.cli.steps import step_schema

SERVER = '''
import os, sys, time
from mcp.server import MCPServer

server = MCPServer("tiny")

@server.tool()
def double(n: int) -> int:
    """Twice a number."""
    return 2 * n

@server.tool()
def fail() -> str:
    """Fails."""
    raise ValueError("no luck")

@server.tool()
def die() -> str:
    """Ends the server."""
    print("out of \\x1b[31mpaper", file=sys.stderr, flush=True)
    os._exit(3)

@server.tool()
async def hang() -> str:
    """Never answers."""
    import anyio
    await anyio.sleep(60)

server.run("stdio")
'''


@pytest.fixture
def command(tmp_path):
    path = tmp_path / "server.py"
    path.write_text(SERVER)
    return f"{sys.executable} {path}"


def test_a_server_adds_its_tools_under_names_that_are_free(command):
    with tools_of_server(command, taken={"fail"}) as tools:
        assert [tool.name for tool in tools] == ["double", "fail_2", "die", "hang"]
        [double, fail, *_] = tools
        function = double.schema["function"]
        assert function["description"] == "Twice a number."
        assert function["parameters"]["properties"]["n"]["type"] == "integer"
        assert double.answer({"n": 4}) == "8"
        with pytest.raises(ValueError, match="fail"):
            fail.answer({})
        with pytest.raises(ValueError, match="integer"):
            double.answer({"n": "x"})
        assert step_schema(tools)["anyOf"][1]["properties"]["tool"] == {"const": "double"}


def test_a_server_that_ends_is_one_line(command):
    with tools_of_server(command) as tools:
        named = {tool.name: tool for tool in tools}
        for name in ("die", "double"):
            with pytest.raises(
                ValueError, match=r"the MCP server .* does not answer .*it said: out of "
            ) as told:
                named[name].answer({"n": 1} if name == "double" else {})
            assert "\n" not in str(told.value)


def test_a_server_that_hangs_is_not_waited_for(command):
    begun = time.monotonic()
    with tools_of_server(command, seconds=10) as tools:
        named = {tool.name: tool for tool in tools}
        named["double"].answer({"n": 1})
        with pytest.raises(ValueError, match="does not answer within 10 seconds"):
            named["hang"].answer({})
        assert named["double"].answer({"n": 5}) == "10"
    assert time.monotonic() - begun < 40


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("no-such-command-here", "does not start .*No such file"),
        (
            f"{sys.executable} -c \"import sys; print('oops', file=sys.stderr)\"",
            "does not start .*it said: oops",
        ),
        ("sleep 100", "does not answer within 3 seconds"),
        (
            f"{sys.executable} -c \"print('no JSON'); import time; time.sleep(100)\"",
            "does not answer within 3",
        ),
        ("'", "does not start .*No closing quotation"),
        ("", "does not start"),
    ],
)
def test_what_is_no_server_is_one_line(command, words):
    begun = time.monotonic()
    with (
        pytest.raises(ValueError, match=rf"^the MCP server .*{words}") as told,
        tools_of_server(command, seconds=3),
    ):
        pass
    assert "\n" not in str(told.value)
    assert time.monotonic() - begun < 20


def test_without_the_library_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(ImportError, match=r'pip install "llmcore\[agent\]"'), tools_of_server("x"):
        pass
