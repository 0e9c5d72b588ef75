"""What a cache holds, in a file: a long prompt that was read once is not read again by the next process.

    "llmcore cache \\n\\n"  place of HEAD: u64  length: u64  checksum: u64
    BODY  numbers as they lie in memory, one array behind another
    HEAD  JSON: the fingerprint, the ids, and for each place that is kept what each layer has there

Rows that are only added to are stored once, for the last place; states and windows, which later ones replace,
for each. The fingerprint says by which model and under which settings the numbers were made: under any other
they are refused. Nothing of a file is ever run, and no number is used whose checksum is wrong.
"""

import hashlib
import json
import os
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..cache import ROOM, KVCache, Rows
from ..loader import read_gguf
from ..mixers.state import State
from ..model import prefill
from ..threads import each

MAGIC = b"llmcore cache \\n\\n"
VERSION = 1  # of what a cache holds and how it lies in the file
SAMPLE, PIECE = 1 << 16, 1 << 10  # a tensor of so many bytes is looked at whole, of others sixteen pieces
LEAST = 16  # tokens that are worth a new file, if they are an eighth of those that were known, too
NAMES = {  # of what the fingerprint says, in the order in which it is compared
    "version": "another version of llmcore ({theirs}; this one is {ours})",
    "byte_order": "a machine of the byte order {theirs}",
    "model": "another model ({theirs}; this one is {ours})",
    "file": "another file of this model, with other weights",
    "weights": "weights held as {theirs} (here as {ours})",
    "context": "a context of {theirs} tokens (here {ours})",
}


class CacheFileError(ValueError):
    """The file is damaged, no cache, or one of another model; the message names the file and what to do."""


def fingerprint(llm) -> dict:
    """What a cache depends on, by the keys of NAMES."""
    file = read_gguf(llm.path)
    digest = hashlib.sha256()
    for path in sorted({tensor.path for tensor in file.tensors.values()}):
        with path.open("rb") as head:
            digest.update(head.read(min(t.offset for t in file.tensors.values() if t.path == path)))
    for tensor in file.tensors.values():
        data = tensor.data.reshape(-1)
        size, n_pieces = (len(data), 1) if len(data) <= SAMPLE else (PIECE, 16)
        for start in np.linspace(0, len(data) - size, n_pieces, dtype=int):
            digest.update(data[start : start + size].data)
    name = file.metadata.get("general.name", "without a name")
    model = f"{file.metadata['general.architecture']}, {name}"
    told = {"version": VERSION, "byte_order": sys.byteorder, "model": model, "file": digest.hexdigest()}
    way = llm.held.replace(",", " ").split()[0]
    return told | {"weights": way, "context": llm.context_length}


@dataclass(frozen=True)
class Kept:
    """What all layers have after `length` tokens; `leaves` in the order of `leaves_of`."""

    length: int
    leaves: list[dict]  # {"first", "window", "arrays"} of Rows; {"at": {length: arrays}, "marks"} of a State


def leaves_of(layers) -> Iterator[Rows | State]:
    """The Rows and States of layers; a layer may have both."""
    for layer in layers:
        if isinstance(layer, Rows | State):
            yield layer
        else:
            yield from leaves_of(part for part in vars(layer).values() if isinstance(part, Rows | State))


def kept(cache: KVCache) -> Kept:
    """What a cache holds now, by reference: it stays as it is as long as the cache only goes on."""

    def of(leaf):
        if isinstance(leaf, State):
            at, marks = leaf.kept()
            return {"at": at, "marks": marks}
        return {"first": leaf.first, "window": leaf.window, "arrays": leaf.read(cache.length)}

    return Kept(cache.length, [of(leaf) for leaf in leaves_of(cache.layers)])


# Writing.


def save(path, llm, ids: Sequence[int], places: Sequence[Kept]) -> int:
    """Write what a cache had at `places`, the last of which holds all `ids`; returns the bytes of the file.

    It is written beside `path` first, so that the older file stays until the new one is whole.
    """
    path, made = Path(path), fingerprint(llm)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(MAGIC + bytes(24))
            head = {"fingerprint": made, "ids": list(map(int, ids)), "places": _Body(file).places(places)}
            text, at = json.dumps(head).encode(), file.tell()
            file.write(text)
            file.seek(len(MAGIC))
            file.write(np.array([at, len(text), zlib.crc32(text)], "<u8").tobytes())
        os.replace(beside, path)
        return at + len(text)
    finally:
        beside.unlink(missing_ok=True)


class _Body:
    """Writes arrays, each once, and tells where they are."""

    def __init__(self, file):
        self.file, self.known = file, {}

    def places(self, places):
        """What HEAD says of the places: as `Kept`, with (place, checksum, shape) for each array."""
        last = places[-1].leaves
        return [
            {
                "length": place.length,
                "leaves": [self._leaf(*pair) for pair in zip(place.leaves, last, strict=True)],
            }
            for place in places
        ]

    def _leaf(self, leaf, last):
        if "at" in leaf:
            at = {length: [self._put(array) for array in arrays] for length, arrays in leaf["at"].items()}
            return {"at": at, "marks": leaf["marks"]}
        # Rows that nothing forgets are the first of those at the last place.
        source = last if leaf["first"] == last["first"] == 0 and leaf["window"] is None else leaf
        arrays = [
            {"rows": array.shape[1], "stored": self._put(stored)}
            for array, stored in zip(leaf["arrays"], source["arrays"], strict=True)
        ]
        return {"first": leaf["first"], "arrays": arrays}

    def _put(self, array):
        key = (array.ctypes.data, array.shape, array.strides)
        if key not in self.known:
            at, sums = self.file.tell(), []
            for part in array.reshape(1, -1) if array.ndim < 3 else array:  # a head's rows lie together
                part = np.ascontiguousarray(part)
                self.file.write(part.data.cast("B"))
                sums.append(checksum(part))
            self.known[key] = [at, zlib.crc32(np.array(sums, "<u4").tobytes()), list(array.shape)]
        return self.known[key]


def checksum(part: np.ndarray) -> int:
    """CRC-32 of the sums of 4 KB each, which is many times as fast as that of all bytes, and of the rest."""
    data = part.reshape(-1).view(np.uint8)
    n = len(data) // 4096 * 4096
    sums = data[:n].view(np.uint64).reshape(-1, 512).sum(axis=1)
    return zlib.crc32(data[n:].tobytes(), zlib.crc32(sums.tobytes()))


# Reading.


class CacheFile:
    """A file of `save`, opened: its `ids` are known, its numbers are read when they are asked for."""

    def __init__(self, path, llm):
        """Raises CacheFileError for what is no cache, damaged, or of another model or other settings."""
        self.path, self.llm = Path(path), llm
        data = self.path.read_bytes() if self.path.stat().st_size < 40 else self._start()
        if not data.startswith(MAGIC):
            raise CacheFileError(f"{path}: no cache that llmcore wrote; name another file")
        try:
            head = self._head(*np.frombuffer(data[len(MAGIC) :], "<u8").tolist())
            theirs, self.ids, self._places = head["fingerprint"], head["ids"], head["places"]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise self._damaged("its head cannot be read") from None
        ours = fingerprint(llm)
        for key, words in NAMES.items():
            if theirs.get(key) != ours[key]:
                what = words.format(theirs=theirs.get(key), ours=ours[key])
                raise CacheFileError(f"{path}: a cache made by {what}; delete it, or name another file")

    def _start(self):
        with self.path.open("rb") as file:
            return file.read(len(MAGIC) + 24)

    def _head(self, at, n_bytes, crc):
        if at + n_bytes != self.path.stat().st_size:
            raise ValueError("cut off")
        with self.path.open("rb") as file:
            file.seek(at)
            text = file.read(n_bytes)
        if zlib.crc32(text) != crc:
            raise ValueError("changed")
        return json.loads(text)

    def _damaged(self, what):
        return CacheFileError(f"{self.path}: the cache is damaged: {what}; delete it, and it is made anew")

    def cache_for(self, ids: Sequence[int]) -> KVCache:
        """A cache that holds the first of these ids, as many as any place has; it may be empty."""
        n = n_common(self.ids, ids)
        found = [self._skeleton(place) for place in self._places]
        reached = [cache.truncate(min(n, cache.length)) for cache in found]
        best = int(np.argmax(reached)) if reached else 0
        if not any(reached):
            return self.llm.empty_cache()
        cache = self._skeleton(self._places[best])
        self._fill(cache, self._places[best])
        cache.truncate(reached[best])
        return cache

    def places_up_to(self, length: int) -> list[Kept]:
        """What the file has at its places up to `length` tokens."""
        found = []
        for place in self._places:
            if 0 < place["length"] <= length:
                cache = self._skeleton(place)
                self._fill(cache, place)
                found.append(kept(cache))
        return found

    def _skeleton(self, place):
        """A cache that knows how far it can go back, and has no numbers yet."""
        cache = self.llm.empty_cache()
        cache.length = place["length"]
        for leaf, stored in zip(leaves_of(cache.layers), place["leaves"], strict=True):
            if isinstance(leaf, State):
                leaf.restore({int(at): [] for at in stored["at"]}, stored["marks"])
            else:
                leaf.first = stored["first"]
        return cache

    def _fill(self, cache, place):
        """Read the numbers of a skeleton, with room for more rows."""
        todo = []
        for leaf, stored in zip(leaves_of(cache.layers), place["leaves"], strict=True):
            if isinstance(leaf, State):
                at = {int(length): [None] * len(arrays) for length, arrays in stored["at"].items()}
                todo += [
                    (at[int(n)], i, s, None)
                    for n, arrays in stored["at"].items()
                    for i, s in enumerate(arrays)
                ]
                leaf.restore(at, stored["marks"])
            else:
                leaf.arrays = [None] * len(stored["arrays"])
                todo += [(leaf.arrays, i, s["stored"], s["rows"]) for i, s in enumerate(stored["arrays"])]

        def read(item):
            arrays, i, (at, crc, shape), rows = item
            arrays[i] = self._array(at, crc, shape, rows)

        each(read, todo)

    def _array(self, at, crc, shape, rows):
        """One array; of rows (K, N, H) the first ones, with room behind them."""
        if at + 4 * int(np.prod(shape)) > self.path.stat().st_size:
            raise self._damaged("an array ends behind the file")
        size = shape if rows is None else (shape[0], rows + ROOM, shape[2])
        array, sums = np.empty(size, np.float32), []
        with self.path.open("rb") as file:
            file.seek(at)
            for target in array.reshape(1, -1) if len(shape) < 3 else array:
                whole = rows is None or rows == shape[1]
                part = target[:rows] if whole else np.empty(shape[1:], np.float32)
                if file.readinto(part.data.cast("B")) != part.nbytes:
                    raise self._damaged("it ends too early")
                if not whole:
                    target[:rows] = part[:rows]
                sums.append(checksum(part))
        if zlib.crc32(np.array(sums, "<u4").tobytes()) != crc:
            raise self._damaged(f"the numbers at byte {at} were changed")
        return array


def n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two texts begin with in common."""
    n = min(len(a), len(b))
    different = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(different[0]) if len(different) else n


def read_ahead(llm, path, ids: Sequence[int], n_fixed: Callable[[], int] = lambda: 0) -> tuple[KVCache, int]:
    """A cache that holds `ids`, and how many of them came from the file at `path`; the others are read.

    Where these are many the file is made, or made anew, and `n_fixed()` is asked how many of the ids other
    texts begin with, too: layers that forget can go back there, and to where the ids left those of the older
    file. Raises what `CacheFile` raises.
    """
    file = CacheFile(path, llm) if os.path.exists(path) and os.path.getsize(path) else None
    cache = llm.empty_cache() if file is None else file.cache_for(ids)
    n_known, n_same = cache.length, 0 if file is None else n_common(file.ids, ids)
    is_worth_it = len(ids) - n_known > max(LEAST, n_known // 8)
    places = []
    for length in sorted({n_fixed() if is_worth_it else 0, n_same, len(ids)}):
        if length > cache.length:
            for _ in prefill(llm.weights, llm.config, ids[cache.length : length], cache):
                pass
            cache.keep()
            places.append(kept(cache))
    if is_worth_it:
        older = file.places_up_to(n_same) if file and forgets(cache) else []
        try:
            save(path, llm, ids, [*older[-2:], *places] if forgets(cache) else places[-1:])
        except OSError as error:  # it must not cost the text
            warnings.warn(f"what was read is not kept: {error}", stacklevel=2)
    return cache, n_known


def forgets(cache: KVCache) -> bool:
    """Whether a layer cannot go back to each earlier place."""
    return any(isinstance(leaf, State) or leaf.window is not None for leaf in leaves_of(cache.layers))
