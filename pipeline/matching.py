"""The third party's tools: which rows match, a secret order, and where ciphertexts lie meanwhile."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import LocalProtocolError, Refused
from pipeline.messages import Bytes
from pipeline.paillier import RandomBytes

Indices: TypeAlias = NDArray[np.int64]

GATHER_ROWS = 4096


def match_hashes(left: Bytes, right: Bytes) -> tuple[Indices, Indices]:
    """Return where equal hashes stand, in `left` and in `right`; neither holds one twice.

    Sorted by all 32 bytes, as four numbers: no other hash comes between two
    equal ones, whatever prefixes somebody may have made collide. (NumPy's own
    type for strings of bytes drops zeros at the end.) The order is that of the
    hashes, which the controllers can compute: it must not be used.
    """
    words = _words(np.concatenate([left, right]))
    order = np.lexsort(words.T)
    at = np.flatnonzero((words[order[1:]] == words[order[:-1]]).all(axis=1))
    # lexsort is stable, so the one of `left` comes first.
    return order[at], order[at + 1] - len(left)


def has_duplicates(hashes: Bytes) -> bool:
    words = _words(hashes)
    words = words[np.lexsort(words.T)]
    return bool((words[1:] == words[:-1]).all(axis=1).any())


def _words(hashes: Bytes) -> NDArray[np.uint64]:
    return np.ascontiguousarray(hashes).view(np.uint64)


def permutation(count: int, rng: RandomBytes) -> Indices:
    """Return a uniformly random order of `count` things: that of random keys, drawn again if two are equal."""
    while True:
        keys = np.frombuffer(rng(8 * count), np.uint64)
        order = np.argsort(keys)
        ordered = keys[order]
        if not (ordered[1:] == ordered[:-1]).any():
            return order


@dataclass(eq=False, repr=False)
class CiphertextFile:
    """Rows of ciphertexts in a file that has no name and that only this process can open.

    Gone when it is closed, or when the process ends. Rows are appended, then
    either gathered into another file or taken from first to last, each once.
    """

    row_shape: tuple[int, int]
    folder: Path | None = None
    taken: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        try:
            # Mode 0600; on Linux it never had a name.
            self._file = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise _storage(error) from None

    def append(self, ciphertexts: Bytes) -> None:
        """Refused if there is no room."""
        content = memoryview(ciphertexts.tobytes())
        try:
            while content:
                content = content[os.write(self._file.fileno(), content) :]
        except OSError as error:
            raise _storage(error) from None

    def gathered(self, indices: Indices, folder: Path | None) -> CiphertextFile:
        """Return a file of these rows in this order, and close this one: the other rows are never read."""
        result = CiphertextFile(self.row_shape, folder)
        for start in range(0, len(indices), GATHER_ROWS):
            block = indices[start : start + GATHER_ROWS].tolist()
            result.append(np.concatenate([self._read(index, 1) for index in block]))
        self.close()
        return result

    def take(self, first: int, count: int) -> Bytes:
        """Return rows that follow on those taken before, shape (count, *row_shape)."""
        if first != self.taken:
            raise LocalProtocolError("matched rows are taken in order, each once")
        self.taken += count
        return self._read(first, count)

    def close(self) -> None:
        self._file.close()

    def _read(self, first: int, count: int) -> Bytes:
        size = self.row_shape[0] * self.row_shape[1]
        content = os.pread(self._file.fileno(), count * size, first * size)
        return np.frombuffer(content, np.uint8).reshape(count, *self.row_shape)


def _storage(error: OSError) -> Refused:
    return Refused(
        "no-storage",
        f"the third party cannot keep the uploads in its folder for temporary files ({error.strerror});"
        " it needs twice their size there",
    )
