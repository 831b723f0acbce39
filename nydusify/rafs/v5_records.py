"""The inode records of a v5 bootstrap as columns, with what lies behind their fixed part."""

import struct

import numpy as np

from nydusify.errors import FormatError
from nydusify.rafs import v5
from nydusify.rafs.inode_table import REGULAR, SYMLINK, Column, InodeTable, check_target, ragged
from nydusify.rafs.spec import CHUNK, MAX_NAME
from nydusify.rafs.tree import ChunkTable
from nydusify.rafs.v5_super import SuperBlock
from nydusify.rafs.validate import MAX_TARGET

_LENGTH = struct.Struct("<I")
_MAX_KEY, _MAX_VALUE = 255, 1 << 16


class Records:
    """Row ``i`` is index ``i + 1``. Raises `FormatError` if records overlap or leave the file."""

    def __init__(self, data: bytes, sb: SuperBlock) -> None:
        self.data, self.sb = data, sb
        self._words = np.frombuffer(data, "<u8")
        fixed = self._words[(sb.offsets[:, None] // 8) + np.arange(v5.INODE.itemsize // 8)].view(v5.INODE)[:, 0]
        self.fixed = fixed
        self.table = InodeTable(
            mode=fixed["mode"],
            uid=fixed["uid"],
            gid=fixed["gid"],
            mtime=fixed["mtime"],
            mtime_ns=fixed["mtime_ns"],
            size=fixed["size"],
            rdev=fixed["rdev"],
            nlink=fixed["nlink"],
            private=fixed["private"],
        )
        self.name_at = sb.offsets + v5.INODE.itemsize
        self.name_size = fixed["name_size"].astype(np.int64)
        self._target_at = self.name_at + _padded(self.name_size)
        self._target_size = fixed["target_size"].astype(np.int64)
        self._xattr_at = self._target_at + _padded(self._target_size)
        self._check_lengths()
        self._xattr_size = self._xattr_sizes()
        has_xattr = fixed["flags"] & v5.INODE_XATTR != 0
        self.chunks_at = self._xattr_at + np.where(has_xattr, 8 + _padded(self._xattr_size), 0)
        self.chunk_count = np.where(self.table.type == REGULAR, fixed["child_count"], 0).astype(np.int64)
        self._check_ends()

    def _check_lengths(self) -> None:
        if int(self.name_size.min()) == 0 or int(self.name_size.max()) > MAX_NAME:
            raise FormatError("a name that is empty or longer than 255 bytes")
        symlink = self.table.type == SYMLINK
        if np.any((self._target_size > 0) != symlink) or int(self._target_size.max()) > MAX_TARGET:
            raise FormatError("a symlink without a target, with too long a one, or one on another type")
        if int(self._xattr_at.max()) > len(self.data):
            raise FormatError("an inode record beyond the end of the file")

    def _xattr_sizes(self) -> Column:
        """Bytes of the xattr pairs of each record, without padding; 0 where there are none."""
        sizes = np.zeros(len(self.fixed), np.int64)
        rows = np.flatnonzero(self.fixed["flags"] & v5.INODE_XATTR)
        words = self._xattr_at[rows] // 8
        if len(words) and int(words.max()) >= len(self._words):
            raise FormatError("extended attributes beyond the end of the file")
        found = self._words[words]
        if len(found) and int(found.max()) > len(self.data):
            raise FormatError(f"extended attributes of {int(found.max())} bytes")
        sizes[rows] = found
        return sizes

    def _check_ends(self) -> None:
        """Records may not overlap, so that what is read grows with the file alone."""
        ends = self.chunks_at + self.chunk_count * CHUNK.itemsize
        order = np.argsort(self.sb.offsets)
        if int(ends.max()) > len(self.data) or np.any(ends[order][:-1] > self.sb.offsets[order][1:]):
            raise FormatError("an inode record that overlaps the next, or goes beyond the end of the file")

    def names(self) -> list[bytes]:
        data = self.data
        starts, ends = self.name_at.tolist(), (self.name_at + self.name_size).tolist()
        return [data[low:high] for low, high in zip(starts, ends, strict=True)]

    def targets(self) -> dict[int, bytes]:
        """The target of each row that is a symlink."""
        found: dict[int, bytes] = {}
        for row in self.table.rows_of(SYMLINK):
            start = int(self._target_at[row])
            found[row] = self.data[start : start + int(self._target_size[row])]
            check_target(found[row])
        return found

    def xattrs(self) -> dict[int, dict[bytes, bytes]]:
        """The attributes of each row that has some."""
        found = {}
        for row in np.flatnonzero(self._xattr_size).tolist():
            start = int(self._xattr_at[row]) + 8
            found[row] = _read_pairs(self.data, start, start + int(self._xattr_size[row]))
        return found

    def chunks(self, rows: Column) -> ChunkTable:
        """Chunk records of the given rows, one after another."""
        words = CHUNK.itemsize // 8
        taken = self._words[ragged(self.chunks_at[rows] // 8, self.chunk_count[rows] * words)]
        return taken.view(CHUNK)

    def raw_chunks(self, row: int) -> bytes:
        start = int(self.chunks_at[row])
        return self.data[start : start + int(self.chunk_count[row]) * CHUNK.itemsize]


def _padded(sizes: Column) -> Column:
    return -(-sizes // v5.ALIGNMENT) * v5.ALIGNMENT


def _read_pairs(data: bytes, start: int, end: int) -> dict[bytes, bytes]:
    pairs: dict[bytes, bytes] = {}
    while start < end:
        if end - start < _LENGTH.size:
            raise FormatError("extended attributes with a remainder")
        size = _LENGTH.unpack_from(data, start)[0]
        start += _LENGTH.size
        if not 0 < size <= end - start:
            raise FormatError(f"an extended attribute of {size} bytes, where {end - start} are left")
        name, found, value = data[start : start + size].partition(b"\0")
        if not found or not 0 < len(name) <= _MAX_KEY or len(value) > _MAX_VALUE or name in pairs:
            raise FormatError(f"extended attribute {name[:80]!r}: no NUL, twice, too long or without a name")
        pairs[name] = value
        start += size
    return pairs
