"""Small archives made on the spot, for tests that need one particular entry."""

import io
import tarfile
from collections.abc import Mapping
from typing import Any

TYPES = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


def make_tar(
    *entries: tuple[str, str, bytes | str],
    format: int = tarfile.PAX_FORMAT,
    pax: Mapping[str, str] | None = None,
    **attributes: Any,
) -> bytes:
    """An archive of (kind, path, content or link target), in this order; ``attributes`` are set on every entry."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format, errors="surrogateescape") as archive:
        for kind, path, content in entries:
            info = tarfile.TarInfo(path)
            info.type, info.mtime = TYPES[kind], 1
            info.mode = 0o755 if kind == "dir" else 0o644
            info.pax_headers = dict(pax or {})
            for name, value in attributes.items():
                setattr(info, name, value)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                archive.addfile(info)
    return file.getvalue()


def header(name: bytes, kind: bytes = b"0", **fields: bytes) -> bytes:
    """A raw ustar header; ``fields`` are mode, uid, gid, size, mtime, link, major, minor or sparse, as on disk."""
    places = {"mode": 100, "uid": 108, "gid": 116, "size": 124, "mtime": 136, "link": 157, "magic": 257}
    places |= {"major": 329, "minor": 337, "sparse": 386}
    block = bytearray(512)
    block[: len(name)], block[156:157], block[257:265] = name, kind, b"ustar\x0000"
    for field, value in fields.items():
        block[places[field] : places[field] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax_record(key: bytes, value: bytes) -> bytes:
    """One ``length key=value`` record, in which the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def pax_header(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """A pax header with its records, padded to a block."""
    data = b"".join(pax_record(key, value) for key, value in records)
    return header(b"PaxHeader", kind, size=b"%o" % len(data)) + data + bytes(-len(data) % 512)


END = bytes(1024)
