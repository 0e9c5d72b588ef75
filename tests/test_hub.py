"""Models from a hub: a fake one, served on loopback, answers as the Hugging Face hub does."""

import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from conftest import ROOT, tiny_llama

from llmcore.cli import get as fetch_model
from llmcore.cli import hub
from llmcore.errors import HubError

pytest.importorskip("huggingface_hub")
from huggingface_hub import constants, file_download
from huggingface_hub.utils import close_session

COMMIT = "c0ffee" + "0" * 34
DATA = bytes(range(256)) * 1200  # 300 kB
SPLIT = {f"big/m-Q8_0-{n:05d}-of-00003.gguf": DATA[: 1000 * n] for n in (1, 2, 3)}
REPOSITORIES = {
    "org/one": {"README.md": b"hello", "one.Q8_0.gguf": DATA},
    "org/many": {
        "m-Q4_K_M.gguf": DATA[:7000],
        "m.q5_k_m.gguf": DATA[:8000],
        "mmproj-F16.gguf": DATA[:90],
        **SPLIT,
    },
    "org/two": {"a.gguf": DATA[:70], "b-IQ4_XS.gguf": DATA[:80]},
    "org/none": {"README.md": b"hello"},
    "org/gated": {"x.gguf": DATA},
    "org/evil": {"../x.gguf": DATA[:50]},
}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class FakeHub(BaseHTTPRequestHandler):
    """Knows the two requests that matter: what is in a repository, and the bytes of a file."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.log.append(SimpleNamespace(path=path, url=self.path, headers=self.headers, sent=0))
        self.connection.settimeout(20)
        if api := re.fullmatch(r"/api/models/(\w+/\w+)(?:/revision/(.+))?", path):
            self.information(*api.groups())
        elif file := re.fullmatch(r"/(\w+/\w+)/resolve/(\w+)/(.+)", path):
            self.file(*file.groups())
        elif path.startswith("/cdn/"):
            self.content(self.server.repositories["org/one"][path.removeprefix("/cdn/")])
        else:
            self.answer(404)

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def information(self, repo, revision):
        server = self.server
        if server.stall == "api":
            server.released.wait(20)
        if server.token and self.headers["Authorization"] not in (None, f"Bearer {server.token}"):
            return self.answer(401, X_Error_Message="Invalid credentials in Authorization header")
        if repo not in server.repositories:
            return self.answer(
                401 if self.headers["Authorization"] is None else 404, X_Error_Code="RepoNotFound"
            )
        if revision not in (None, "main", "v1", "refs/pr/1", COMMIT):
            return self.answer(404, X_Error_Code="RevisionNotFound")
        siblings = [self.sibling(name, data) for name, data in server.repositories[repo].items()]
        body = {
            "id": repo,
            "modelId": repo,
            "sha": COMMIT,
            "private": False,
            "tags": [],
            "siblings": siblings,
        }
        self.answer(200, json.dumps(body).encode(), Content_Type="application/json")

    def sibling(self, name, data):
        stated = self.server.stated.get(name, data)
        blob = hashlib.sha1(f"blob {len(data)}\0".encode() + stated).hexdigest()
        entry = {"rfilename": name, "size": len(data), "blobId": blob}
        if name in self.server.not_lfs:
            return entry
        return entry | {"lfs": {"size": len(data), "sha256": sha256(stated), "pointerSize": 134}}

    def file(self, repo, revision, name):
        assert revision == COMMIT
        if repo == "org/gated" and self.headers["Authorization"] != "Bearer hf_good":
            return self.answer(
                401 if self.headers["Authorization"] is None else 403, X_Error_Code="GatedRepo"
            )
        if self.server.cdn:
            return self.answer(302, Location=f"{self.server.cdn}/cdn/{name}")
        self.content(self.server.repositories[repo][name])

    def content(self, data):
        server, request = self.server, self.server.log[-1]
        begin = int((re.match(r"bytes=(\d+)-", self.headers["Range"] or "bytes=0-"))[1])
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{sha256(data)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        end = server.cuts.pop(0) if server.cuts else len(data)
        request.sent = end - begin  # noted first: the client may look before this thread runs again
        self.wfile.write(data[begin:end])
        self.wfile.flush()
        if end < len(data):
            if server.stall == "file":
                server.released.wait(20)
            self.close_connection = True


@contextmanager
def serving():
    """A fake hub in a thread, and what it is to do wrong."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.daemon_threads = True
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.log, server.cuts, server.stated, server.not_lfs = [], [], {}, set()
    server.stall = server.cdn = server.token = None
    server.repositories = {repo: dict(files) for repo, files in REPOSITORIES.items()}
    server.released = threading.Event()
    server.files = lambda: [request for request in server.log if not request.path.startswith("/api/")]
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The hub that the library asks in this process; the library reads its environment only when it is
    imported.
    """
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "no-agents"), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 14)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)  # between attempts
    monkeypatch.chdir(tmp_path)
    with serving() as hub_server:
        monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            hub_server.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        close_session()
        yield hub_server
        close_session()


@pytest.fixture
def script(server, monkeypatch, capsys):
    """Runs scripts/fetch_model.py; returns (exit status, standard output, error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fetch_model.py", *arguments])
        try:
            status = fetch_model.main()
        except SystemExit as exit_:
            status = exit_.code
        out, err = capsys.readouterr()
        return status or 0, out, err.removesuffix("\n")

    return run


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def no_say(text):
    pass


def model_file(text, tmp_path):
    return hub.model_file(text, tmp_path / "models", no_say, progress=False)


def test_a_file_is_fetched_and_has_its_place(script, tmp_path):
    status, out, _ = script("hf:org/one/one.Q8_0.gguf")
    assert status == 0
    assert "fetching one.Q8_0.gguf: 307.2 kB" in out
    assert files_in(tmp_path) == ["models/hf/org/one/one.Q8_0.gguf"]
    assert (tmp_path / "models/hf/org/one/one.Q8_0.gguf").read_bytes() == DATA


def test_a_second_run_fetches_nothing(script, server):
    script("hf:org/one/one.Q8_0.gguf")
    assert script("hf:org/one/one.Q8_0.gguf")[1].endswith("one.Q8_0.gguf is there, whole\n")
    assert len(server.files()) == 1


def test_a_file_that_the_hub_has_changed_is_fetched_anew(script, server, tmp_path):
    script("hf:org/one/one.Q8_0.gguf")
    server.repositories["org/one"]["one.Q8_0.gguf"] = DATA[::-1]
    assert script("hf:org/one/one.Q8_0.gguf")[0] == 0
    assert files_in(tmp_path) == ["models/hf/org/one/one.Q8_0.gguf"]
    assert (tmp_path / "models/hf/org/one/one.Q8_0.gguf").read_bytes() == DATA[::-1]


def test_a_repository_is_listed(script, tmp_path):
    status, out, _ = script("hf:org/many")
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["big/m-Q8_0-00001-of-00003.gguf", "6.0", "kB", "Q8_0", "3", "parts"],
        ["m-Q4_K_M.gguf", "7.0", "kB", "Q4_K_M"],
        ["m.q5_k_m.gguf", "8.0", "kB", "q5_k_m"],
        ["mmproj-F16.gguf", "0.1", "kB", "F16"],
    ]
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    "named", ["/big/m-Q8_0-00001-of-00003.gguf", "/big/m-Q8_0-00003-of-00003.gguf", ":q8_0"]
)
def test_all_parts_of_a_split_file_come_together(named, script, tmp_path):
    status, out, _ = script(f"hf:org/many{named}")
    assert status == 0
    assert "6.0 kB in 3 parts" in out
    assert out.endswith("m-Q8_0-00001-of-00003.gguf is there, whole\n")
    assert files_in(tmp_path / "models/hf/org/many") == sorted(SPLIT)


def test_the_default_type_is_taken_where_nothing_is_named(server, tmp_path):
    assert model_file("hf:org/many", tmp_path) == tmp_path / "models/hf/org/many/m-Q4_K_M.gguf"
    assert model_file("hf:org/one", tmp_path).name == "one.Q8_0.gguf"  # the only one


def test_each_revision_has_its_own_folder(server, tmp_path):
    assert model_file("hf:org/one/one.Q8_0.gguf@v1", tmp_path).parent == tmp_path / "models/hf/org/one@v1"
    assert model_file("hf:org/one@refs/pr/1", tmp_path).parent == tmp_path / "models/hf/org/one@refs--pr--1"
    assert [request.path for request in server.log if "revision" in request.path] == [
        "/api/models/org/one/revision/v1",
        "/api/models/org/one/revision/refs/pr/1",
    ]


def test_a_cut_connection_is_taken_up_again_in_the_same_run(script, server, tmp_path):
    server.cuts = [100_000]
    assert script("hf:org/one/one.Q8_0.gguf")[0] == 0
    first, second = server.files()
    begin = int(re.fullmatch(r"bytes=(\d+)-", second.headers["Range"])[1])
    assert 0 < begin <= first.sent
    assert second.sent == len(DATA) - begin  # the bytes before were not sent again
    assert (tmp_path / "models/hf/org/one/one.Q8_0.gguf").read_bytes() == DATA


def test_a_later_run_goes_on_where_one_was_cut(script, server, tmp_path, monkeypatch):
    server.cuts = [200_000] + [0] * 20
    status, _, err = script("hf:org/one/one.Q8_0.gguf")
    assert status == 1
    assert err.count("\n") == 0
    (part,) = (tmp_path / "models").rglob("*.part")
    begun = part.stat().st_size
    assert 0 < begun <= 200_000
    server.cuts, before = [], len(server.files())
    needed = len(DATA) - begun
    # Is all it needs
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: SimpleNamespace(free=needed))
    assert script("hf:org/one/one.Q8_0.gguf")[0] == 0
    (request,) = server.files()[before:]
    assert request.headers["Range"] == f"bytes={begun}-"
    assert request.sent == needed
    assert files_in(tmp_path) == ["models/hf/org/one/one.Q8_0.gguf"]
    assert (tmp_path / "models/hf/org/one/one.Q8_0.gguf").read_bytes() == DATA


@pytest.mark.parametrize("lfs", [True, False], ids=["sha256", "git"])
def test_a_wrong_checksum_is_never_used(lfs, script, server, tmp_path):
    server.stated = {"one.Q8_0.gguf": DATA[::-1]}
    server.not_lfs = set() if lfs else {"one.Q8_0.gguf"}
    status, _, err = script("hf:org/one/one.Q8_0.gguf")
    assert status == 1
    assert "one.Q8_0.gguf is not what the hub states (wrong checksum)" in err
    assert files_in(tmp_path) == []


def test_a_file_outside_lfs_is_checked_by_gits_name_for_it(script, server):
    server.not_lfs = {"one.Q8_0.gguf"}
    assert script("hf:org/one/one.Q8_0.gguf")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("hf:org/nowhere", "no repository org/nowhere on http://127.0.0.1"),
        (
            "hf:org/one/other.gguf",
            "has no other.gguf; name one of these, as in hf:org/one/one.Q8_0.gguf: one.Q8_0.gguf",
        ),
        ("hf:org/one:Q2_K", "org/one has no model of type Q2_K; name one of these"),
        ("hf:org/one/one.Q8_0.gguf@v9", "org/one has no revision 'v9'"),
        ("hf:org/none", "org/none has no GGUF file"),
        ("hf:org/gated/x.gguf", "org/gated is gated: accept its terms on http://127.0.0.1"),
        ("hf:org/evil/x.gguf", "'../x.gguf' is no file name that is safe"),
        ("hf:org", "'hf:org' is not of the form hf:ORG/REPO"),
        ("hf:org/../x.gguf", "is not of the form"),
        ("hf:org/a--b", "'org/a--b' cannot be the name of a repository"),
    ],
)
def test_what_goes_wrong_is_told_in_one_line(arguments, words, script, tmp_path):
    status, out, err = script(arguments)
    assert (status, out.count("error")) == (1, 0)
    assert err.startswith("error: ")
    assert words in err
    assert "\n" not in err
    assert files_in(tmp_path) == []


def test_several_models_and_none_named_is_a_list(server, tmp_path):
    with pytest.raises(
        HubError, match=r"several, .* as in hf:org/two/a\.gguf: a\.gguf .*, b-IQ4_XS\.gguf \(0\.1 kB\)"
    ):
        model_file("hf:org/two", tmp_path)


def test_a_name_the_script_does_not_know_is_status_2(script):
    status, _, err = script("llama")
    assert status == 2
    assert "no model 'llama'; there are smollm2, gemma3, or hf:" in err


def test_the_token_goes_to_the_hub_and_not_beyond(script, server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    with serving() as cdn:
        server.cdn = cdn.url
        assert script("hf:org/one/one.Q8_0.gguf")[0] == 0
        asked = [request for request in server.log if "org/one" in request.path]
        assert [request.headers["Authorization"] for request in asked] == ["Bearer hf_good"] * 2
        assert [request.headers["Authorization"] for request in cdn.log] == [None]
        assert cdn.log[0].sent == len(DATA)


def test_a_token_opens_a_gated_repository(script, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    assert "is gated: accept its terms" in script("hf:org/gated/x.gguf")[2]
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert script("hf:org/gated/x.gguf")[0] == 0


def test_a_bad_token_is_named(script, server, monkeypatch):
    server.token = "hf_good"
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    status, _, err = script("hf:org/one/one.Q8_0.gguf")
    assert status == 1
    assert "does not accept the token in HF_TOKEN" in err


@pytest.mark.parametrize("stall", ["api", "file"])
def test_a_hub_that_hangs_is_left(stall, script, server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    server.stall, server.cuts = stall, [1000] * 20
    begin = time.monotonic()
    status, _, err = script("hf:org/one/one.Q8_0.gguf")
    assert time.monotonic() - begin < 15
    assert status == 1
    assert re.fullmatch(r"error: http://127\.0\.0\.1:\d+ does not answer in time; try again: .*", err)


def test_no_network_is_one_line(script, monkeypatch):
    with serving() as gone:
        pass
    monkeypatch.setattr(constants, "ENDPOINT", gone.url)
    status, _, err = script("hf:org/one")
    assert status == 1
    assert re.fullmatch(r"error: cannot reach http://127\.0\.0\.1:\d+ \(.*\); is the network there\?", err)


def test_a_full_disk_is_noticed_before_anything_is_fetched(script, server, monkeypatch, tmp_path):
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: SimpleNamespace(free=5999))
    status, _, err = script("hf:org/many:Q8_0")
    assert status == 1
    assert "6.0 kB are still to be downloaded; the disk of models" in err
    assert server.files() == []
    assert files_in(tmp_path) == []


def test_a_part_that_is_there_is_not_fetched_again(script, server, tmp_path):
    part = tmp_path / "models/hf/org/many" / sorted(SPLIT)[1]
    part.parent.mkdir(parents=True)
    part.write_bytes(SPLIT[sorted(SPLIT)[1]])
    assert script("hf:org/many:Q8_0")[0] == 0
    assert len(server.files()) == 2


def test_a_split_model_that_lacks_a_part_is_made_whole_on_the_way(server, tmp_path):
    path = model_file("hf:org/many:Q8_0", tmp_path)
    path.with_name("m-Q8_0-00002-of-00003.gguf").unlink()
    assert model_file("hf:org/many:Q8_0", tmp_path) == path
    assert files_in(tmp_path / "models/hf/org/many") == sorted(SPLIT)
    assert len(server.files()) == 4


@pytest.mark.parametrize(
    "text", ["hf:org/one/one.Q8_0.gguf", "hf:org/one:Q8_0", "hf:org/one", "hf:org/one@v1"]
)
def test_a_file_that_is_there_needs_no_network(text, server, tmp_path, monkeypatch):
    path = model_file(text, tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    n_requests = len(server.log)
    assert model_file(text, tmp_path) == path
    assert len(server.log) == n_requests
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        model_file("hf:org/many", tmp_path)


def test_without_the_library_it_says_how_to_get_it(server, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'pip install "llmcore\[hub\]"'):
        model_file("hf:org/one", tmp_path)


def command(module, *arguments, cwd, stdin=None, **environment):
    """(status, standard output, standard error) of a command, in a process that knows no other hub."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    known |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(cwd / "home"), "NO_PROXY": "127.0.0.1"} | environment
    done = subprocess.run(
        [sys.executable, *module, *arguments],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env=known,
        timeout=60,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_a_model_is_fetched_and_runs(server, tmp_path):
    server.repositories["org/tiny"] = {"tiny.gguf": tiny_llama().read_bytes()}
    how = ("--prompt", "hello", "--temperature", "0", "--max-tokens", "12", "--ignore-eos")
    run = functools.partial(command, ("-m", "llmcore.generate"), *how, cwd=tmp_path, HF_ENDPOINT=server.url)
    status, out, err = run("--model", "hf:org/tiny/tiny.gguf")
    assert (status, out) == (0, run("--model", str(tiny_llama()))[1])
    assert re.match(
        r"fetching tiny\.gguf: \S+ .B\nhf:org/tiny/tiny\.gguf is models/hf/org/tiny/tiny\.gguf\n", err
    )
    n_requests = len(server.log)
    assert run("--model", "hf:org/tiny", "--quiet") == (0, out, "")
    assert run("--quiet") == (0, out, "")  # it is the one model in models/
    assert len(server.log) == n_requests
    status, _, err = command(
        ("-m", "llmcore.chat"), "--model", "hf:org/nowhere", cwd=tmp_path, stdin=b"", HF_ENDPOINT=server.url
    )
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith("error: no repository org/nowhere")


def test_the_real_hub_is_the_default(tmp_path):
    code = "from huggingface_hub import constants; print(constants.ENDPOINT)"
    status, out, _ = command(("-c", code), cwd=tmp_path)
    assert (status, out) == (0, constants._HF_DEFAULT_ENDPOINT + "\n")
    status, _, err = command(
        (str(ROOT / "scripts/fetch_model.py"),), "hf:org/one", cwd=tmp_path, HF_HUB_OFFLINE="1"
    )
    assert (status, err.count("\n")) == (1, 1)
    assert "HF_HUB_OFFLINE is set" in err


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("DeepSeek-R1-Distill-Qwen-1.5B-Q4_K_M.gguf", "Q4_K_M"),
        ("Bielik-1.5B-v3.0-Instruct.Q8_0.gguf", "Q8_0"),
        ("BF16/DeepSeek-R1-BF16-00001-of-00030.gguf", "BF16"),
        ("Qwen3-8B-UD-IQ2_XXS.gguf", "IQ2_XXS"),
        ("qwen2.5-7b-instruct-q4_0_4_4.gguf", "q4_0_4_4"),
        ("gpt-oss-20b-mxfp4.gguf", "mxfp4"),
        ("model.gguf", None),
        ("Q8_0/model.gguf", None),
    ],
)
def test_the_type_is_read_from_the_name(file, kind):
    assert hub.about([file], {file: hub.RemoteFile(file, COMMIT, 5, "")}).split()[2:] == (
        [kind] if kind else []
    )
