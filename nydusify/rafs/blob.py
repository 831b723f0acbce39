"""A blob on disk: chunk information, its contexts, the table of contents, tar headers.

Source: nydus, storage/src/meta/ (chunk information) and rafs/src/blob.rs, builder/src/core/ (framing).
"""

from enum import IntFlag

import numpy as np

from nydusify.errors import FormatError
from nydusify.rafs.spec import Compressor

CI_MAGIC = 0xB10BB10B
CI_HEADER_SIZE = 4096

CHUNK_INFO_V1 = np.dtype([("u", "<u8"), ("c", "<u8")])
"""Bit fields, 16 bytes a chunk: ``u`` = plain offset and size, ``c`` = stored offset and size."""

CHUNK_INFO_V2 = np.dtype([("u", "<u8"), ("c", "<u8"), ("data", "<u8")])
"""Bit fields, 24 bytes a chunk; ``data`` is the CRC-32C, or context number << 32 | offset in the context's output."""


class ChunkInfoFlag(IntFlag):
    """Bits 56 to 63 of ``u`` in `CHUNK_INFO_V2`."""

    COMPRESSED = 1
    ZRAN = 2
    BATCH = 4
    ENCRYPTED = 8
    HAS_CRC = 0x10


CI_HEADER = np.dtype(
    [
        ("magic", "<u4"),
        ("features", "<u4"),
        ("ci_compressor", "<u4"),
        ("entries", "<u4"),
        ("ci_offset", "<u8"),
        ("ci_csize", "<u8"),
        ("ci_usize", "<u8"),
        ("contexts_offset", "<u8"),
        ("contexts_size", "<u8"),
        ("contexts", "<u4"),
        ("reserved", "V4032"),
        ("magic2", "<u4"),
    ]
)
"""4096 bytes behind the array. ``contexts_…``: the zran or batch table inside the plain array."""

ZRAN_CONTEXT = np.dtype(
    [
        ("in_offset", "<u8"),
        ("out_offset", "<u8"),
        ("dict_offset", "<u8"),
        ("in_size", "<u4"),
        ("out_size", "<u4"),
        ("dict_size", "<u4"),
        ("byte", "u1"),
        ("bits", "u1"),
        ("reserved", "V2"),
    ]
)
"""A point where inflating can start: ``bits`` bits of ``byte`` come before ``in_offset``."""

BATCH_CONTEXT = np.dtype([("csize", "<u4"), ("usize", "<u4"), ("reserved", "V32")])

TOC_ENTRY = np.dtype(
    [
        ("flags", "<u4"),
        ("reserved", "<u4"),
        ("name", "S16"),
        ("digest", "V32"),
        ("offset", "<u8"),
        ("csize", "<u8"),
        ("usize", "<u8"),
        ("reserved2", "V48"),
    ]
)

SECTION_DATA = "image.blob"
SECTION_CI = "blob.meta"
SECTION_CI_HEADER = "blob.meta.header"
SECTION_DIGESTS = "blob.digest"
SECTION_BOOTSTRAP = "image.boot"
SECTION_TOC = "rafs.blob.toc"
TOC_FLAG = {Compressor.NONE: 1, Compressor.ZSTD: 2, Compressor.LZ4_BLOCK: 4}
MAX_TOC_ENTRIES = 28
"""What fits, with the header, into the last 4096 bytes of a blob."""

TAR_HEADER = np.dtype(
    [
        ("name", "S100"),
        ("owner", "V24"),
        ("size", "V12"),
        ("mtime", "V12"),
        ("checksum", "V8"),
        ("type", "V1"),
        ("link", "V100"),
        ("magic", "V8"),
        ("reserved", "V247"),
    ]
)
"""GNU tar header, 512 bytes, behind the section that it names. ``owner`` is mode, uid and gid."""

_MAGIC = b"ustar  \0"
_CHECKSUM = slice(148, 156)


def _checksum(header: bytes | bytearray) -> bytes:
    return b"%07o\0" % (sum(header) - sum(header[_CHECKSUM]) + 8 * 0x20)


def tar_header(name: str, size: int) -> bytes:
    """The 512 bytes that follow a section of ``size`` bytes; from 8 GiB on the size is in base-256."""
    header = bytearray(TAR_HEADER.itemsize)
    header[: len(name)] = name.encode("ascii")
    header[124:136] = b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big")
    header[136:148] = b"00000000000\0"
    header[156:157] = b"0"
    header[257:265] = _MAGIC
    header[_CHECKSUM] = _checksum(header)
    return bytes(header)


def parse_tar_header(header: bytes) -> tuple[str, int]:
    """Name and size of the section in front of ``header``; `FormatError` unless it is the header of a section."""
    if len(header) != TAR_HEADER.itemsize or header[257:265] != _MAGIC or header[156:157] != b"0":
        raise FormatError("not a section's tar header")
    if header[_CHECKSUM] != _checksum(header):
        raise FormatError("a section's tar header has a wrong checksum")
    name, field = header[:100].rstrip(b"\0"), header[124:136]
    if not name.isascii() or b"\0" in name:
        raise FormatError(f"a section's name is not ASCII: {name!r}")
    if field[0] == 0x80:
        return name.decode("ascii"), int.from_bytes(field[1:], "big")
    digits = field.rstrip(b" \0")
    if not digits or digits.strip(b"01234567"):
        raise FormatError(f"section {name.decode('ascii')}: its size is not a number")
    return name.decode("ascii"), int(digits, 8)
