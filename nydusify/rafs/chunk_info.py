"""Chunk information: where each chunk of a v6 blob lies, and the contexts to decode zran and batch chunks in.

Source: nydus, storage/src/meta/ (chunk_info_v1.rs, chunk_info_v2.rs, zran.rs, batch.rs).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nydusify.errors import FormatError
from nydusify.rafs import blob as fmt
from nydusify.rafs.blob import ChunkInfoFlag
from nydusify.rafs.spec import BLOCK, BlobFeature, Compressor, align
from nydusify.rafs.tree import BlobInfo
from nydusify.rafs.validate import MAX_DICTIONARY

MAX_CONTEXT_OUTPUT = 16 << 20
"""Bytes that one zran context may unpack to."""
SHORTEST_ENCRYPTED = 18
"""What a unit of less than 16 bytes is stored in."""

Words = npt.NDArray[np.uint64]
_OFFSET = np.uint64((1 << 40) - 1)
_KNOWN_FLAGS = np.uint64(sum(ChunkInfoFlag))
_WRITTEN_LATER = BlobFeature.INLINED_FS_META
"""Features that a merge changes in the blob entry, but not in the blob."""


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """Columns over the chunks of a blob, in their order. Offsets and sizes in bytes, ``c…`` stored and ``u…`` plain."""

    coffset: Words
    csize: Words
    uoffset: Words
    usize: Words
    flags: Words
    """`ChunkInfoFlag`."""
    data: Words
    """As in `blob.CHUNK_INFO_V2`; zeros in version 1."""
    contexts: npt.NDArray[np.void]
    """`blob.ZRAN_CONTEXT` or `blob.BATCH_CONTEXT` records."""
    dictionaries: bytes
    """Of the zran contexts, which say where."""


def parse_chunk_info(info: BlobInfo, array: bytes, header: bytes) -> ChunkInfo:
    """Parse and check the plain ``array`` (``ci_raw_size`` bytes) and its 4096-byte ``header``.

    Raises `FormatError` for whatever contradicts ``info``, itself, or the format. Memory grows with ``array`` alone.
    """
    if len(array) != info.ci_raw_size or len(header) != fmt.CI_HEADER_SIZE:
        raise FormatError(f"blob {info.id}: {len(array)} bytes of chunk information, {info.ci_raw_size} were announced")
    record = np.frombuffer(header, fmt.CI_HEADER)[0]
    _check_header(record, info)
    contexts, dictionaries = _contexts(array, record, info)
    if BlobFeature.CHUNK_INFO_V2 in info.features:
        columns = _version_2(np.frombuffer(array, fmt.CHUNK_INFO_V2, info.chunk_count))
    else:
        columns = _version_1(np.frombuffer(array, fmt.CHUNK_INFO_V1, info.chunk_count))
    coffset, csize, uoffset, usize, flags, data = columns
    chunk_info = ChunkInfo(coffset, csize, uoffset, usize, flags, data, contexts, dictionaries)
    _check_entries(chunk_info, info)
    if BlobFeature.ZRAN in info.features:
        _check_zran(chunk_info, info)
    elif BlobFeature.BATCH in info.features:
        _check_batch(chunk_info, info)
    return chunk_info


def _check_header(header: Any, info: BlobInfo) -> None:
    if int(header["magic"]) != fmt.CI_MAGIC or int(header["magic2"]) != fmt.CI_MAGIC:
        raise FormatError(f"blob {info.id}: the header of its chunk information lacks the magic number")
    if (int(header["features"]) ^ int(info.features)) & ~int(_WRITTEN_LATER):
        raise FormatError(
            f"blob {info.id}: features {int(header['features']):#x} in the blob, {info.features:#x} outside"
        )
    for name, wanted in (
        ("ci_compressor", int(info.ci_compressor)),
        ("entries", info.chunk_count),
        ("ci_offset", info.ci_offset),
        ("ci_csize", info.ci_size),
        ("ci_usize", info.ci_raw_size),
    ):
        if int(header[name]) != wanted:
            raise FormatError(f"blob {info.id}: {name} is {int(header[name])} in the blob, {wanted} in its entry")


def _version_1(entries: Any) -> tuple[Words, ...]:
    u, c = entries["u"], entries["c"]
    usize = (u >> np.uint64(44) | (u >> np.uint64(8) & np.uint64(0xF)) << np.uint64(20)) + np.uint64(1)
    csize = (c >> np.uint64(44) | (c >> np.uint64(40) & np.uint64(0xF)) << np.uint64(20)) + np.uint64(1)
    flags = np.where(csize != usize, np.uint64(ChunkInfoFlag.COMPRESSED), np.uint64(0))
    return c & _OFFSET, csize, u & np.uint64(0xFFFFFFFF000), usize, flags, np.zeros(len(u), np.uint64)


def _version_2(entries: Any) -> tuple[Words, ...]:
    u, c = entries["u"], entries["c"]
    uoffset = (u & np.uint64(0xFFFFFFFF)) << np.uint64(12)
    usize = (u >> np.uint64(32) & np.uint64(0xFFFFFF)) + np.uint64(1)
    return c & _OFFSET, c >> np.uint64(40), uoffset, usize, u >> np.uint64(56), entries["data"].astype(np.uint64)


def _contexts(array: bytes, header: Any, info: BlobInfo) -> tuple[npt.NDArray[np.void], bytes]:
    """The context table behind the entries, and the dictionaries behind that."""
    offset, size, count = int(header["contexts_offset"]), int(header["contexts_size"]), int(header["contexts"])
    entries = info.chunk_count * (24 if BlobFeature.CHUNK_INFO_V2 in info.features else 16)
    record = fmt.ZRAN_CONTEXT if BlobFeature.ZRAN in info.features else fmt.BATCH_CONTEXT
    if not info.features & (BlobFeature.ZRAN | BlobFeature.BATCH):
        if len(array) != entries or size or count:
            raise FormatError(f"blob {info.id}: {len(array)} bytes of information on {info.chunk_count} chunks")
        return np.empty(0, record), b""
    table = count * record.itemsize
    if offset != entries or offset + size != len(array) or count > info.chunk_count or table > size:
        raise FormatError(f"blob {info.id}: {count} contexts, {size} bytes at {offset} of {len(array)}")
    if BlobFeature.BATCH in info.features and table != size:
        raise FormatError(f"blob {info.id}: {count} batches in {size} bytes")
    return np.frombuffer(array, record, count, offset), array[offset + table :]


def chunk_area(info: BlobInfo) -> int:
    """Bytes at the start of a blob that hold chunks. Without chunk information behind them, all."""
    if BlobFeature.SEPARATE in info.features or BlobFeature.CAP_TAR_TOC not in info.features:
        return info.compressed_size
    end = info.ci_offset if info.ci_raw_size else info.compressed_size
    return end - 512 if BlobFeature.HAS_TAR_HEADER in info.features else end


def _check_entries(chunks: ChunkInfo, info: BlobInfo) -> None:
    flags, csize, usize = chunks.flags, chunks.csize, chunks.usize
    compressed, encrypted = _has(flags, ChunkInfoFlag.COMPRESSED), _has(flags, ChunkInfoFlag.ENCRYPTED)
    zran, batch, crc = (_has(flags, f) for f in (ChunkInfoFlag.ZRAN, ChunkInfoFlag.BATCH, ChunkInfoFlag.HAS_CRC))
    for known, bad in (
        ("with unknown flags", flags & ~_KNOWN_FLAGS != 0),
        ("of another kind than its blob", _wrong_kind(zran, batch, encrypted, info)),
        ("with the crc of a kind that has none", crc & (zran | batch)),
        ("with an empty crc", crc & (chunks.data == 0)),
        ("of more bytes than a chunk has", usize > info.chunk_size),
        ("beyond the plain end of its blob", _beyond(chunks.uoffset, usize, align(info.uncompressed_size, BLOCK))),
        ("beyond the end of the chunks", _beyond(chunks.coffset, csize, max(chunk_area(info), 0))),
        ("without stored bytes", (csize == 0) & ~batch & ~zran),
        ("stored as it is in another size", ~(compressed | encrypted | zran | batch) & (csize != usize)),
        ("that grew when it was stored", _grew(chunks, encrypted, zran | batch, info)),
    ):
        if np.any(bad):
            raise FormatError(f"blob {info.id}: information on a chunk {known}")
    if np.any(chunks.uoffset[1:] < chunks.uoffset[:-1] + usize[:-1]):
        raise FormatError(f"blob {info.id}: chunks that are out of order or overlap")


def _has(flags: Words, flag: ChunkInfoFlag) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = flags & np.uint64(flag) != 0
    return found


def _wrong_kind(
    zran: npt.NDArray[np.bool_], batch: npt.NDArray[np.bool_], encrypted: npt.NDArray[np.bool_], info: BlobInfo
) -> npt.NDArray[np.bool_]:
    wrong = zran & batch
    for marked, feature in ((zran, BlobFeature.ZRAN), (batch, BlobFeature.BATCH), (encrypted, BlobFeature.ENCRYPTED)):
        if feature not in info.features:
            wrong = wrong | marked
    return wrong


def _beyond(offset: Words, size: Words, limit: int) -> npt.NDArray[np.bool_]:
    """No overflow: offsets and sizes have at most 44 bits."""
    beyond: npt.NDArray[np.bool_] = offset + size > np.uint64(limit)
    return beyond


def _grew(
    chunks: ChunkInfo, encrypted: npt.NDArray[np.bool_], elsewhere: npt.NDArray[np.bool_], info: BlobInfo
) -> npt.NDArray[np.bool_]:
    """Only encryption adds bytes, and only to short units; a gzip member may be longer than what it holds."""
    if info.compressor is Compressor.GZIP:
        return np.zeros(len(chunks.csize), np.bool_)
    longest = np.where(encrypted, np.maximum(chunks.usize, np.uint64(SHORTEST_ENCRYPTED)), chunks.usize)
    return (chunks.csize > longest) & ~elsewhere


def _check_references(chunks: ChunkInfo, flag: ChunkInfoFlag, sizes: Words, info: BlobInfo) -> Words:
    """Each chunk's context number, for the chunks that have one; they must lie inside its ``sizes`` bytes of output."""
    with_context = _has(chunks.flags, flag)
    number = chunks.data[with_context] >> np.uint64(32)
    offset = chunks.data[with_context] & np.uint64(0xFFFFFFFF)
    if np.any(number >= np.uint64(len(sizes))):
        raise FormatError(f"blob {info.id}: a chunk in a context that does not exist")
    if np.any(offset + chunks.usize[with_context] > sizes[number.astype(np.int64)]):
        raise FormatError(f"blob {info.id}: a chunk beyond what its context holds")
    return number


def _check_zran(chunks: ChunkInfo, info: BlobInfo) -> None:
    contexts = chunks.contexts
    out_size = contexts["out_size"].astype(np.uint64)
    limit = np.uint64(info.compressed_size)
    in_offset, in_size = contexts["in_offset"], contexts["in_size"].astype(np.uint64)
    dict_offset, dict_size = contexts["dict_offset"], contexts["dict_size"].astype(np.uint64)
    room = np.uint64(len(chunks.dictionaries))
    for what, bad in (
        ("beyond the end of its layer", (in_offset > limit) | (in_size > limit - np.minimum(in_offset, limit))),
        ("with too much output", out_size > MAX_CONTEXT_OUTPUT),
        ("with too long a dictionary", dict_size > MAX_DICTIONARY),
        (
            "with a dictionary outside the table",
            (dict_offset > room) | (dict_size > room - np.minimum(dict_offset, room)),
        ),
        ("that starts at bit 8 or later", contexts["bits"] > 7),
    ):
        if np.any(bad):
            raise FormatError(f"blob {info.id}: a zran context {what}")
    _check_references(chunks, ChunkInfoFlag.ZRAN, out_size, info)


def _check_batch(chunks: ChunkInfo, info: BlobInfo) -> None:
    csize, usize = chunks.contexts["csize"].astype(np.uint64), chunks.contexts["usize"].astype(np.uint64)
    encrypted = BlobFeature.ENCRYPTED in info.features
    longest = np.maximum(usize, np.uint64(SHORTEST_ENCRYPTED)) if encrypted else usize
    if np.any(usize > info.chunk_size) or np.any(csize > longest) or np.any(csize == 0):
        raise FormatError(f"blob {info.id}: a batch whose sizes do not fit together")
    number = _check_references(chunks, ChunkInfoFlag.BATCH, usize, info)
    starts = chunks.coffset[_has(chunks.flags, ChunkInfoFlag.BATCH)]
    if np.any(_beyond(starts, csize[number.astype(np.int64)], max(chunk_area(info), 0))):
        raise FormatError(f"blob {info.id}: a batch beyond the end of the chunks")
