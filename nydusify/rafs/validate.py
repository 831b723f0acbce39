"""Checks that v5, v6 and blobs share. Each raises `FormatError`; none allocates more than its arguments take."""

import re
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from nydusify.errors import FormatError
from nydusify.rafs.spec import (
    BLOCK,
    COMPRESSOR_FLAG,
    DIGESTER_FLAG,
    KNOWN_LOW_FEATURES,
    MAX_CHUNK_SIZE,
    MAX_CHUNKS,
    MIN_CHUNK_SIZE,
    BlobFeature,
    ChunkFlag,
    Cipher,
    Compressor,
    Digester,
    SuperFlag,
    align,
)
from nydusify.rafs.tree import BlobInfo, ChunkTable

MAX_PATH = 1 << 14
"""Bytes of the longest path: four times what a system call takes. It bounds the depth of a tree."""
MAX_PREFETCH = 1 << 26
"""Bytes of all paths of a prefetch table together."""
MAX_TARGET = 4096
"""Bytes of a symlink's target that readers accept; `MAX_SYMLINK` is what Linux can create."""
MAX_STORED, MAX_PLAIN = 1 << 40, 1 << 44
"""Bytes of a blob, compressed and plain."""
CI_RATIO, CI_SLACK = 256, 1 << 20
"""A chunk-information array unpacks to at most ``CI_RATIO`` times its stored size and ``CI_SLACK`` bytes."""
MAX_DICTIONARY = 1 << 15
CONTEXT_SIZE = 40
_BLOB_ID = re.compile(rb"[0-9A-Za-z][0-9A-Za-z._-]{0,254}")
_INTERNAL_FEATURE = 0x80000000
_NO_STORED_PLACE = BlobFeature.ZRAN | BlobFeature.BATCH | BlobFeature.TARFS | BlobFeature.EXTERNAL
"""Blobs whose chunk records do not bound where the stored bytes lie."""
_NO_CHUNK_INFO = BlobFeature.TARFS | BlobFeature.CHUNKDICT_GENERATED | BlobFeature.EXTERNAL

Integers = npt.NDArray[np.int64]


def algorithms(value: int) -> tuple[SuperFlag, Compressor, Digester]:
    """The super-block flags with the one compressor and the one digester that they name."""
    known = sum(SuperFlag)  # the single bits
    if value & ~(known | int(SuperFlag.RESERVED)):
        raise FormatError(f"unknown super-block flags {value:#x}")
    compressors = [name for name, flag in COMPRESSOR_FLAG.items() if value & flag]
    digesters = [name for name, flag in DIGESTER_FLAG.items() if value & flag]
    if len(compressors) != 1 or len(digesters) != 1:
        raise FormatError(f"super-block flags {value:#x} do not name one compressor and one digester")
    if value & SuperFlag.CIPHER_NONE and value & SuperFlag.CIPHER_AES_128_XTS:
        raise FormatError(f"super-block flags {value:#x} name two ciphers")
    return SuperFlag(value), compressors[0], digesters[0]


def check_chunk_size(size: int) -> None:
    if not MIN_CHUNK_SIZE <= size <= MAX_CHUNK_SIZE or size & (size - 1):
        raise FormatError(f"chunk size {size:#x} is not a power of two between 4 KiB and 16 MiB")


def check_areas(areas: Iterable[tuple[str, int, int]], length: int) -> None:
    """Named areas (offset, size) must lie inside ``length`` bytes and not overlap. Empty ones do not count."""
    end, before = 0, ""
    for name, start, size in sorted((area for area in areas if area[2]), key=lambda area: area[1]):
        if start + size > length:
            raise FormatError(f"{name} at {start}, {size} bytes, goes beyond the end of the file at {length}")
        if start < end:
            raise FormatError(f"{name} at {start} overlaps the {before}, which ends at {end}")
        end, before = start + size, name


def parse_blob_id(raw: bytes) -> str:
    """A blob id, which becomes part of file names and URLs."""
    if not _BLOB_ID.fullmatch(raw):
        raise FormatError(f"not a blob id: {raw[:80]!r}")
    return raw.decode("ascii")


def parse_features(value: int) -> BlobFeature:
    if value & 0xFFFF & ~KNOWN_LOW_FEATURES or value & _INTERNAL_FEATURE:
        raise FormatError(f"unknown blob features {value:#x}")
    return BlobFeature(value)


def has_placeholder_id(features: BlobFeature) -> bool:
    """Whether the id in the table is not the blob's own, because the bootstrap was written inside that blob."""
    inlined = BlobFeature.INLINED_FS_META in features
    if inlined and not features & (BlobFeature.SEPARATE | BlobFeature.EXTERNAL):
        return True
    return BlobFeature.CAP_TAR_TOC not in features


def check_blobs(blobs: list[BlobInfo]) -> None:
    """Sizes and counts of a blob table, v5 or v6, and that no blob is in it twice."""
    if len({blob.id for blob in blobs}) != len(blobs):
        raise FormatError("two blobs with one id")
    for blob in blobs:
        if blob.chunk_count > MAX_CHUNKS + 1:
            raise FormatError(f"blob {blob.id}: {blob.chunk_count} chunks")
        if blob.compressed_size > MAX_STORED or blob.uncompressed_size > MAX_PLAIN:
            raise FormatError(f"blob {blob.id}: {blob.compressed_size} bytes stored, {blob.uncompressed_size} plain")


def check_chunk_information(blob: BlobInfo) -> None:
    """What a v6 blob entry says of its chunk-information array."""
    features = blob.features
    special = features & (BlobFeature.ZRAN | BlobFeature.BATCH | BlobFeature.ENCRYPTED)
    if special and BlobFeature.CHUNK_INFO_V2 not in features:
        raise FormatError(f"blob {blob.id}: features {features:#x} without chunk information v2")
    if (BlobFeature.ENCRYPTED in features) != (blob.cipher is not Cipher.NONE):
        raise FormatError(f"blob {blob.id}: the cipher and features {features:#x} disagree")
    if features & _NO_CHUNK_INFO:
        return
    if BlobFeature.ALIGNED not in features:
        raise FormatError(f"blob {blob.id}: its chunks are not aligned, as v6 needs them")
    least = blob.chunk_count * (24 if BlobFeature.CHUNK_INFO_V2 in features else 16)
    context = BlobFeature.BATCH in features and CONTEXT_SIZE
    if BlobFeature.ZRAN in features:
        context = CONTEXT_SIZE + MAX_DICTIONARY
    if not least <= blob.ci_raw_size <= least + context * blob.chunk_count:
        raise FormatError(f"blob {blob.id}: {blob.ci_raw_size} bytes of information on {blob.chunk_count} chunks")
    if not blob.ci_size <= blob.ci_raw_size <= CI_RATIO * blob.ci_size + CI_SLACK:
        raise FormatError(f"blob {blob.id}: chunk information of {blob.ci_size} bytes unpacks to {blob.ci_raw_size}")
    if BlobFeature.SEPARATE not in features and blob.ci_offset + blob.ci_size + BLOCK > blob.compressed_size:
        raise FormatError(f"blob {blob.id}: chunk information beyond its {blob.compressed_size} bytes")


def check_chunks(chunks: ChunkTable, blobs: list[BlobInfo], chunk_size: int) -> None:
    """Every record of a chunk table by itself, and against its blob."""
    if not len(chunks):
        return
    number = chunks["blob"]
    if int(number.max()) >= len(blobs):
        raise FormatError(f"a chunk in blob {int(number.max())}, of {len(blobs)}")
    counts = np.array([blob.chunk_count for blob in blobs], np.uint64)
    plain = np.array([align(blob.uncompressed_size, BLOCK) for blob in blobs], np.uint64)
    stored = np.array([_stored_limit(blob) for blob in blobs], np.uint64)
    usize, csize = chunks["usize"], chunks["csize"]
    if np.any(chunks["index"] >= counts[number]):
        raise FormatError("a chunk number that its blob does not have")
    if np.any(chunks["flags"] & ~np.uint32(0x1F)):
        raise FormatError("a chunk with unknown flags")
    if int(usize.min()) == 0 or int(usize.max()) > chunk_size:
        raise FormatError(f"a chunk of {int(usize.min()) and int(usize.max())} bytes, where a chunk has {chunk_size}")
    if not inside(chunks["uoffset"], usize, plain[number]) or not inside(chunks["coffset"], csize, stored[number]):
        raise FormatError("a chunk beyond the end of its blob")
    _check_stored_sizes(chunks, blobs)


def _stored_limit(blob: BlobInfo) -> int:
    return 2 * MAX_STORED if blob.features & _NO_STORED_PLACE else blob.compressed_size


def inside(offset: npt.NDArray[np.uint64], size: npt.NDArray[np.uint32], limit: npt.NDArray[np.uint64]) -> bool:
    return not np.any((offset > limit) | (size > limit - np.minimum(offset, limit)))


def _check_stored_sizes(chunks: ChunkTable, blobs: list[BlobInfo]) -> None:
    """A chunk is stored in fewer bytes than it has, or as it is."""
    free = BlobFeature.ZRAN | BlobFeature.BATCH | BlobFeature.ENCRYPTED | BlobFeature.EXTERNAL | BlobFeature.TARFS
    ordinary = np.array([not b.features & free and b.compressor is not Compressor.GZIP for b in blobs])[chunks["blob"]]
    packed = chunks["flags"] & ChunkFlag.COMPRESSED != 0
    csize, usize = chunks["csize"], chunks["usize"]
    if np.any(ordinary & ((csize == 0) | np.where(packed, csize > usize, csize != usize))):
        raise FormatError("a chunk whose stored size does not fit its plain size")


def check_file_chunks(sizes: Integers, counts: Integers, usizes: Integers, chunk_size: int) -> None:
    """Files of ``sizes`` bytes, with ``counts`` chunks each, whose plain sizes follow one another in ``usizes``."""
    if np.any(counts != -(-sizes // chunk_size)):
        raise FormatError("a file whose size and number of chunks disagree")
    wanted = np.full(len(usizes), chunk_size, np.int64)
    filled = counts > 0
    wanted[np.cumsum(counts)[filled] - 1] = (sizes[filled] - 1) % chunk_size + 1
    if not np.array_equal(wanted, usizes):
        raise FormatError("a file whose size and the sizes of its chunks disagree")


def prefetch_paths(entries: list[int], step: Callable[[int], tuple[bytes, int]]) -> list[bytes]:
    """The path of each entry; ``step`` gives the name of an entry and the entry of its directory, -1 for the root."""
    paths, total = [], 0
    for entry in entries:
        parts: list[bytes] = []
        while entry >= 0:
            name, entry = step(entry)
            parts.append(name)
        paths.append(b"/" + b"/".join(reversed(parts)))
        total += len(paths[-1])
        if total > MAX_PREFETCH:
            raise FormatError(f"a prefetch table with more than {MAX_PREFETCH} bytes of paths")
    return paths
