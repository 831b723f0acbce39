"""The order in which both RAFS versions number the entries of a tree, and what follows from it."""

import stat
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nydusify.errors import FormatError
from nydusify.rafs.spec import MAX_XATTR_VALUE
from nydusify.rafs.tree import Bootstrap, ChunkTable, Inode

Ints = npt.NDArray[np.int64]


@dataclass(slots=True)
class Directory:
    """One directory: its own number, that of its parent, and its entries in byte order of their names."""

    number: int
    parent: int
    names: list[bytes]
    children: list[int]
    first_index: int
    """Index of the first child among all directory entries; the others follow it."""


@dataclass(slots=True)
class Numbering:
    """Every inode once, in the order that it is met; every directory, parents first.

    The walk gives the children of a directory consecutive places in name order, then goes down into the directories
    among them, in the same order (rafs-format: v5 "Inode table and numbering", v6 "Layout of the node area").
    """

    inodes: list[Inode] = field(default_factory=list)
    links: list[int] = field(default_factory=list)
    """Names of each inode; 2 + subdirectories for a directory."""
    directories: list[Directory] = field(default_factory=list)
    entries: int = 0
    """Directory entries including the root, each hard link counted."""

    def column(self, name: str, dtype: str) -> npt.NDArray[Any]:
        """One attribute of all inodes. Raises `FormatError` for a value that the format has no room for."""
        try:
            return np.array([getattr(inode, name) for inode in self.inodes], dtype)
        except OverflowError as error:
            raise FormatError(f"an inode's {name} does not fit into {dtype}") from error


def number_tree(root: Inode) -> Numbering:
    """Walk the tree below ``root``. Raises `FormatError` if a directory is reached twice."""
    numbering = Numbering([root], [2])
    inodes, links, numbers = numbering.inodes, numbering.links, {id(root): 0}
    todo, index = [(0, 0)], 1
    while todo:
        number, parent = todo.pop()
        children = inodes[number].children or {}
        names = sorted(children)
        kids, subdirectories = [], []
        for name in names:
            child = children[name]
            kid = numbers.get(id(child))
            if kid is None:
                kid = numbers[id(child)] = len(inodes)
                inodes.append(child)
                links.append(1)
                if child.children is not None:
                    links[kid] = 2
                    subdirectories.append((kid, number))
            elif child.children is not None:
                raise FormatError(f"directory {name!r} has two parents")
            else:
                links[kid] += 1
            kids.append(kid)
        links[number] += len(subdirectories)
        numbering.directories.append(Directory(number, parent, names, kids, index))
        index += len(names)
        todo.extend(reversed(subdirectories))
    numbering.entries = index
    return numbering


def chunk_references(numbering: Numbering) -> tuple[Ints, Ints]:
    """Chunks per inode, and the rows of the chunk table that all inodes refer to, one after the other."""
    counts = np.fromiter((len(inode.chunks) for inode in numbering.inodes), np.int64, len(numbering.inodes))
    flat: list[int] = []
    for inode in numbering.inodes:
        if inode.chunks:
            flat.extend(inode.chunks)
    return counts, np.array(flat, np.int64)


def within(counts: Ints) -> Ints:
    """0, 1, … for each run of ``counts``: the place of every reference inside its inode."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def check_sizes(bootstrap: Bootstrap, numbering: Numbering, counts: Ints) -> None:
    """Raise `FormatError` unless every regular file has the chunks that its size needs, and xattrs have room."""
    for inode, count in zip(numbering.inodes, counts.tolist(), strict=True):
        wanted = -(-inode.size // bootstrap.chunk_size) if stat.S_ISREG(inode.mode) else 0
        if count != wanted:
            raise FormatError(f"a file of {inode.size} bytes with {count} chunks")
        if inode.xattrs and any(len(value) > MAX_XATTR_VALUE for value in inode.xattrs.values()):
            raise FormatError("an xattr of more than 64 KiB")


def with_file_offsets(chunks: ChunkTable, references: Ints, counts: Ints, chunk_size: int) -> ChunkTable:
    """One record a reference, with the blob's part copied from ``chunks`` and the offset in the file filled in."""
    records = chunks[references]
    records["file_offset"] = within(counts) * chunk_size
    return records
