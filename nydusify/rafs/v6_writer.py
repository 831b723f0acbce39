"""Writes a RAFS v6 bootstrap: an EROFS image whose file data lie on devices, one a blob."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nydusify.errors import FormatError, UnsupportedError
from nydusify.rafs import v6
from nydusify.rafs.numbering import Ints, Numbering, check_sizes, chunk_references, number_tree, within
from nydusify.rafs.prefetch import prefetched
from nydusify.rafs.spec import BLOCK, MAX_BLOBS, BlobFeature, SuperFlag, align
from nydusify.rafs.tree import BlobInfo, Bootstrap, ChunkTable, Inode
from nydusify.rafs.v6_nodes import Nodes, lay_out, write_directories
from nydusify.rafs.writer import super_flags


def write_v6(bootstrap: Bootstrap) -> bytes:
    """The bytes of a v6 bootstrap, a multiple of 4096. Raises `FormatError`, `UnsupportedError`."""
    if len(bootstrap.blobs) > MAX_BLOBS:
        raise UnsupportedError(f"{len(bootstrap.blobs)} blobs; RAFS v6 holds {MAX_BLOBS}")
    numbering = number_tree(bootstrap.root)
    counts, references = chunk_references(numbering)
    check_sizes(bootstrap, numbering, counts)
    nodes = lay_out(numbering, counts)
    blob_table = align(v6.DEVICE_SLOT_OFFSET + v6.DEVICE_SLOT.itemsize * len(bootstrap.blobs), BLOCK)
    prefetch = prefetched(bootstrap, numbering) if bootstrap.blobs else []
    prefetch_table = blob_table + v6.BLOB.itemsize * len(bootstrap.blobs)
    meta = align(prefetch_table + 4 * len(prefetch), BLOCK) if bootstrap.blobs else 0
    chunk_table = meta + align(nodes.end, BLOCK)
    chunks = _chunk_table(bootstrap.chunks, references, counts, bootstrap.chunk_size)
    image = np.zeros(align(chunk_table + chunks.nbytes, BLOCK), np.uint8)

    area = image[meta:chunk_table]
    meta_block = meta // BLOCK
    _write_inodes(area, bootstrap, numbering, nodes, counts, references, meta_block)
    _write_chunk_indexes(area, bootstrap.chunks, nodes, counts, references)
    write_directories(area, numbering, nodes)
    image[chunk_table : chunk_table + chunks.nbytes] = np.frombuffer(chunks.tobytes(), np.uint8)
    table = np.array([nodes.offsets[number] // v6.NID_SIZE for number in prefetch], "<u4").tobytes()
    layout = _Layout(blob_table, prefetch_table, len(table), chunk_table, chunks.nbytes, meta_block)
    head = _head(bootstrap, numbering, layout, len(image)) + table
    image[: len(head)] = np.frombuffer(head, np.uint8)
    return image.tobytes()


@dataclass(frozen=True, slots=True)
class _Layout:
    blob_table: int
    prefetch_table: int
    prefetch_size: int
    chunk_table: int
    chunk_table_size: int
    meta_block: int


def _chunk_table(chunks: ChunkTable, references: Ints, counts: Ints, chunk_size: int) -> ChunkTable:
    """Every chunk that a file refers to, once, in the order of digests and blobs."""
    offsets = np.zeros(len(chunks), np.uint64)
    offsets[references] = (within(counts) * chunk_size).astype(np.uint64)
    used = np.unique(references)
    table = np.ascontiguousarray(chunks[used])
    table["file_offset"] = offsets[used]
    words = np.frombuffer(table["digest"].tobytes(), ">u8").reshape(-1, 4)
    order = np.lexsort((table["index"], table["blob"], words[:, 3], words[:, 2], words[:, 1], words[:, 0]))
    return table[order]


def _write_inodes(
    area: npt.NDArray[np.uint8],
    bootstrap: Bootstrap,
    numbering: Numbering,
    nodes: Nodes,
    counts: Ints,
    references: Ints,
    meta_block: int,
) -> None:
    records = np.zeros(len(numbering.inodes), v6.INODE_EXTENDED)
    for name in ("mode", "uid", "gid", "mtime", "mtime_ns"):
        records[name] = numbering.column(name, v6.INODE_EXTENDED[name].str)
    records["size"] = nodes.sizes
    records["format"] = v6.FORMAT_EXTENDED | nodes.layouts << 1
    records["ino"] = np.arange(1, len(records) + 1)
    records["nlink"] = numbering.links
    records["private"] = [
        (v6.PRIVATE_IMPLICIT if inode.implicit else 0) | (v6.PRIVATE_LOWER_LINK if inode.lower_link else 0)
        for inode in numbering.inodes
    ]
    records["u"] = numbering.column("rdev", "<u4")
    has_data = nodes.blocks >= 0
    records["u"][has_data] = nodes.blocks[has_data] + meta_block
    chunked = nodes.layouts == v6.LAYOUT_CHUNKED
    records["u"][chunked] = _chunk_formats(bootstrap, nodes, counts, references)[chunked]
    for number, xattrs in nodes.xattrs.items():
        records["xattr_count"][number] = (len(xattrs) - v6.XATTR_HEADER_SIZE) // 4 + 1
        start = nodes.offsets[number] + v6.INODE_EXTENDED.itemsize
        area[start : start + len(xattrs)] = np.frombuffer(xattrs, np.uint8)
    slots = area.reshape(-1, v6.NID_SIZE)
    halves = np.frombuffer(records.tobytes(), np.uint8).reshape(-1, 2, v6.NID_SIZE)
    places = nodes.offsets // v6.NID_SIZE
    slots[places] = halves[:, 0]
    slots[places + 1] = halves[:, 1]


def _chunk_formats(bootstrap: Bootstrap, nodes: Nodes, counts: Ints, references: Ints) -> npt.NDArray[np.uint32]:
    """`i_u` of chunked files: chunk size in bits above a block's.

    A file whose chunks lie one behind the other in one blob gets a size that makes it a single extent.
    """
    bits = bootstrap.chunk_size.bit_length() - 1
    formats = np.full(len(counts), v6.CHUNK_FORMAT_INDEXES | bits - v6.BLOCK_BITS, np.uint32)
    starts = np.cumsum(counts) - counts
    blobs, offsets = bootstrap.chunks["blob"], bootstrap.chunks["uoffset"].astype(np.int64)
    for number in np.flatnonzero(counts > 1).tolist():
        rows = references[starts[number] : starts[number] + counts[number]]
        if (blobs[rows] == blobs[rows[0]]).all() and (np.diff(offsets[rows]) == bootstrap.chunk_size).all():
            whole = (int(nodes.sizes[number]) - 1).bit_length()
            formats[number] = v6.CHUNK_FORMAT_INDEXES | whole - v6.BLOCK_BITS
    return formats


def _write_chunk_indexes(
    area: npt.NDArray[np.uint8], chunks: ChunkTable, nodes: Nodes, counts: Ints, references: Ints
) -> None:
    if not len(references):
        return
    rows = chunks[references]
    blocks = rows["uoffset"] // BLOCK
    if int(blocks.max()) >> 32:
        raise FormatError("a blob's plain data are larger than 16 TiB")
    indexes = np.zeros(len(rows), v6.CHUNK_INDEX)
    indexes["index_low"], indexes["index_high"] = rows["index"] & 0xFFFF, rows["index"] >> 16
    indexes["device"], indexes["block"] = rows["blob"] + 1, blocks
    places = np.repeat(nodes.chunk_indexes // 8, counts) + within(counts)
    area.view("<u8")[places] = np.frombuffer(indexes.tobytes(), "<u8")


def _head(bootstrap: Bootstrap, numbering: Numbering, layout: _Layout, length: int) -> bytes:
    """Everything in front of the prefetch table: super blocks, device slots, blob table."""
    blobs = bootstrap.blobs
    slots = np.zeros(len(blobs), v6.DEVICE_SLOT)
    position = length
    for slot, blob in zip(slots, blobs, strict=True):
        position = align(position, v6.DEVICE_ALIGNMENT)
        slot["id"], slot["blocks"] = blob.id.encode(), blob.uncompressed_size // BLOCK
        slot["mapped_block"] = position // BLOCK
        position += int(slot["blocks"]) * BLOCK
    block = np.zeros(1, v6.SUPER_BLOCK)
    block["magic"], block["feature_compat"] = v6.MAGIC, v6.FEATURE_COMPAT_RAFS
    block["block_bits"], block["root_nid"] = v6.BLOCK_BITS, v6.ROOT_NID
    block["inos"], block["blocks"] = numbering.entries, slots["blocks"].sum()
    block["meta_block"], block["feature_incompat"] = layout.meta_block, v6.FEATURE_INCOMPAT
    block["devices"], block["device_slot"] = len(blobs), v6.DEVICE_TABLE_SLOT
    extended = np.zeros(1, v6.EXTENDED_SUPER_BLOCK)
    extended["flags"] = int(_flags(bootstrap, numbering.inodes))
    extended["blob_table"], extended["blob_table_size"] = layout.blob_table, v6.BLOB.itemsize * len(blobs)
    extended["chunk_size"] = bootstrap.chunk_size
    extended["chunk_table"], extended["chunk_table_size"] = layout.chunk_table, layout.chunk_table_size
    if layout.prefetch_size:
        extended["prefetch_table"], extended["prefetch_table_size"] = layout.prefetch_table, layout.prefetch_size
    head = bytes(v6.SUPER_BLOCK_OFFSET) + block.tobytes() + extended.tobytes() + slots.tobytes()
    return head.ljust(layout.blob_table, b"\0") + _blob_table(blobs)


def _flags(bootstrap: Bootstrap, inodes: list[Inode]) -> SuperFlag:
    flags = super_flags(bootstrap, any(inode.xattrs for inode in inodes)) | SuperFlag.CIPHER_NONE
    if all(blob.features & BlobFeature.INLINED_CHUNK_DIGEST for blob in bootstrap.blobs):
        flags |= SuperFlag.INLINED_CHUNK_DIGESTS
    return flags


def _blob_table(blobs: list[BlobInfo]) -> bytes:
    table = np.zeros(len(blobs), v6.BLOB)
    for index, (row, blob) in enumerate(zip(table, blobs, strict=True)):
        row["id"], row["index"], row["features"] = blob.id.encode(), index, int(blob.features)
        row["chunk_size"], row["chunk_count"] = blob.chunk_size, blob.chunk_count
        row["compressor"], row["digester"] = int(blob.compressor), int(blob.digester)
        row["csize"], row["usize"] = blob.compressed_size, blob.uncompressed_size
        row["ci_compressor"], row["ci_offset"] = int(blob.ci_compressor), blob.ci_offset
        row["ci_csize"], row["ci_usize"] = blob.ci_size, blob.ci_raw_size
        row["toc_size"], row["toc_digest"] = blob.toc_size, blob.toc_digest
        row["meta_digest"], row["meta_size"] = blob.meta_digest, blob.meta_size
    return table.tobytes()
