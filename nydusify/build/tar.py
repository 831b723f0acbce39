"""A streaming tar reader that is strict about what it cannot represent and never unpacks.

It reads v7, ustar, GNU (long names, sparse, base-256) and pax (local and global headers, sparse 0.0, 0.1 and 1.0)
archives. Sources: POSIX pax, GNU tar manual ("Sparse Formats"), Go's archive/tar for what registries hold.
"""

import stat
from dataclasses import dataclass
from typing import BinaryIO

from nydusify.build import tar_sparse
from nydusify.build.tar_fields import (
    BLOCK,
    MAX_EXTENSION,
    checksum_matches,
    cut,
    decimal,
    number,
    numbers,
    pax_records,
    pax_time,
    pax_xattrs,
)
from nydusify.errors import FormatError, UnsupportedError

MAX_SIZE = 1 << 44
"""Bytes of one file: what 2^24 chunks of 1 MiB hold."""
_ZEROS = bytes(BLOCK)
_MODES = {
    b"0": stat.S_IFREG,
    b"\0": stat.S_IFREG,
    b"7": stat.S_IFREG,
    b"S": stat.S_IFREG,
    b"1": stat.S_IFREG,
    b"2": stat.S_IFLNK,
    b"3": stat.S_IFCHR,
    b"4": stat.S_IFBLK,
    b"5": stat.S_IFDIR,
    b"D": stat.S_IFDIR,
    b"6": stat.S_IFIFO,
}
_WITH_DATA = b"0\0007S"


@dataclass(slots=True, eq=False)
class TarEntry:
    """One entry, with everything that long-name and pax headers said of it."""

    name: bytes
    mode: int
    """With the type bits; a hard link has those of a regular file."""
    uid: int
    gid: int
    mtime: int
    mtime_ns: int
    size: int
    """Bytes of the file as it will read, holes included."""
    target: bytes
    hardlink: bool
    rdev: int
    xattrs: dict[bytes, bytes] | None
    segments: list[tuple[int, int]] | None
    """Offset and length of the stored pieces of a sparse file, else None."""


class TarReader:
    """Iterates over the entries of a tar stream; the data of the current one are read with `read`."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = 0
        self._padding = 0
        self._global: dict[bytes, bytes] = {}

    def read(self, size: int) -> bytes:
        """Exactly ``size`` stored bytes of the current entry. Raises `FormatError` at a premature end."""
        if size > self._left:
            raise FormatError("tar: an entry has less data than it needs")
        self._left -= size
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) != size:
            raise FormatError("tar: the archive ends in the middle of an entry")
        return data

    def _skip(self) -> None:
        left = self._left + self._padding
        if left < BLOCK:  # as a rule the data are read, and only their padding is left
            if left:
                self._exactly(left)
            self._left = self._padding = 0
            return
        while left:
            left -= len(self._exactly(min(left, 1 << 20)))
        self._left = self._padding = 0

    def _extension(self, header: bytes) -> bytes:
        size = number(header[124:136])
        if not 0 <= size <= MAX_EXTENSION:
            raise FormatError(f"tar: an extended header of {size} bytes")
        data = self._exactly(size)
        self._exactly(-size % BLOCK)
        return data

    def next(self) -> TarEntry | None:
        """The next entry, or None at the end of the archive. Raises `FormatError`, `UnsupportedError`."""
        self._skip()
        pax: dict[bytes, bytes] = {}
        sparse_pairs: list[bytes] = []
        long_name = long_link = None
        while True:
            header = self._stream.read(BLOCK)
            if not header or header == _ZEROS:
                if pax or long_name or long_link:
                    raise FormatError("tar: the archive ends after an extended header, without its entry")
                return None
            if len(header) != BLOCK:
                raise FormatError("tar: the archive ends in the middle of a header")
            if not checksum_matches(header):
                raise FormatError("tar: header checksum is wrong")
            kind = header[156:157]
            if kind in b"xX":
                for key, value in pax_records(self._extension(header)):
                    pax[key] = value
                    if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                        sparse_pairs.append(value)
            elif kind == b"g":
                self._global.update(pax_records(self._extension(header)))
            elif kind == b"L":
                long_name = cut(self._extension(header))
            elif kind == b"K":
                long_link = cut(self._extension(header))
            elif kind == b"V":
                self._left = number(header[124:136])
                self._padding = -self._left % BLOCK
                self._skip()
            else:
                break
        if self._global:
            pax = self._global | pax
        return self._entry(header, kind, pax, sparse_pairs, long_name, long_link)

    def _entry(
        self,
        header: bytes,
        kind: bytes,
        pax: dict[bytes, bytes],
        sparse_pairs: list[bytes],
        long_name: bytes | None,
        long_link: bytes | None,
    ) -> TarEntry:
        name = cut(header[:100]) if long_name is None else long_name
        if long_name is None and header[257:263] == b"ustar\0" and header[345]:
            name = cut(header[345:500]) + b"/" + name
        target = cut(header[157:257]) if long_link is None else long_link
        if kind not in _MODES:
            raise UnsupportedError(f"tar: entry type {kind!r} of {name[:200]!r}")
        permissions, uid, gid = numbers(header[100:124])
        size, mtime, mtime_ns, xattrs = number(header[124:136]), number(header[136:148]), 0, None
        if pax:
            name, target = pax.get(b"path", name), pax.get(b"linkpath", target)
            size = decimal(pax[b"size"], "size") if b"size" in pax else size
            uid = decimal(pax[b"uid"], "uid") if b"uid" in pax else uid
            gid = decimal(pax[b"gid"], "gid") if b"gid" in pax else gid
            if b"mtime" in pax:
                mtime, mtime_ns = pax_time(pax[b"mtime"])
            xattrs = pax_xattrs(pax) or None
        if not 0 <= size <= MAX_SIZE:
            raise FormatError(f"tar: {name[:200]!r} claims {size} bytes")
        if not (0 <= uid < 1 << 32 and 0 <= gid < 1 << 32):
            raise FormatError(f"tar: owner {uid}:{gid} of {name[:200]!r}")
        mode = _MODES[kind]
        if mode == stat.S_IFREG and kind != b"1" and name.endswith(b"/"):
            mode = stat.S_IFDIR  # how v7 archives mark directories
        if kind not in _WITH_DATA:
            size = 0
        self._left, self._padding = size, -size % BLOCK
        segments = None
        if kind == b"S" or (pax and mode == stat.S_IFREG):
            name, size, segments = self._sparse(header, kind, pax, sparse_pairs, name, size)
        return TarEntry(
            name,
            mode | permissions & 0o7777,
            uid,
            gid,
            mtime,
            mtime_ns,
            size if mode == stat.S_IFREG and kind != b"1" else 0,
            target,
            kind == b"1",
            _device(header, name) if kind in b"34" else 0,
            xattrs,
            segments,
        )

    def _sparse(
        self, header: bytes, kind: bytes, pax: dict[bytes, bytes], pairs: list[bytes], name: bytes, size: int
    ) -> tuple[bytes, int, list[tuple[int, int]] | None]:
        real = size
        if kind == b"S":
            segments, real = tar_sparse.old_gnu(header, self._exactly)
        elif pax.get(b"GNU.sparse.major") == b"1":
            segments = tar_sparse.pax_1_0(self.read)
        elif b"GNU.sparse.map" in pax:
            segments = tar_sparse.pairs(pax[b"GNU.sparse.map"].split(b","))
        elif pairs:
            segments = tar_sparse.pairs(pairs)
        else:
            return name, size, None
        for key in (b"GNU.sparse.size", b"GNU.sparse.realsize"):
            real = decimal(pax[key], "sparse size") if key in pax else real
        if real > MAX_SIZE:
            raise FormatError(f"tar: sparse file {name[:200]!r} claims {real} bytes")
        tar_sparse.check(segments, real, self._left)
        return pax.get(b"GNU.sparse.name", name), real, segments


def _device(header: bytes, name: bytes) -> int:
    major, minor = number(header[329:337]), number(header[337:345])
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise FormatError(f"tar: device number {major}:{minor} of {name[:200]!r}")
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
