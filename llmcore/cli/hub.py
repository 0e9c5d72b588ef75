"""A model's name on the Hugging Face hub -> its file: hf:ORG/REPO/FILE.gguf is models/hf/ORG/REPO/FILE.gguf.

What is missing is fetched, what is there is used without asking anyone. The `huggingface_hub` library talks
to the hub and heeds HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT.
Two things it leaves to us: a download goes on where the run before it was cut, and each file is compared with
the checksum that the hub states. Until then it is called FILE.gguf.CHECKSUM.part, so a file that ends in
.gguf is whole and right.
"""

import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import HubError
from ..formats.mistaken import is_text
from .command import NO_MODEL, on_one_line

HUB = "hf:"  # what its names begin with
PIECE = 1 << 16  # bytes that are written at a time
DEFAULT = "Q4_K_M"  # the type that is taken where a name leaves it open, as llama.cpp does
NAME = re.compile(
    r"hf:(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:/(?P<file>[^@]+\.gguf)|:(?P<type>[\w-]+))?(?:@(?P<revision>.+))?",
    re.ASCII,
)
PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
TYPE = re.compile(
    r"(?<![^\W_])(BF16|F16|F32|MXFP4|NVFP4|TQ\d_\d|I?Q\d(?:_(?:\d|K|NL|XXS|XS|S|M|L|XL))+)(?![^\W_])", re.I
)


@dataclass(frozen=True)
class Name:
    """What a user may call a model on the hub: hf:ORG/REPO[/FILE.gguf or :TYPE][@REVISION]."""

    repo: str
    file: str | None = None
    type: str | None = None
    revision: str | None = None

    def folder(self, models: Path) -> Path:
        """Where its files go; each revision that is named has a folder of its own."""
        revision = "" if self.revision is None else "@" + self.revision.replace("/", "--")
        return models / "hf" / (self.repo + revision)


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub, and what the hub states of it."""

    path: str  # in the repository
    commit: str
    size: int
    checksum: str  # sha256 of a file in Git LFS, else git's own name for the content, a sha1

    def part(self, folder: Path) -> Path:
        """What the file is called until it is whole."""
        return folder / f"{self.path}.{self.checksum[:12]}.part"


def parse(text: str) -> Name:
    """The name that a text beginning with hf: spells."""
    match = NAME.fullmatch(text)
    if match is None:
        raise HubError(f"{text!r} is not of the form hf:ORG/REPO[/FILE.gguf or :TYPE][@REVISION]")
    return Name(**match.groupdict())


def model_file(text: str, models: Path, say: Callable[[str], None], progress: bool = True) -> Path:
    """The file of the model called `text`, fetched if it is not there; says where it is."""
    name = parse(text)
    folder = name.folder(models)
    there = group(path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf"))
    found = choose(name, there)
    path = folder / found[0] if len(found) == 1 else fetch(name, models, say, progress)
    say(f"{text} is {path}")
    return path


def fetch(name: Name, models: Path, say: Callable[[str], None], progress: bool = True) -> Path:
    """Bring the model's file, or all its parts, into the folder; returns the (first) file."""
    files = remote_files(name)
    first = the_one(name, files)
    folder = name.folder(models)
    wanted = [files[path] for path in group(files)[first]]
    missing = [file for file in wanted if not is_right(folder / file.path, file, progress)]
    if missing:
        check_room(missing, folder)
        size, n = sum(file.size for file in missing), len(missing)
        say(f"fetching {first}: {in_bytes(size)}" + (f" in {n} parts" if n > 1 else ""))
    for file in missing:
        fetch_file(name, file, folder, progress)
    return folder / first


def listing(name: Name) -> list[str]:
    """A line for each model in the repository: name, size, type, and in how many parts if it is split."""
    files = remote_files(name)
    models = group(files)
    width = max(map(len, models))
    return [f"{first:<{width}}  {about(parts, files)}" for first, parts in models.items()]


def about(parts: list[str], files: dict[str, RemoteFile]) -> str:
    """Size, type and number of parts of a model."""
    types = TYPE.findall(parts[0].rpartition("/")[2])
    n = f"{len(parts)} parts" if len(parts) > 1 else ""
    return (
        f"{in_bytes(sum(files[part].size for part in parts)):>8}  {types[-1] if types else '':<8}{n}".rstrip()
    )


def in_bytes(size: int) -> str:
    """A size in the unit that suits it."""
    unit, scale = next(((u, s) for u, s in (("GB", 1e9), ("MB", 1e6)) if size >= s), ("kB", 1e3))
    return f"{size / scale:.1f} {unit}"


def group(paths: Iterable[str]) -> dict[str, list[str]]:
    """The models among files: first part -> all parts. A split model that lacks one is none."""
    there, models = set(paths), {}
    for path in sorted(there):
        if split := PART.fullmatch(path):
            parts = [f"{split[1]}-{n:05d}-of-{split[3]}.gguf" for n in range(1, int(split[3]) + 1)]
        else:
            parts = [path]
        if there.issuperset(parts):
            models[parts[0]] = parts
    return models


def choose(name: Name, models: dict[str, list[str]]) -> list[str]:
    """The models that a name may mean: of the file, of the type, of the default type, else all."""
    if name.file is not None:
        return [first for first, parts in models.items() if name.file in parts]
    typed = re.compile(rf"(?<![^\W_]){re.escape(name.type or DEFAULT)}(?!\w)[^/]*", re.I)
    able = [first for first in models if not NO_MODEL.search(first.rpartition("/")[2])]
    found = [first for first in able if typed.search(first.rpartition("/")[2])]
    return found if found or name.type is not None else able


def the_one(name: Name, files: dict[str, RemoteFile]) -> str:
    """The model that a name means; HubError lists those there are if it means none of them, or several."""
    models = group(files)
    found = choose(name, models)
    if len(found) == 1:
        return found[0]
    wanted = name.file or (f"one model of type {name.type}" if name.type else "one model")
    listed = ", ".join(
        f"{first} ({in_bytes(sum(files[part].size for part in models[first]))})" for first in models
    )
    example = f"hf:{name.repo}/{(found or list(models))[0]}" + (f"@{name.revision}" if name.revision else "")
    problem = f"has several, not {wanted}" if found else f"has no {wanted.removeprefix('one ')}"
    raise HubError(f"{name.repo} {problem}; name one of these, as in {example}: {listed}")


def remote_files(name: Name) -> dict[str, RemoteFile]:
    """The GGUF files of a repository, with what the hub states of them."""
    with plain_errors(name):
        from huggingface_hub import HfApi, constants

        info = HfApi(endpoint=constants.ENDPOINT).model_info(
            name.repo, revision=name.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    files = {}
    for file in info.siblings or ():
        checksum: Any = file.lfs.sha256 if file.lfs else file.blob_id
        if not file.rfilename.endswith(".gguf"):
            continue
        if file.size is None or not checksum:
            raise HubError(
                f"{constants.ENDPOINT} states no size and checksum of {file.rfilename}; is it a hub?"
            )
        if re.search(r"(^|/)(\.*)(/|$)|[\\:]", file.rfilename):
            raise HubError(f"{name.repo}: {file.rfilename!r} is no file name that is safe to write to")
        files[file.rfilename] = RemoteFile(file.rfilename, str(info.sha), file.size, str(checksum))
    if not group(files):
        raise HubError(f"{name.repo} has no GGUF file; such repositories are often called {name.repo}-GGUF")
    return files


def check_room(missing: list[RemoteFile], folder: Path) -> None:
    """Raises HubError if the disk has no room for what is still to come."""
    begun = sum(part.stat().st_size for part in (file.part(folder) for file in missing) if part.exists())
    needed = sum(file.size for file in missing) - begun
    disk = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(disk).free
    if needed > free:
        raise HubError(
            f"{in_bytes(needed)} are still to be downloaded; the disk of {folder} has {in_bytes(free)} free"
        )


def fetch_file(name: Name, file: RemoteFile, folder: Path, progress: bool) -> None:
    """Download one file, from where a run before this one was cut, and give it its name if it is right."""
    target, part = folder / file.path, file.part(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with only_process(part):
        if is_right(target, file, progress):
            return
        begun = part.exists()
        try:
            download(name, file, part, progress)
            if begun and not is_right(part, file, progress):  # what an earlier run left was wrong
                part.unlink()
                download(name, file, part, progress)
        finally:
            if part.exists() and part.stat().st_size == 0:
                part.unlink()
        if not is_right(part, file, progress):
            part.unlink()
            raise HubError(
                f"{file.path} is not what the hub states (wrong checksum), and was removed; try again"
            )
        os.replace(part, target)


@contextmanager
def only_process(part: Path) -> Iterator[None]:
    """Waits until no other process writes into the file: two would spoil it."""
    from huggingface_hub.utils import WeakFileLock

    lock = part.with_suffix(".lock")
    try:
        with WeakFileLock(lock):
            yield
    finally:
        with suppress(OSError):  # on Windows it is gone, or still another's
            lock.unlink()


def download(name: Name, file: RemoteFile, part: Path, progress: bool) -> None:
    """Append to `part` what it lacks, as long as more comes each time the line is cut.

    By http_get, since hf_hub_download throws away what it has when it is interrupted (huggingface_hub 2). A
    part that cannot be the beginning of the file, since it is longer or a web page, is thrown away first.
    """
    if part.exists() and (part.stat().st_size > file.size or is_text(part.read_bytes()[:64])):
        part.unlink()
    with plain_errors(name), Part(part, "ab") as out:
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers, disable_progress_bars

        if file.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
            raise HubError(f"{file.path} has {in_bytes(file.size)}: files of over 50 GB need `hf download`")
        if not progress:
            disable_progress_bars()
        url = hf_hub_url(name.repo, file.path, revision=file.commit, endpoint=constants.ENDPOINT)
        options: dict[str, Any] = {
            "headers": build_hf_headers(),
            "displayed_filename": on_one_line(file.path),
        }
        # A piece that was not complete when the line was cut is lost, so pieces are to be small.
        before, constants.DOWNLOAD_CHUNK_SIZE = constants.DOWNLOAD_CHUNK_SIZE, PIECE
        try:
            while (size := out.tell()) < file.size:
                try:
                    http_get(url, out, resume_size=size, expected_size=file.size, **options)
                except OSError as error:
                    if error.errno is not None or not size < out.tell() < file.size:
                        raise
        finally:
            constants.DOWNLOAD_CHUNK_SIZE = before


class Part(io.FileIO):
    """A file that is only ever added to; a web page in place of what is to come is refused."""

    anew = False  # whether what comes next is the beginning of the whole file

    def truncate(self, size=None) -> int:
        """To begin anew, once the beginning is there."""
        self.anew = True
        return 0

    def write(self, data) -> int:
        """Add the bytes, all of them."""
        if (self.anew or self.tell() == 0) and is_text(bytes(data[:64])):
            text = bytes(data[:60]).decode("utf-8", "replace")
            raise HubError(
                f"a text came in place of the file, from the hub or a proxy before it: {text!r}; try again"
            )
        if self.anew:
            super().truncate(0)
            self.anew = False
        done = 0
        while done < len(data):
            done += super().write(data[done:])
        return done


def is_right(path: Path, file: RemoteFile, progress: bool) -> bool:
    """Whether a file is there, with the size and the checksum that the hub states."""
    if not path.exists() or path.stat().st_size != file.size:
        return False
    in_lfs = len(file.checksum) == 64
    digest = (
        hashlib.sha256() if in_lfs else hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    )
    how: dict[str, Any] = {
        "total": file.size,
        "unit": "B",
        "unit_scale": True,
        "leave": False,
        "disable": None if progress else True,
    }
    with open(path, "rb") as data, tqdm(desc=f"checking {on_one_line(path.name[:40])}", **how) as bar:
        while block := data.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest() == file.checksum


@contextmanager
def plain_errors(name: Name) -> Iterator[None]:
    """Turns the library's errors into a HubError that says what to do; ImportError where it is missing."""
    try:
        from huggingface_hub import constants, errors
        from huggingface_hub.utils import logging
    except ImportError:
        raise ImportError('hf: names need huggingface_hub; get it with: pip install "llmcore[hub]"') from None
    logging.set_verbosity_error()  # it tells of every attempt, in several lines
    try:
        yield
    except (errors.HTTPError, errors.OfflineModeIsEnabled) as error:
        raise HubError(explain(error, name)) from None
    except errors.HFValidationError:
        raise HubError(f"{name.repo!r} cannot be the name of a repository") from None
    except HubError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError):  # what it should have answered is JSON
        hub = constants.ENDPOINT
        raise HubError(
            f"{hub} answered with something that no hub says about {name.repo}: is a proxy in between,"
            " is HF_ENDPOINT right?"
        ) from None
    except OSError as error:
        if error.errno is not None:  # the disk's
            raise
        raise HubError(f"{name.repo}: {str(error).splitlines()[0]} Run it again to go on") from None


def explain(error: Exception, name: Name) -> str:
    """One line for what the hub refused, or for a hub that cannot be reached."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    page = f"{hub}/{name.repo}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"hf:{name.repo} is not here (whole), and HF_HUB_OFFLINE is set; unset it to fetch it"
    if not isinstance(error, errors.HfHubHTTPError):
        if "Timeout" in type(error).__name__:  # httpx's and httpx2's, ConnectTimeout and ReadTimeout
            return f"{hub} does not answer in time; try again: what was downloaded is kept"
        return f"cannot reach {hub} ({error}); is the network there?"
    status, has_token = error.response.status_code, "authorization" in error.response.request.headers
    if isinstance(error, errors.GatedRepoError):
        return f"{name.repo} is gated: accept its terms on {page}, and set HF_TOKEN" + (
            f" to a token ({hub}/settings/tokens)"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name.repo} has no revision {name.revision!r}; see {page}/commits"
    if isinstance(error, errors.RepositoryNotFoundError) or (status == 401 and not has_token):
        return f"no repository {name.repo} on {hub}; or it is private: then HF_TOKEN must" + (
            " hold a token that may read it"
        )
    if status == 401:
        return (
            f"{hub} does not accept the token in HF_TOKEN (or of `hf auth login`); see {hub}/settings/tokens"
        )
    if status == 403:
        return (
            f"{hub} forbids access to {name.repo}: has the token in HF_TOKEN the right to read it? See {page}"
        )
    return f"{hub} answered with status {status} on {name.repo}; try again later"
