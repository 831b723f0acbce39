"""Many inodes as columns: what both readers fill, checked and turned into objects at once."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from nydusify.errors import FormatError
from nydusify.rafs.tree import Inode
from nydusify.rafs.v6 import FILE_TYPES, PRIVATE_IMPLICIT, PRIVATE_LOWER_LINK

Column = npt.NDArray[Any]

TYPE_BY_MODE = np.zeros(16, np.uint8)
"""Dirent type by ``mode >> 12``; 0 for a mode that names no type."""
for _kind, _type in FILE_TYPES.items():
    TYPE_BY_MODE[_kind >> 12] = _type
REGULAR, DIRECTORY, CHARACTER, BLOCK_DEVICE, SYMLINK = 1, 2, 3, 4, 7


def ragged(starts: Column, counts: Column) -> npt.NDArray[np.int64]:
    """The numbers ``start … start + count - 1`` of every pair, one after another."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - counts), counts) + np.arange(total)


def _triples(rows: Column, low: Column, high: Column, chosen: Column) -> Iterator[tuple[int, int, int]]:
    return zip(rows[chosen].tolist(), low[chosen].tolist(), high[chosen].tolist(), strict=True)


def check_target(target: bytes) -> None:
    if not target or b"\0" in target:
        raise FormatError("a symlink whose target is empty or has a NUL")


@dataclass(slots=True)
class InodeTable:
    """Row ``i`` of every column is inode ``i``. ``files`` are the rows of regular files, ``counts`` their numbers of
    chunks, and ``rows`` the rows of the chunk table, file after file."""

    mode: Column
    uid: Column
    gid: Column
    mtime: Column
    mtime_ns: Column
    size: Column
    rdev: Column
    nlink: Column
    private: Column
    type: Column = field(init=False)
    targets: dict[int, bytes] = field(default_factory=dict)
    xattrs: dict[int, dict[bytes, bytes]] = field(default_factory=dict)
    files: Column = field(default_factory=lambda: np.empty(0, np.int64))
    counts: Column = field(default_factory=lambda: np.empty(0, np.int64))
    rows: Column = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        if int(self.mode.max()) >> 16:
            raise FormatError("a mode of more than 16 bits")
        self.type = TYPE_BY_MODE[self.mode >> 12]
        if not self.type.all():
            raise FormatError("a mode without a file type")
        if not self.nlink.all():
            raise FormatError("an inode with no link")
        if int(self.mtime_ns.max()) >= 1_000_000_000:
            raise FormatError("a time with more than a second of nanoseconds")

    def rows_of(self, file_type: int) -> list[int]:
        found: list[int] = np.flatnonzero(self.type == file_type).tolist()
        return found

    def build(self, origin: int) -> list[Inode]:
        """One object a row; directories get an empty ``children``."""
        count, kind = len(self.mode), self.type
        sized = np.where((kind == REGULAR) | (kind == SYMLINK), self.size, 0)
        device = np.where((kind == CHARACTER) | (kind == BLOCK_DEVICE), self.rdev, 0)
        targets: list[bytes] = [b""] * count
        for row, target in self.targets.items():
            targets[row] = target
        xattrs: list[dict[bytes, bytes] | None] = [None] * count
        for row, pairs in self.xattrs.items():
            xattrs[row] = pairs
        children: list[dict[bytes, Inode] | None] = [None] * count
        for row in self.rows_of(DIRECTORY):
            children[row] = {}
        return list(
            map(
                Inode,
                *(self.mode.tolist(), self.uid.tolist(), self.gid.tolist()),
                *(self.mtime.tolist(), self.mtime_ns.tolist(), sized.tolist(), device.tolist()),
                *(targets, xattrs, children, self._chunks(), repeat(origin)),
                (self.private & PRIVATE_IMPLICIT != 0).tolist(),
                (self.private & PRIVATE_LOWER_LINK != 0).tolist(),
            )
        )

    def _chunks(self) -> list[range | tuple[int, ...]]:
        """Rows of the chunk table of each inode: a range where they follow one another, else a tuple."""
        chunks: list[range | tuple[int, ...]] = [()] * len(self.mode)
        filled = self.counts > 0
        files, counts = self.files[filled], self.counts[filled]
        ends = np.cumsum(counts)
        starts = ends - counts
        jumps = np.concatenate(([0], np.cumsum(np.diff(self.rows) != 1))) if len(ends) else ends
        straight = jumps[starts] == jumps[ends - 1]
        first = self.rows[starts]
        last = first + counts
        for row, low, high in _triples(files, first, last, straight):
            chunks[row] = range(low, high)
        for row, low, high in _triples(files, starts, ends, ~straight):
            chunks[row] = tuple(self.rows[low:high].tolist())
        return chunks
