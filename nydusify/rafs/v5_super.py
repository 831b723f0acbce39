"""Super block and tables of a v5 bootstrap."""

import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nydusify.errors import FormatError
from nydusify.rafs import v5
from nydusify.rafs.spec import Compressor, Digester, SuperFlag
from nydusify.rafs.tree import BlobInfo, ChunkTable
from nydusify.rafs.validate import (
    algorithms,
    check_areas,
    check_blobs,
    check_chunk_size,
    has_placeholder_id,
    parse_blob_id,
    parse_features,
)

_READAHEAD = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class SuperBlock:
    """Everything of a v5 bootstrap but its inodes."""

    flags: SuperFlag
    compressor: Compressor
    digester: Digester
    chunk_size: int
    offsets: npt.NDArray[np.int64]
    """Where the record of index 1, 2… lies, in bytes."""
    blobs: list[BlobInfo]
    sized: bool
    """False for very old images, whose blob table has no sizes and counts."""
    prefetch: list[int]
    """Inode numbers."""


def read_super_block(data: bytes, blob_id: str | None) -> SuperBlock:
    """Read and check super block and tables. Raises `FormatError`."""
    if not v5.SUPER_BLOCK_SIZE < len(data) <= v5.MAX_BOOTSTRAP or len(data) % v5.ALIGNMENT:
        raise FormatError(f"a v5 bootstrap of {len(data)} bytes")
    sb = np.frombuffer(data, v5.SUPER_BLOCK, 1)[0]
    if int(sb["version"]) != v5.VERSION or int(sb["size"]) != v5.SUPER_BLOCK_SIZE:
        raise FormatError(f"RAFS version {int(sb['version']):#x} with a super block of {int(sb['size'])} bytes")
    flags, compressor, digester = algorithms(int(sb["flags"]))
    chunk_size = int(sb["chunk_size"])
    check_chunk_size(chunk_size)
    _check_tables(sb, len(data))
    blobs = [
        _blob(name, entry, blob_id, chunk_size, compressor, digester)
        for name, entry in zip(_blob_ids(data, sb), _extended(data, sb), strict=False)
    ]
    check_blobs(blobs)
    return SuperBlock(
        flags=flags,
        compressor=compressor,
        digester=digester,
        chunk_size=chunk_size,
        offsets=_offsets(data, sb),
        blobs=blobs,
        sized=int(sb["extended_entries"]) > 0,
        prefetch=_prefetch(data, sb),
    )


def _check_tables(sb: Any, length: int) -> None:
    areas = [
        ("super block", 0, v5.SUPER_BLOCK_SIZE),
        ("inode table", int(sb["inode_table"]), 4 * int(sb["inode_entries"])),
        ("prefetch table", int(sb["prefetch_table"]), 4 * int(sb["prefetch_entries"])),
        ("blob table", int(sb["blob_table"]), int(sb["blob_table_size"])),
        ("extended blob table", int(sb["extended_table"]), v5.EXTENDED_BLOB.itemsize * int(sb["extended_entries"])),
    ]
    check_areas(areas, length)
    for name, start, size in areas:
        if size and start % v5.ALIGNMENT:
            raise FormatError(f"{name} at {start}, which is not a multiple of 8")
    if not 0 < int(sb["inode_count"]) <= int(sb["inode_entries"]):
        raise FormatError(f"{int(sb['inode_count'])} inodes in a table of {int(sb['inode_entries'])}")
    if int(sb["inode_entries"]) * v5.INODE.itemsize > length:
        raise FormatError(f"{int(sb['inode_entries'])} inodes in a file of {length} bytes")


def _offsets(data: bytes, sb: Any) -> npt.NDArray[np.int64]:
    table = np.frombuffer(data, "<u4", int(sb["inode_entries"]), int(sb["inode_table"]))
    offsets = table.astype(np.int64) * v5.ALIGNMENT
    if int(offsets.min()) < v5.SUPER_BLOCK_SIZE or int(offsets.max()) + v5.INODE.itemsize > len(data):
        raise FormatError("an inode record outside the file, or in the super block")
    return offsets


def _blob_ids(data: bytes, sb: Any) -> list[bytes]:
    start = int(sb["blob_table"]) if int(sb["blob_table_size"]) else 0
    table = data[start : start + int(sb["blob_table_size"])]
    names, position = [], 0
    while len(table) - position > _READAHEAD.size:
        position += _READAHEAD.size
        end = table.find(b"\0", position)
        end = len(table) if end < 0 else end
        names.append(table[position:end])
        position = end + 1
    if int(sb["extended_entries"]) and int(sb["extended_entries"]) < len(names):
        raise FormatError(f"{int(sb['extended_entries'])} extended entries for {len(names)} blobs")
    return names


def _extended(data: bytes, sb: Any) -> Any:
    """The extended entries; zeros where there are none."""
    count = int(sb["extended_entries"])
    if count:
        return np.frombuffer(data, v5.EXTENDED_BLOB, count, int(sb["extended_table"]))
    return np.zeros(int(sb["blob_table_size"]) // _READAHEAD.size, v5.EXTENDED_BLOB)


def _blob(
    raw: bytes, entry: Any, blob_id: str | None, chunk_size: int, compressor: Compressor, digester: Digester
) -> BlobInfo:
    features = parse_features(int(entry["features"]))
    name = parse_blob_id(raw)
    if blob_id is not None and has_placeholder_id(features):
        name = parse_blob_id(blob_id.encode("ascii", "replace"))
    return BlobInfo(
        id=name,
        compressed_size=int(entry["csize"]),
        uncompressed_size=int(entry["usize"]),
        chunk_count=int(entry["chunk_count"]),
        chunk_size=chunk_size,
        compressor=compressor,
        digester=digester,
        features=features,
    )


def sized_blobs(blobs: list[BlobInfo], chunks: ChunkTable) -> list[BlobInfo]:
    """Blobs of an image without sizes, which get those that hold the chunks known here."""
    filled = []
    for number, blob in enumerate(blobs):
        own = chunks[chunks["blob"] == number]
        if len(own):
            stored, plain = own["coffset"] + own["csize"], own["uoffset"] + own["usize"]
            sizes = (int(stored.max()), int(plain.max()), int(own["index"].max()) + 1)
            blob = replace(blob, compressed_size=sizes[0], uncompressed_size=sizes[1], chunk_count=sizes[2])
        filled.append(blob)
    return filled


def _prefetch(data: bytes, sb: Any) -> list[int]:
    """Inode numbers up to the first zero."""
    count = int(sb["prefetch_entries"])
    inos = np.frombuffer(data, "<u4", count, int(sb["prefetch_table"]) if count else 0)
    stops = np.flatnonzero(inos == 0)
    found: list[int] = inos[: stops[0] if len(stops) else count].tolist()
    return found
