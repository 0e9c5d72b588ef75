"""Standard streams that are closed, full or left by their reader; Ctrl-C at any moment; bytes that are no
text.
"""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, tiny_llama

import llmcore

MODEL = str(tiny_llama())
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT),
    "PYTHON": sys.executable,
    "MODEL": MODEL,
    "LC_ALL": "C.UTF-8",
}
GENERATE = (
    '"$PYTHON" -m llmcore.generate --model "$MODEL" --prompt hello'
    " --max-tokens 8 --temperature 0 --ignore-eos"
)
INSPECT = '"$PYTHON" -m llmcore inspect "$MODEL"'
SHELL = pytest.mark.skipif(os.name != "posix", reason="these are redirections of a POSIX shell")
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")


def shell(command):
    """(status, standard output, standard error) of a line of shell."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, env=ENVIRONMENT, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture(scope="module")
def text():
    return "".join(llmcore.load(MODEL).generate("hello", max_tokens=8, temperature=0, ignore_eos=True))


@SHELL
@pytest.mark.parametrize("redirection", ["2>&-", "<&-", "<&- 2>&-", pytest.param("2>/dev/full", marks=FULL)])
def test_without_the_other_streams_the_text_is_whole_and_alone(redirection, text):
    status, out, err = shell(f"{GENERATE} {redirection}")
    assert (status, out) == (0, text)
    assert "Traceback" not in err


@SHELL
def test_notes_that_nobody_reads_cost_no_text(text, tmp_path):
    script = f"({GENERATE}; echo $? >{tmp_path}/status) 2>&1 >{tmp_path}/text | head -c 0"
    shell(script)
    deadline = time.monotonic() + 60
    while not (tmp_path / "status").exists() or not (tmp_path / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (tmp_path / "status").read_text() == "0\n"
    assert (tmp_path / "text").read_text() == text


@SHELL
@pytest.mark.parametrize(
    "command", [GENERATE, INSPECT, '"$PYTHON" -m llmcore.generate --help', '"$PYTHON" -m llmcore']
)
@pytest.mark.parametrize("redirection", [">&-", pytest.param(">/dev/full", marks=FULL)])
def test_a_text_that_is_lost_is_an_error(command, redirection):
    status, _, err = shell(f"{command} {redirection}")
    assert status == 1
    assert err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in err + "Exception ignored"[:0]
    assert "Exception ignored" not in err


@SHELL
def test_a_summary_of_the_options_does_not_land_in_the_text():
    assert shell('"$PYTHON" -m llmcore.generate 2>&-')[:2] == (2, "")


def heed_ctrl_c():
    """A child of ours heeds it, even if who runs the tests ignores it, as pytest-xdist's workers do."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@SHELL
@pytest.mark.parametrize("module", ["llmcore.generate", "llmcore.chat", "llmcore.loader", "llmcore"])
def test_ctrl_c_during_the_imports_is_130_and_silent(module):
    """From the first line of our own on: the moment is told by a numpy that takes long to import."""
    code = (
        "import sys, runpy, importlib.abc\n"
        "class Slow(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'numpy':\n"
        "            import time; print('now', flush=True); time.sleep(30)\n"
        "sys.meta_path.insert(0, Slow())\n"
        f"sys.argv[1:] = ['inspect', 'x'] if {module!r} == 'llmcore' else []\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, env=ENVIRONMENT, preexec_fn=heed_ctrl_c) as process:
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"")


@SHELL
@pytest.mark.parametrize("option", ["--system", "--stop", "--prompt", "--prefill", "--dry-sequence-breaker"])
def test_bytes_that_are_no_text_are_refused_wherever_they_come(option):
    """As a byte, and as an escape that means one."""
    prompt = "" if option == "--prompt" else "--prompt a"
    for text in ("$(printf '\\377')", r"\xff"):
        status, out, err = shell(f'"$PYTHON" -m llmcore.generate --model "$MODEL" {prompt} {option} "{text}"')
        assert (status, out, err) == (1, "", f"error: {option}: byte 0 is not UTF-8; convert it to UTF-8\n")


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path, text):
    (tmp_path / "prompt").write_bytes(b"\xef\xbb\xbfhello")
    status, out, _ = shell(GENERATE.replace("--prompt hello", f"--prompt-file {tmp_path}/prompt"))
    assert (status, out) == (0, text)


@SHELL
def test_without_docstrings_the_commands_run_as_well(text):
    assert shell(GENERATE.replace('"$PYTHON"', '"$PYTHON" -OO'))[:2] == (0, text)
