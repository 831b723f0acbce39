"""The directories of a v6 bootstrap: every entry of the tree, with the nid that it names."""

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from operator import lt

from nydusify.errors import FormatError
from nydusify.rafs import v6
from nydusify.rafs.spec import MAX_NAME, align
from nydusify.rafs.v6_super import SuperBlock
from nydusify.rafs.validate import MAX_PATH, prefetch_paths

_HEAD = struct.Struct("<HHHHQI")
"""What both forms of an inode begin with: format, xattr count, mode, …, size, ``u``. A compact size has 4 bytes."""
_DIRENT = struct.Struct("<QHBx")
_NAME_OFFSET = struct.Struct("<H")
_DIRECTORY_TYPE = 2


@dataclass(slots=True)
class Directories:
    """Column ``names[i]``, ``nids[i]``, ``types[i]`` is one entry; those of directory ``k`` are ``starts[k]`` to
    ``starts[k + 1]``. Directory 0 is the root."""

    names: list[bytes] = field(default_factory=list)
    nids: list[int] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    directories: list[int] = field(default_factory=list)
    """Nids."""
    named_by: list[int] = field(default_factory=list)
    """Entry that names each directory; -1 for the root."""
    starts: list[int] = field(default_factory=lambda: [0])
    used: int = 0
    """Bytes that the directories take."""

    def paths(self, nids: list[int]) -> list[bytes]:
        """A path to each of ``nids``, each once; `FormatError` if no entry names one."""
        if not nids:
            return []
        entries = dict(zip(reversed(self.nids), range(len(self.nids) - 1, -1, -1), strict=True))
        entries[self.directories[0]] = -1
        try:
            named = [entries[nid] for nid in dict.fromkeys(nids)]
        except KeyError as error:
            raise FormatError(f"prefetch table: no file has nid {error.args[0]}") from None
        return prefetch_paths(named, self._step)

    def _step(self, entry: int) -> tuple[bytes, int]:
        return self.names[entry], self.named_by[bisect_right(self.starts, entry) - 1]


def area_size(xattr_count: int) -> int:
    """Bytes of the xattr area behind an inode."""
    return v6.XATTR_HEADER_SIZE + 4 * (xattr_count - 1) if xattr_count else 0


def blocks_of(
    data: bytes, block_bits: int, layout: int, inode_end: int, block: int, size: int
) -> Iterator[tuple[int, int]]:
    """Start and end of each block of ``size`` bytes that a directory or symlink holds. Raises `FormatError`.

    ``inode_end`` is where an inlined tail lies, ``block`` the number of the first full block.
    """
    if layout not in (v6.LAYOUT_PLAIN, v6.LAYOUT_INLINE):
        raise FormatError(f"data layout {layout} of a directory or symlink")
    if size > len(data):
        raise FormatError(f"a directory or symlink of {size} bytes in a bootstrap of {len(data)}")
    tail = size & ((1 << block_bits) - 1) if layout == v6.LAYOUT_INLINE else 0
    start = block << block_bits
    end = start + size - tail
    if start < end and end > len(data):
        raise FormatError(f"data of a directory or symlink beyond the end, at block {block}")
    for position in range(start, end, 1 << block_bits):
        yield position, min(position + (1 << block_bits), end)
    if tail:
        if inode_end + tail > len(data) or inode_end >> block_bits != (inode_end + tail - 1) >> block_bits:
            raise FormatError("inlined data that cross a block")
        yield inode_end, inode_end + tail


def read_directories(data: bytes, sb: SuperBlock) -> Directories:
    """Walk the tree from the root, breadth first. Raises `FormatError`; a directory is never visited twice."""
    found = Directories()
    last_nid = (len(data) - sb.meta) // v6.NID_SIZE - 1
    seen = {sb.root_nid}
    todo = [(sb.root_nid, sb.root_nid, -1, 0)]
    for nid, parent, entry, depth in todo:
        if nid > last_nid:
            raise FormatError(f"directory with nid {nid} outside the file")
        names, nids, types = _read_directory(data, sb, nid, found)
        _drop_links(names, nids, types, nid, parent)
        longest = depth + 1 + max(map(len, names), default=0)
        if longest > MAX_PATH:
            raise FormatError(f"a path of {longest} bytes")
        start = len(found.names)
        found.directories.append(nid)
        found.named_by.append(entry)
        found.names += names
        found.nids += nids
        found.types += types
        found.starts.append(len(found.names))
        for offset, file_type in enumerate(types):
            if file_type == _DIRECTORY_TYPE:
                child = nids[offset]
                if child in seen:
                    raise FormatError(f"directory with nid {child} has two parents, or contains itself")
                seen.add(child)
                todo.append((child, nid, start + offset, depth + 1 + len(names[offset])))
    return found


def _read_directory(
    data: bytes, sb: SuperBlock, nid: int, found: Directories
) -> tuple[list[bytes], list[int], list[int]]:
    """Names, nids and types of one directory, with its ``.`` and ``..``."""
    address = sb.meta + nid * v6.NID_SIZE
    inode_format, xattr_count, _, _, size, block = _HEAD.unpack_from(data, address)
    end = address + v6.INODE_COMPACT.itemsize
    if inode_format & v6.FORMAT_EXTENDED:
        end = address + v6.INODE_EXTENDED.itemsize
    else:
        size &= 0xFFFFFFFF
    end += area_size(xattr_count)
    found.used += size
    if found.used > len(data):
        raise FormatError("directories larger than the bootstrap")
    names: list[bytes] = []
    nids: list[int] = []
    types: list[int] = []
    high = 0
    for low, high in blocks_of(data, sb.block_bits, inode_format >> 1 & 7, end, block, size):
        _read_block(data, low, high, names, nids, types)
    if data[high : align(high, v6.NID_SIZE)].strip(b"\0"):  # nothing else can lie in the last slot
        raise FormatError(f"directory with nid {nid}: its size cuts its names")
    if not all(map(lt, names, islice(names, 1, None))):
        raise FormatError(f"directory with nid {nid}: names that are not sorted, or twice the same")
    if max(map(len, names), default=0) > MAX_NAME:
        raise FormatError(f"directory with nid {nid}: a name of more than {MAX_NAME} bytes")
    return names, nids, types


def _read_block(data: bytes, low: int, high: int, names: list[bytes], nids: list[int], types: list[int]) -> None:
    """Append the entries of the dirent block ``data[low:high]``."""
    size = high - low
    first = _NAME_OFFSET.unpack_from(data, low + 8)[0] if size > v6.DIRENT.itemsize else 0
    if first == 0 or first % v6.DIRENT.itemsize or first >= size:
        raise FormatError(f"a dirent block of {size} bytes whose names start at {first}")
    columns = zip(*_DIRENT.iter_unpack(data[low : low + first]), strict=True)
    block_nids, offsets, block_types = columns
    stop = data.find(b"\0", low + offsets[-1], high) if offsets[-1] < size else -1
    last = stop - low if stop >= 0 else size
    found = [data[low + a : low + b] for a, b in zip(offsets, (*offsets[1:], last), strict=True)]
    if not all(found) or max(offsets) >= size:
        raise FormatError("an entry without a name, or with one outside its block")
    text = data[low + first : low + last]
    if b"/" in text or b"\0" in text:
        raise FormatError("a name with a slash or NUL")
    names += found
    nids += block_nids
    types += block_types


def _drop_links(names: list[bytes], nids: list[int], types: list[int], own: int, parent: int) -> None:
    """Take ``.`` and ``..`` out; they must be there and right."""
    for name, nid in ((b".", own), (b"..", parent)):
        try:
            at = names.index(name)
        except ValueError:
            raise FormatError(f"directory with nid {own} has no {name.decode()!r}") from None
        if nids[at] != nid or types[at] != _DIRECTORY_TYPE:
            raise FormatError(f"directory with nid {own}: {name.decode()!r} leads elsewhere")
        del names[at], nids[at], types[at]
