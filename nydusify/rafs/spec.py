"""Numbers and records of the RAFS format that v5, v6 and blobs share.

Every record is a numpy structured dtype, packed and little-endian, so that a table of a million rows is one array.
Source: the Nydus format (nydus, rafs/src/metadata/layout/mod.rs and storage/src/device.rs).
"""

from enum import IntEnum, IntFlag

import numpy as np

BLOCK = 4096
DIGEST_SIZE = 32
MIN_CHUNK_SIZE, MAX_CHUNK_SIZE, DEFAULT_CHUNK_SIZE = 0x1000, 0x1000000, 0x100000
MAX_CHUNKS = 0xFFFFFF
"""Chunks a blob may hold; the chunk index has 24 bits."""
MAX_BLOBS = 254
MAX_NAME = 255
MAX_SYMLINK = 4095
MAX_XATTR_VALUE = 65535
PLACEHOLDER_ID = "x" * 64
"""The blob id inside a bootstrap that lies in that very blob."""


class Compressor(IntEnum):
    NONE = 0
    LZ4_BLOCK = 1
    GZIP = 2
    ZSTD = 3


class Digester(IntEnum):
    BLAKE3 = 0
    SHA256 = 1


class Cipher(IntEnum):
    NONE = 0
    AES_128_XTS = 1


class SuperFlag(IntFlag):
    """Super-block flags, 64 bits. Six reserved bits are accepted and ignored."""

    COMPRESSOR_NONE = 0x1
    COMPRESSOR_LZ4 = 0x2
    BLAKE3 = 0x4
    SHA256 = 0x8
    REAL_OWNERS = 0x10
    XATTRS = 0x20
    COMPRESSOR_GZIP = 0x40
    COMPRESSOR_ZSTD = 0x80
    INLINED_CHUNK_DIGESTS = 0x100
    TARFS = 0x200
    CIPHER_NONE = 0x1000000
    CIPHER_AES_128_XTS = 0x2000000
    RESERVED = 0xFC000000


COMPRESSOR_FLAG = {
    Compressor.NONE: SuperFlag.COMPRESSOR_NONE,
    Compressor.LZ4_BLOCK: SuperFlag.COMPRESSOR_LZ4,
    Compressor.GZIP: SuperFlag.COMPRESSOR_GZIP,
    Compressor.ZSTD: SuperFlag.COMPRESSOR_ZSTD,
}
DIGESTER_FLAG = {Digester.BLAKE3: SuperFlag.BLAKE3, Digester.SHA256: SuperFlag.SHA256}


class BlobFeature(IntFlag):
    """What a blob is and holds, 32 bits. Unknown bits among the low 16 make an image unreadable."""

    ALIGNED = 0x1
    INLINED_FS_META = 0x2
    CHUNK_INFO_V2 = 0x4
    ZRAN = 0x8
    SEPARATE = 0x10
    INLINED_CHUNK_DIGEST = 0x20
    TARFS = 0x40
    BATCH = 0x80
    ENCRYPTED = 0x100
    CHUNKDICT_GENERATED = 0x200
    PREFETCH_FILES = 0x400
    EXTERNAL = 0x800
    HAS_TAR_HEADER = 0x10000000
    HAS_TOC = 0x20000000
    CAP_TAR_TOC = 0x40000000


KNOWN_LOW_FEATURES = 0x0FFF


class ChunkFlag(IntFlag):
    COMPRESSED = 1
    HOLE = 2
    ENCRYPTED = 4
    BATCH = 8
    HAS_CRC = 0x10


CHUNK = np.dtype(
    [
        ("digest", "V32"),
        ("blob", "<u4"),
        ("flags", "<u4"),
        ("csize", "<u4"),
        ("usize", "<u4"),
        ("coffset", "<u8"),
        ("uoffset", "<u8"),
        ("file_offset", "<u8"),
        ("index", "<u4"),
        ("crc", "<u4"),
    ]
)
"""One chunk of a file, 80 bytes: digest of the plain bytes, where it lies compressed (``c…``) and plain (``u…``) in
its blob, its number there, its CRC-32C."""


def align(value: int, to: int) -> int:
    """``value`` rounded up to a multiple of ``to``."""
    return -(-value // to) * to
