"""From the chunk indexes of v6 files to rows of the chunk table."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nydusify.errors import FormatError
from nydusify.rafs import v6
from nydusify.rafs.inode_table import Column, ragged
from nydusify.rafs.spec import CHUNK
from nydusify.rafs.tree import ChunkTable
from nydusify.rafs.v6_super import SuperBlock
from nydusify.rafs.validate import check_chunks, check_file_chunks

_BLOB_SHIFT, _INDEX_SHIFT = 56, 32
"""A key is blob index (8 bits), chunk index (24), block address (32): what an index entry names a record by."""


@dataclass(frozen=True, slots=True)
class FileChunks:
    """Columns over the regular files: row in the inode table, bytes, chunks, where the indexes start, chunk format."""

    files: Column
    sizes: Column
    counts: Column
    starts: Column
    chunk_format: Column


@dataclass(frozen=True, slots=True)
class _Indexes:
    """Columns over all chunk indexes of all files."""

    blob: npt.NDArray[np.uint64]
    index: npt.NDArray[np.uint64]
    block: npt.NDArray[np.uint64]


def read_chunks(data: bytes, sb: SuperBlock, files: FileChunks) -> tuple[ChunkTable, Column]:
    """The checked chunk table, by blob and chunk number, and the rows in it of file after file."""
    check_chunks(sb.chunks, sb.blobs, sb.chunk_size)
    uoffset = sb.chunks["uoffset"]
    if np.any(uoffset & np.uint64((1 << sb.block_bits) - 1)) or np.any(uoffset >> np.uint64(sb.block_bits + 32)):
        raise FormatError("a chunk that does not start on a block, or beyond the last block")
    keys = _keys(sb.chunks["blob"], sb.chunks["index"], uoffset >> np.uint64(sb.block_bits))
    order = np.argsort(keys)
    keys = keys[order]
    if np.any(keys[1:] == keys[:-1]):
        raise FormatError("two records for one chunk")
    wanted = _read_indexes(data, sb, files)
    wanted_keys = _keys(wanted.blob, wanted.index, wanted.block)
    rows = np.searchsorted(keys, wanted_keys)
    if len(rows) and (int(rows.max()) >= len(keys) or np.any(keys[rows] != wanted_keys)):
        raise FormatError("a chunk index without a record in the chunk table")
    chunks = sb.chunks[order]
    check_file_chunks(files.sizes, files.counts, chunks["usize"][rows], sb.chunk_size)
    return chunks, rows


def read_tarfs_chunks(data: bytes, sb: SuperBlock, files: FileChunks) -> tuple[ChunkTable, Column]:
    """One record for each chunk, in the order of the files: the stored table of a tarfs image is useless."""
    wanted = _read_indexes(data, sb, files)
    chunks = np.zeros(len(wanted.blob), CHUNK)
    chunks["blob"], chunks["index"] = wanted.blob, wanted.index
    chunks["uoffset"] = chunks["coffset"] = wanted.block << np.uint64(sb.block_bits)
    ends = np.cumsum(files.counts)
    chunks["usize"] = sb.chunk_size
    filled = files.counts > 0
    chunks["usize"][ends[filled] - 1] = (files.sizes[filled] - 1) % sb.chunk_size + 1
    chunks["csize"] = chunks["usize"]
    numbers = np.arange(len(chunks)) - np.repeat(ends - files.counts, files.counts)
    chunks["file_offset"] = numbers * sb.chunk_size
    check_chunks(chunks, sb.blobs, sb.chunk_size)
    return chunks, np.arange(len(chunks))


def _keys(blob: Column, index: Column, block: Column) -> Column:
    keys: Column = blob.astype(np.uint64) << np.uint64(_BLOB_SHIFT)
    keys |= index.astype(np.uint64) << np.uint64(_INDEX_SHIFT)
    keys |= block.astype(np.uint64)
    return keys


def _read_indexes(data: bytes, sb: SuperBlock, files: FileChunks) -> _Indexes:
    words = np.frombuffer(data, "<u8", len(data) // 8)
    entries = words[ragged(files.starts // 8, files.counts)].view(v6.CHUNK_INDEX)
    device = entries["device"]
    if np.any(device == 0) or (len(device) and int(device.max()) > len(sb.blobs)):
        raise FormatError("a chunk index of a device that does not exist")
    index = entries["index_low"].astype(np.uint64) | entries["index_high"].astype(np.uint64) << np.uint64(16)
    indexes = _Indexes(device.astype(np.uint64) - np.uint64(1), index, entries["block"].astype(np.uint64))
    _check_format(sb, files, indexes)
    return indexes


def _check_format(sb: SuperBlock, files: FileChunks, indexes: _Indexes) -> None:
    """EROFS may see larger chunks than RAFS; then it uses the first index of a file only, and the rest must follow."""
    chunk_format = files.chunk_format.astype(np.int64)
    if np.any(chunk_format & ~v6.CHUNK_FORMAT_BITS != v6.CHUNK_FORMAT_INDEXES):
        raise FormatError("a file with an unknown chunk format")
    seen_size = np.int64(1) << ((chunk_format & v6.CHUNK_FORMAT_BITS) + sb.block_bits)
    if np.any(seen_size < sb.chunk_size):
        raise FormatError("a file with smaller chunks than its file system")
    merged = (seen_size > sb.chunk_size) & (files.counts > 1)
    if np.any(seen_size[merged] < files.sizes[merged]):
        raise FormatError("a file whose chunks are larger than those of its file system, but not the whole file")
    within = np.repeat(merged, files.counts)[1:] & (np.diff(np.repeat(np.arange(len(merged)), files.counts)) == 0)
    step = sb.chunk_size >> sb.block_bits
    follows = (np.diff(indexes.blob) == 0) & (indexes.block[1:] == indexes.block[:-1] + np.uint64(step))
    if np.any(within & ~follows):
        raise FormatError("chunks of a file that must follow one another do not")
