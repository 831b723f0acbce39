"""Reads a v5 bootstrap: tables, inode records and their chunk records become a `tree.Bootstrap`."""

from dataclasses import replace
from itertools import islice
from operator import lt

import numpy as np

from nydusify.errors import FormatError
from nydusify.rafs.codec import digest_function
from nydusify.rafs.inode_table import DIRECTORY, REGULAR, Column
from nydusify.rafs.spec import DIGEST_SIZE
from nydusify.rafs.tree import Bootstrap, ChunkTable, Inode
from nydusify.rafs.v5_records import Records
from nydusify.rafs.v5_super import SuperBlock, read_super_block, sized_blobs
from nydusify.rafs.validate import MAX_PATH, check_chunk_size, check_chunks, check_file_chunks, prefetch_paths


def read_v5(data: bytes, blob_id: str | None, origin: int) -> Bootstrap:
    """See `reader.read_bootstrap`. Attributes of a hard-linked file are those of its first path in numbering order."""
    sb = read_super_block(data, blob_id)
    records = Records(data, sb)
    tree = _Tree(records)
    owners = np.flatnonzero(tree.owner == np.arange(len(tree.owner)))
    files = owners[records.table.type[owners] == REGULAR]
    records_of_chunks, chunk_size = _read_chunks(records, files)
    blobs = sb.blobs if sb.sized else sized_blobs(sb.blobs, records_of_chunks)
    check_chunks(records_of_chunks, blobs, chunk_size)
    targets = records.targets()
    _check_digests(records, tree, records_of_chunks, files, targets)
    chunks, rows = _distinct(records_of_chunks)
    table = records.table
    table.targets, table.xattrs = targets, records.xattrs()
    table.files, table.counts, table.rows = files, records.chunk_count[files], rows
    inodes = table.build(origin)
    _fill(inodes, tree)
    return Bootstrap(
        version=5,
        chunk_size=chunk_size,
        compressor=sb.compressor,
        digester=sb.digester,
        root=inodes[0],
        blobs=[replace(blob, chunk_size=chunk_size) for blob in blobs],
        chunks=chunks,
        prefetch=_prefetch(sb, tree),
        flags=sb.flags,
    )


class _Tree:
    """Names and family relations of the records, checked: every index but the root's is in exactly one directory, whose
    own index is lower."""

    def __init__(self, records: Records) -> None:
        fixed, kind = records.fixed, records.table.type
        count = len(fixed)
        if kind[0] != DIRECTORY or int(fixed["ino"][0]) != 1 or int(fixed["parent"][0]) != 0:
            raise FormatError("index 1 is not a root directory")
        self.names = records.names()
        self.directories = np.flatnonzero((kind == DIRECTORY) & (fixed["child_count"] > 0))
        self.first = fixed["child"][self.directories].astype(np.int64) - 1
        self.count = fixed["child_count"][self.directories].astype(np.int64)
        self.parent = self._parents(count)
        if not np.array_equal(fixed["parent"][1:], (self.parent[1:] + 1).astype(np.uint64)):
            raise FormatError("an inode whose parent is not the directory that lists it")
        self.owner = _owners(records)
        self._check_names()

    def _parents(self, count: int) -> Column:
        """Row of the directory of each row; -1 for the root."""
        order = np.argsort(self.first, kind="stable")
        starts, sizes = self.first[order], self.count[order]
        ends = starts + sizes
        edges = np.concatenate(([1], ends))
        if not np.array_equal(edges[:-1], starts) or int(edges[-1]) != count:
            raise FormatError("directories share their children, leave some out, or go beyond the inode table")
        if np.any(self.first <= self.directories):
            raise FormatError("a directory behind its own children")
        return np.concatenate(([-1], np.repeat(self.directories[order], sizes)))

    def _check_names(self) -> None:
        names = self.names
        if names[0] != b"/":
            raise FormatError(f"the root is called {names[0][:80]!r}")
        children = names[1:]
        text = b"\n".join(children)
        if b"/" in text or b"\0" in text or b"." in children or b".." in children:
            raise FormatError("a name with a slash or NUL, or one that is '.' or '..'")
        rises = np.array([True, True, *map(lt, children, islice(children, 1, None))][: len(names)])
        rises[self.first] = True
        if not rises.all():
            raise FormatError("names of a directory that are not sorted, or twice the same")
        self._check_depth()

    def _check_depth(self) -> None:
        """Parents come before their children, so one pass finds the length of every path."""
        lengths = [0] * len(self.names)
        for directory, first, count in zip(
            self.directories.tolist(), self.first.tolist(), self.count.tolist(), strict=True
        ):
            above = lengths[directory] + 1
            for row in range(first, first + count):
                lengths[row] = above + len(self.names[row])
        if max(lengths) > MAX_PATH:
            raise FormatError(f"a path of {max(lengths)} bytes")


def _owners(records: Records) -> Column:
    """The row that holds the inode of each row: another one for the second and later hard links."""
    fixed, kind = records.fixed, records.table.type
    if int(fixed["ino"].min()) == 0 or int(fixed["ino"].max()) > len(fixed):
        raise FormatError("an inode number that the table does not have")
    owner: Column = fixed["ino"].astype(np.int64) - 1
    links = np.flatnonzero(owner != np.arange(len(owner)))
    first = owner[links]
    if np.any(owner[first] != first) or np.any(kind[links] != REGULAR) or np.any(kind[first] != REGULAR):
        raise FormatError("a hard link without a regular file to which it leads")
    if np.any(fixed["size"][links] != fixed["size"][first]):
        raise FormatError("hard links of one file that differ in size")
    for link, file in zip(links.tolist(), first.tolist(), strict=True):
        if records.raw_chunks(link) != records.raw_chunks(file):
            raise FormatError("hard links of one file that differ in their chunks")
    return owner


def _read_chunks(records: Records, files: Column) -> tuple[ChunkTable, int]:
    """The chunk records of every file, and the size of a full chunk."""
    sizes = records.fixed["size"][files]
    if len(sizes) and int(sizes.max()) > len(records.data) * records.sb.chunk_size:
        raise FormatError(f"a file of {int(sizes.max())} bytes, more than the bootstrap has chunks for")
    counts, chunks = records.chunk_count[files], records.chunks(files)
    ends = np.cumsum(counts)
    numbers = np.arange(len(chunks)) - np.repeat(ends - counts, counts)
    chunk_size = _chunk_size(chunks["usize"][numbers < np.repeat(counts - 1, counts)], records.sb.chunk_size)
    check_file_chunks(sizes.astype(np.int64), counts, chunks["usize"], chunk_size)
    if not np.array_equal(chunks["file_offset"], (numbers * chunk_size).astype(np.uint64)):
        raise FormatError("a chunk at another place of its file than its number says")
    return chunks, chunk_size


def _chunk_size(full: Column, stated: int) -> int:
    """The size of the chunks that are not the last of their file. ``optimize`` of the reference states its default
    whatever the chunks are; then they are right."""
    if not len(full) or int(full[0]) >= stated:
        return stated
    check_chunk_size(int(full[0]))
    return int(full[0])


def _distinct(chunks: ChunkTable) -> tuple[ChunkTable, Column]:
    """Each chunk once, by blob and chunk number, and the row of every record: v5 repeats it for each of its users."""
    keys = chunks["blob"].astype(np.uint64) << np.uint64(32) | chunks["index"]
    _, first, rows = np.unique(keys, return_index=True, return_inverse=True)
    distinct = chunks[first]
    again = distinct[rows]
    again["file_offset"] = chunks["file_offset"]
    if again.tobytes() != chunks.tobytes():
        raise FormatError("two different records for one chunk")
    return distinct, rows


def _check_digests(records: Records, tree: _Tree, chunks: ChunkTable, files: Column, targets: dict[int, bytes]) -> None:
    """Every inode's digest against its children's, its chunks' or its target."""
    digest = digest_function(records.sb.digester)
    stored = records.fixed["digest"].tobytes()
    ids = chunks["digest"].tobytes()
    wanted = [digest(b"")] * len(records.fixed)
    ends = np.cumsum(records.chunk_count[files]) * DIGEST_SIZE
    low = 0
    for row, high in zip(files.tolist(), ends.tolist(), strict=True):
        wanted[row] = digest(ids[low:high])
        low = high
    for row, target in targets.items():
        wanted[row] = digest(target)
    for row, first, count in zip(tree.directories.tolist(), tree.first.tolist(), tree.count.tolist(), strict=True):
        wanted[row] = digest(stored[DIGEST_SIZE * first : DIGEST_SIZE * (first + count)])
    for row in np.flatnonzero(tree.owner != np.arange(len(tree.owner))).tolist():
        wanted[row] = wanted[int(tree.owner[row])]
    if b"".join(wanted) != stored:
        raise FormatError("an inode whose digest is not that of its content")


def _fill(inodes: list[Inode], tree: _Tree) -> None:
    named = list(map(inodes.__getitem__, tree.owner.tolist()))
    for row, first, count in zip(tree.directories.tolist(), tree.first.tolist(), tree.count.tolist(), strict=True):
        inodes[row].children = dict(zip(tree.names[first : first + count], named[first : first + count], strict=True))


def _prefetch(sb: SuperBlock, tree: _Tree) -> list[bytes]:
    """Paths of the prefetch table, each once."""
    inos = list(dict.fromkeys(sb.prefetch))
    if inos and max(inos) > len(tree.names):
        raise FormatError(f"prefetch table: no inode {max(inos)}")

    def step(row: int) -> tuple[bytes, int]:
        parent = int(tree.parent[row])
        return tree.names[row], parent if parent else -1

    return prefetch_paths([ino - 1 if ino > 1 else -1 for ino in inos], step)
