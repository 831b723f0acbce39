"""Writes a RAFS v5 bootstrap: tables and one variable-length record an entry."""

import stat
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nydusify.errors import FormatError
from nydusify.rafs import v5
from nydusify.rafs.codec import digest_function
from nydusify.rafs.numbering import (
    Directory,
    Ints,
    Numbering,
    check_sizes,
    chunk_references,
    number_tree,
    with_file_offsets,
)
from nydusify.rafs.prefetch import prefetched
from nydusify.rafs.spec import BLOCK, CHUNK, DIGEST_SIZE, align
from nydusify.rafs.tree import BlobInfo, Bootstrap, Inode
from nydusify.rafs.writer import super_flags

_SECTOR = 512


def write_v5(bootstrap: Bootstrap) -> bytes:
    """The bytes of a v5 bootstrap, a multiple of 8. Raises `FormatError`."""
    numbering = number_tree(bootstrap.root)
    counts, references = chunk_references(numbering)
    check_sizes(bootstrap, numbering, counts)
    entries = _Entries(numbering)
    blob_table, extended = _blob_tables(bootstrap.blobs)
    prefetch = [entries.inos[entries.first_entry[number]] for number in prefetched(bootstrap, numbering)]
    inode_table = v5.SUPER_BLOCK_SIZE
    prefetch_table = inode_table + align(4 * len(entries.numbers), v5.ALIGNMENT)
    blobs_at = prefetch_table + align(4 * len(prefetch), v5.ALIGNMENT)
    extended_at = blobs_at + len(blob_table)
    first_record = extended_at + len(extended)

    records = _records(bootstrap, numbering, entries, counts, references)
    offsets = first_record + np.cumsum([0] + [len(record) for record in records[:-1]])
    length = int(offsets[-1]) + len(records[-1])
    if length > v5.MAX_BOOTSTRAP:
        raise FormatError(f"a v5 bootstrap of {length} bytes; readers take {v5.MAX_BOOTSTRAP}")
    block = np.zeros(1, v5.SUPER_BLOCK)
    block["magic"], block["version"], block["size"] = v5.MAGIC, v5.VERSION, v5.SUPER_BLOCK_SIZE
    block["chunk_size"] = bootstrap.chunk_size
    block["flags"] = int(super_flags(bootstrap, any(inode.xattrs for inode in numbering.inodes)))
    block["inode_count"], block["inode_entries"] = len(set(entries.inos)), len(entries.numbers)
    block["inode_table"], block["prefetch_table"] = inode_table, prefetch_table
    block["prefetch_entries"], block["blob_table"] = len(prefetch), blobs_at
    block["blob_table_size"] = len(blob_table)
    block["extended_entries"], block["extended_table"] = len(bootstrap.blobs), extended_at
    table = (offsets >> 3).astype("<u4").tobytes()
    prefetch_bytes = np.array(prefetch, "<u4").tobytes()
    return b"".join([block.tobytes(), _padded(table), _padded(prefetch_bytes), blob_table, extended, *records])


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % v5.ALIGNMENT)


def _blob_tables(blobs: list[BlobInfo]) -> tuple[bytes, bytes]:
    no_readahead = bytes(8)
    table = b"\0".join(no_readahead + blob.id.encode() for blob in blobs)
    extended = np.zeros(len(blobs), v5.EXTENDED_BLOB)
    for row, blob in zip(extended, blobs, strict=True):
        row["chunk_count"], row["features"] = blob.chunk_count, int(blob.features)
        row["usize"], row["csize"] = blob.uncompressed_size, blob.compressed_size
    return _padded(table), extended.tobytes()


class _Entries:
    """All directory entries in index order. Lists have one element an entry; ``inos`` are 1-based as on disk."""

    def __init__(self, numbering: Numbering) -> None:
        total = numbering.entries
        self.numbers, self.parents = [0] * total, [0] * total
        self.names = [b"/"] * total
        self.first_entry: dict[int, int] = {0: 0}
        self.directory: dict[int, Directory] = {}
        for directory in numbering.directories:
            self.directory[directory.number] = directory
            own_index = self.first_entry[directory.number]
            for index, (name, child) in enumerate(
                zip(directory.names, directory.children, strict=True), directory.first_index
            ):
                self.numbers[index], self.names[index], self.parents[index] = child, name, own_index + 1
                self.first_entry.setdefault(child, index)
        regular = [stat.S_ISREG(inode.mode) for inode in numbering.inodes]
        self.inos = [
            (self.first_entry[number] if regular[number] else index) + 1 for index, number in enumerate(self.numbers)
        ]


def _digests(bootstrap: Bootstrap, numbering: Numbering, counts: Ints, chunk_ids: bytes) -> list[bytes]:
    """One digest an inode: of chunk digests, of a target, of the children's digests; of nothing for the rest."""
    digest: Callable[[bytes], bytes] = digest_function(bootstrap.digester)
    nothing = digest(b"")
    digests, position = [], 0
    for inode, count in zip(numbering.inodes, counts.tolist(), strict=True):
        if count:
            end = position + DIGEST_SIZE * count
            digests.append(digest(chunk_ids[position:end]))
            position = end
        else:
            digests.append(digest(inode.target) if inode.target else nothing)
    for directory in reversed(numbering.directories):
        digests[directory.number] = digest(b"".join([digests[child] for child in directory.children]))
    return digests


def _directory_size(directory: Directory) -> int:
    return align(sum(len(name) + 8 for name in directory.names), BLOCK) or BLOCK


def _records(
    bootstrap: Bootstrap, numbering: Numbering, entries: _Entries, counts: Ints, references: Ints
) -> list[bytes]:
    chunks = with_file_offsets(bootstrap.chunks, references, counts, bootstrap.chunk_size)
    chunk_bytes = chunks.tobytes()
    starts = (np.cumsum(counts) - counts).tolist()
    xattrs = [pack_xattrs(inode.xattrs) if inode.xattrs else b"" for inode in numbering.inodes]
    digests = _digests(bootstrap, numbering, counts, chunks["digest"].tobytes())
    fixed = _fixed_parts(numbering, entries, counts, xattrs, digests).tobytes()
    size, chunk_size, numbers, names = v5.INODE.itemsize, CHUNK.itemsize, entries.numbers, entries.names
    records = []
    for index, number in enumerate(numbers):
        name, target = names[index], numbering.inodes[number].target
        record = fixed[index * size : index * size + size] + name + bytes(-len(name) % 8)
        if target:
            record += _padded(target)
        record += xattrs[number]
        count = int(counts[number])
        if count:
            start = starts[number] * chunk_size
            record += chunk_bytes[start : start + count * chunk_size]
        records.append(record)
    return records


def pack_xattrs(xattrs: dict[bytes, bytes]) -> bytes:
    """The xattr block of an inode, names in byte order. Raises `FormatError` for names that readers refuse."""
    content = b""
    for name in sorted(xattrs):
        if not name.startswith(v5.XATTR_PREFIXES):
            raise FormatError(f"xattr {name!r} has no place in RAFS")
        pair = name + b"\0" + xattrs[name]
        content += len(pair).to_bytes(4, "little") + pair
    return len(content).to_bytes(8, "little") + _padded(content)


def _fixed_parts(
    numbering: Numbering, entries: _Entries, counts: Ints, xattrs: list[bytes], digests: list[bytes]
) -> npt.NDArray[Any]:
    inodes, numbers = numbering.inodes, np.array(entries.numbers)
    per_inode = np.zeros(len(inodes), v5.INODE)
    for name in ("uid", "gid", "mode", "rdev", "mtime", "mtime_ns"):
        per_inode[name] = numbering.column(name, v5.INODE[name].str)
    sizes = numbering.column("size", "<u8")
    per_inode["digest"] = np.frombuffer(b"".join(digests), "V32")
    per_inode["child_count"] = counts
    for directory in numbering.directories:
        row = directory.number
        sizes[row] = _directory_size(directory)
        per_inode["child"][row], per_inode["child_count"][row] = directory.first_index + 1, len(directory.names)
    per_inode["size"] = sizes
    room = np.array([max(len(block) - 8, 0) for block in xattrs], np.uint64)
    per_inode["blocks"] = -(-(sizes + room).astype(np.int64) // _SECTOR)
    per_inode["flags"] = [_flags(inode, links) for inode, links in zip(inodes, numbering.links, strict=True)]
    per_inode["nlink"] = [
        links if inode.children is not None or stat.S_ISREG(inode.mode) else 1
        for inode, links in zip(inodes, numbering.links, strict=True)
    ]
    per_inode["target_size"] = [len(inode.target) for inode in inodes]
    per_inode["private"] = [
        (v5.PRIVATE_IMPLICIT if inode.implicit else 0) | (v5.PRIVATE_LOWER_LINK if inode.lower_link else 0)
        for inode in inodes
    ]
    records: npt.NDArray[Any] = per_inode[numbers]
    records["parent"], records["ino"] = entries.parents, entries.inos
    records["name_size"] = [len(name) for name in entries.names]
    return records


def _flags(inode: Inode, links: int) -> int:
    flags = v5.INODE_XATTR if inode.xattrs else 0
    if stat.S_ISLNK(inode.mode):
        return flags | v5.INODE_SYMLINK
    return flags | v5.INODE_HARDLINK if links > 1 and stat.S_ISREG(inode.mode) else flags
