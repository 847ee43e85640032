"""Indexes of the keys of parts: files beside the blobs that can always be made again, so never part of a version.

With them a change asks "which of these keys are there?" of a table of any size without reading it. A file holds sorted
keys (`core.versions.keys`) and is mapped into memory; a check sum tells one that was cut off or damaged, which is then
made anew.
"""

import hashlib
import os
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import numpy as np

from holdfast.core.schema import Table
from holdfast.core.versions.keys import KeyIndex, Keys

__all__ = ["KeyFiles"]

_HEAD = struct.Struct("<8sQQQQ")
_MAGIC = b"HFKEYS01"
_OPEN = 256


class KeyFiles:
    """The indexes in one folder, by part and by the key they were made for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, KeyIndex] = OrderedDict()
        self._lock = threading.Lock()

    def index(self, table: Table, digest: str, make: Callable[[], KeyIndex]) -> KeyIndex:
        """The index of a part; made and kept if there is none (any more)."""
        name = _name(table, digest)
        with self._lock:
            if name in self._open:
                self._open.move_to_end(name)
                return self._open[name]
        found = _load(self._folder / name)
        if found is None:
            found = make()
            self._save(name, found)
        with self._lock:
            self._open[name] = found
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
        return found

    def forget(self, digests: Collection[str]) -> None:
        """Remove the indexes of parts that are gone."""
        for path in self._folder.glob("*.keys"):
            if path.name.partition("-")[0] in digests:
                path.unlink(missing_ok=True)

    def _save(self, name: str, index: KeyIndex) -> None:
        words = [np.ascontiguousarray(word) for keys in (index.alive, index.gone) for word in keys.words]
        check = 0
        for word in words:
            check = zlib.crc32(word.data, check)
        head = _HEAD.pack(_MAGIC, check, len(index.alive.words), len(index.alive), len(index.gone))
        scratch = self._folder / f".{name}.{os.getpid()}-{threading.get_ident()}.new"
        # Only a help: where it cannot be written, it is made again when it is needed.
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with scratch.open("wb") as file:
                file.write(head)
                for word in words:
                    file.write(word.data)
            scratch.replace(self._folder / name)


def _name(table: Table, digest: str) -> str:
    spec = "\0".join(f"{name}\0{table.column(name).dtype.arrow}" for name in table.key)
    return f"{digest}-{hashlib.sha256(spec.encode()).hexdigest()[:16]}.keys"


def _load(path: Path) -> KeyIndex | None:
    try:
        with path.open("rb") as file:
            magic, check, width, alive, gone = _HEAD.unpack(file.read(_HEAD.size))
        if magic != _MAGIC or path.stat().st_size != _HEAD.size + 8 * width * (alive + gone):
            return None
        data = np.memmap(path, np.uint64, "r", _HEAD.size) if alive + gone else np.zeros(0, np.uint64)
    except (OSError, struct.error):
        return None
    plain = np.asarray(data)
    if zlib.crc32(plain.data) != check:
        return None
    ends = np.cumsum([alive] * width + [gone] * width)
    words = np.split(plain, ends[:-1])
    return KeyIndex(Keys(tuple(words[:width])), Keys(tuple(words[width:])))
