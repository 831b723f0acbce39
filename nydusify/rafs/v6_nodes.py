"""Where the nodes of a v6 bootstrap lie: inodes, xattrs, chunk indexes, dirent blocks, symlink bodies.

Offsets are relative to the node area, whose first block stays empty so that the root is nid 128.
"""

import stat
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from nydusify.errors import FormatError, UnsupportedError
from nydusify.rafs import v6
from nydusify.rafs.numbering import Directory, Ints, Numbering
from nydusify.rafs.spec import BLOCK, align

MAX_XATTR_AREA = v6.XATTR_HEADER_SIZE + 4 * 0xFFFE
"""Bytes of one inode's xattrs: its count is one more than the words of 4 bytes behind their header."""
_INODE, _DIRENT = v6.INODE_EXTENDED.itemsize, v6.DIRENT.itemsize


@dataclass(slots=True)
class Nodes:
    """One element an inode, in the order of the numbering."""

    offsets: Ints
    layouts: npt.NDArray[np.uint16]
    sizes: Ints
    """``i_size``: for directories the bytes of their dirents."""
    blocks: Ints
    """First block of data outside the inode, counted from the start of the area; -1 without data."""
    chunk_indexes: Ints
    """Offset of the chunk index array of a file; meaningless for others."""
    xattrs: dict[int, bytes]
    pages: "list[list[Page]]"
    """Dirent blocks of every directory, in the order of `Numbering.directories`."""
    end: int


@dataclass(slots=True)
class Page:
    """One dirent block: entries ``first`` to ``last`` of the directory with ``.`` and ``..`` sorted in."""

    names: list[bytes]
    children: list[int]
    size: int

    def name_offsets(self) -> Iterator[int]:
        """Where each name begins in the block, behind all dirents."""
        return accumulate(map(len, self.names[:-1]), initial=_DIRENT * len(self.names))


def _pages(directory: Directory) -> list[Page]:
    """Fill blocks greedily; a block holds whole entries only."""
    names, children = directory.names.copy(), directory.children.copy()
    for name, number in ((b".", directory.number), (b"..", directory.parent)):
        place = bisect_left(names, name)
        names.insert(place, name)
        children.insert(place, number)
    size = _DIRENT * len(names) + sum(map(len, names))
    if size <= BLOCK:
        return [Page(names, children, size)]
    pages: list[Page] = []
    size = BLOCK + 1
    for name, child in zip(names, children, strict=True):
        need = _DIRENT + len(name)
        if size + need > BLOCK:
            pages.append(Page([], [], 0))
            size = 0
        size += need
        pages[-1].names.append(name)
        pages[-1].children.append(child)
        pages[-1].size = size
    return pages


def pack_xattrs(xattrs: dict[bytes, bytes]) -> bytes:
    """The xattr area behind an inode, names in byte order.

    Raises `FormatError` for other namespaces, `UnsupportedError` for more bytes than an inode's 16-bit count holds.
    """
    area = bytearray(v6.XATTR_HEADER_SIZE)
    for name in sorted(xattrs):
        for prefix, text in v6.XATTR_PREFIXES.items():
            acl = text.startswith(b"system.")
            if name == text if acl else name.startswith(text):
                suffix, value = name[len(text) :], xattrs[name]
                area += bytes((len(suffix), prefix)) + len(value).to_bytes(2, "little") + suffix + value
                area += bytes(-len(area) % 4)
                break
        else:
            raise FormatError(f"xattr {name!r} has no place in RAFS")
    if len(area) > MAX_XATTR_AREA:
        raise UnsupportedError(
            f"xattrs of one file take {len(area)} bytes; RAFS v6 holds {MAX_XATTR_AREA}", advice="Convert to RAFS v5."
        )
    return bytes(area)


def lay_out(numbering: Numbering, counts: Ints) -> Nodes:
    """Give every node its place. Raises `FormatError` for xattrs that RAFS does not know."""
    inodes = numbering.inodes
    total = len(inodes)
    xattrs = {number: pack_xattrs(inode.xattrs) for number, inode in enumerate(inodes) if inode.xattrs}
    pages = [_pages(directory) for directory in numbering.directories]
    sizes = [inode.size for inode in inodes]
    for directory, blocks in zip(numbering.directories, pages, strict=True):
        sizes[directory.number] = (len(blocks) - 1) * BLOCK + blocks[-1].size
    offsets, layouts, data, indexes = [0] * total, [v6.LAYOUT_PLAIN] * total, [-1] * total, [0] * total
    chunk_counts = counts.tolist()
    end = BLOCK
    for number in _visiting_order(numbering):
        kind = stat.S_IFMT(inodes[number].mode)
        inode_size = _INODE + len(xattrs[number]) if number in xattrs else _INODE
        if kind == stat.S_IFREG:
            offsets[number], layouts[number] = end, v6.LAYOUT_CHUNKED
            indexes[number] = end + align(inode_size, 8)
            end = indexes[number] + 8 * chunk_counts[number]
        elif kind in (stat.S_IFDIR, stat.S_IFLNK):
            whole, tail = divmod(sizes[number], BLOCK)
            inline = tail and inode_size + tail <= BLOCK
            if inline:
                layouts[number] = v6.LAYOUT_INLINE
                if end % BLOCK + inode_size + tail > BLOCK:
                    end = align(end, BLOCK)
                offsets[number] = end
                end += inode_size + tail
            else:
                offsets[number] = end
                end += inode_size
                whole += 1 if tail else 0
            data[number] = 0
            if whole:
                end = align(end, BLOCK)
                data[number] = end // BLOCK
                end += whole * BLOCK
        else:
            offsets[number] = end
            end += inode_size
        end = align(end, v6.NID_SIZE)
    return Nodes(
        np.array(offsets),
        np.array(layouts, np.uint16),
        np.array(sizes),
        np.array(data),
        np.array(indexes),
        xattrs,
        pages,
        end,
    )


def _visiting_order(numbering: Numbering) -> list[int]:
    """A directory, then what is in it but directories; so a listing reads neighbouring blocks."""
    order, placed = [], bytearray(len(numbering.inodes))
    for directory in numbering.directories:
        order.append(directory.number)
        for child in directory.children:
            if not placed[child] and numbering.inodes[child].children is None:
                placed[child] = 1
                order.append(child)
    return order


def write_directories(area: npt.NDArray[np.uint8], numbering: Numbering, nodes: Nodes) -> None:
    """Write dirent blocks and symlink bodies into ``area``."""
    pages = [page for blocks in nodes.pages for page in blocks]
    children = np.fromiter((child for page in pages for child in page.children), np.int64)
    dirents = np.zeros(len(children), v6.DIRENT)
    dirents["nid"] = (nodes.offsets // v6.NID_SIZE)[children]
    dirents["type"] = np.array([v6.FILE_TYPES[inode.kind] for inode in numbering.inodes], np.uint8)[children]
    dirents["name_offset"] = np.fromiter((offset for page in pages for offset in page.name_offsets()), np.uint16)
    records, first = dirents.tobytes(), 0
    view = memoryview(area)  # type: ignore[arg-type]  # numpy arrays are buffers
    for directory, blocks in zip(numbering.directories, nodes.pages, strict=True):
        last = len(blocks) - 1
        for place, page in enumerate(blocks):
            end = first + _DIRENT * len(page.names)
            content = records[first:end] + b"".join(page.names)
            first = end
            start = _data_offset(nodes, directory.number, place, place == last)
            view[start : start + len(content)] = content
    for number, inode in enumerate(numbering.inodes):
        if inode.target:
            start = _data_offset(nodes, number, 0, True)
            view[start : start + len(inode.target)] = inode.target


def _data_offset(nodes: Nodes, number: int, block: int, last: bool) -> int:
    """Where block ``block`` of a directory's or symlink's data lies; the last one may be behind the inode."""
    if last and nodes.layouts[number] == v6.LAYOUT_INLINE:
        return int(nodes.offsets[number]) + _INODE + len(nodes.xattrs.get(number, b""))
    return (int(nodes.blocks[number]) + block) * BLOCK
