"""The server as a process: who may start it, how it is stopped, what clients that vanish leave behind."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("uvicorn", reason='pip install "llmcore[serve]"')
from conftest import FOLDER, ROOT
from test_conversation import CHATML, make_model

import llmcore

ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "LLMCORE_API_KEY"}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
TEXT = {"prompt": "hello", "temperature": 0, "max_tokens": 480, "ignore_eos": True}


@pytest.fixture(scope="module")
def path():
    return make_model(FOLDER.name + "/serve-process.gguf", CHATML)


class Server:
    """A server on a free port, for a `with`."""

    def __init__(self, path, *arguments):
        command = [sys.executable, "-m", "llmcore", "serve", "--model", path, "--port", "0", *arguments]
        self.process = subprocess.Popen(
            command, env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.said = ""
        while "Ctrl-C stops" not in self.said:
            line = self.process.stderr.readline()
            assert line, self.said
            self.said += line
        self.port = int(re.search(r"http://127.0.0.1:(\d+)/v1", self.said)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def request(self, path="/v1/completions", **fields):
        """A connection with a request sent."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", path, json.dumps(TEXT | fields), {"Content-Type": "application/json"})
        return connection

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        return connection.getresponse().read().decode()

    def running(self):
        return json.loads(self.get("/health"))["running"]


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_what_runs_is_finished_when_it_is_told_to_stop(path, number, status):
    want = "".join(llmcore.load(path).generate(**TEXT))
    with Server(path) as server:
        whole, streamed = server.request(), server.request(stream=True)
        reply = streamed.getresponse()
        reply.readline()
        server.process.send_signal(number)
        assert json.loads(whole.getresponse().read())["choices"][0]["text"] == want
        lines = reply.read().decode().split("\n\n")
        assert lines[-2] == "data: [DONE]"
        said = server.process.communicate(timeout=60)
        assert server.process.returncode == status
        assert re.search(r"stopping when what runs is finished \(\d\)", said[1])
        assert "Traceback" not in said[1]
        assert said[0] == ""


def test_told_twice_it_ends_at_once(path):
    with Server(path, "--parallel", "1") as server:
        replies = [server.request(stream=True, n=20) for _ in range(2)]
        replies[0].getresponse().readline()
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGINT)
        said = server.process.communicate(timeout=20)
        assert server.process.returncode == 130
        assert "Traceback" not in said[1]


def test_connections_that_break_stop_their_texts(path):
    with Server(path) as server:
        for stream in (False, True):
            connection = server.request(stream=stream, n=8)
            until(server.running)
            connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()
            until(lambda: not server.running())
        written = int(re.search(r"generated_tokens_total (\d+)", server.get("/metrics"))[1])
        assert written < 2 * 8 * 480


def test_bytes_that_are_no_request_do_no_harm(path):
    with Server(path) as server:
        for data in (
            b"\x00\xff" * 50,
            b"GET / HTTP/1.1\r\n",
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n",
        ):
            with socket.create_connection(("127.0.0.1", server.port)) as broken:
                broken.sendall(data)
        body = b'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{"prompt":'
        with socket.create_connection(("127.0.0.1", server.port)) as broken:
            broken.sendall(body)
        assert json.loads(server.get("/health"))["status"] == "ok"
        server.process.send_signal(signal.SIGTERM)
        assert "Traceback" not in server.process.communicate(timeout=60)[1]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--host", "0.0.0.0"], 2, "give a secret with --api-key"),
        (["--host", "192.168.0.1"], 2, "give a secret with --api-key"),
        (["--port", "70000"], 2, "at most 65535"),
        (["--parallel", "0"], 2, "'0' is not a whole number of 1 or more"),
        (["--temperature", "nan"], 2, "temperature"),
        (["--host", "no.such.host.invalid", "--api-key", "k"], 1, "cannot listen on no.such.host.invalid"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_line(path, arguments, status, words):
    command = [sys.executable, "-m", "llmcore", "serve", "--model", path, *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert words in done.stderr.splitlines()[-1]


def test_a_port_in_use_is_told_before_the_model_is_loaded(path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "llmcore", "serve", "--model", path, "--port", port]
        done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: cannot listen on 127.0.0.1, port {port}: Address already in use\n"
