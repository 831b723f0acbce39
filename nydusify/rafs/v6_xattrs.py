"""Extended attributes behind v6 inodes. Source: Linux, fs/erofs/xattr.c; RAFS uses neither shared ones nor filters."""

import struct

import numpy as np

from nydusify.errors import FormatError
from nydusify.rafs import v6
from nydusify.rafs.inode_table import Column
from nydusify.rafs.spec import MAX_NAME
from nydusify.rafs.v6_directories import area_size

_ENTRY = struct.Struct("<BBH")
_SHARED_COUNT = 4
_WHOLE_NAMES = (2, 3)
"""Prefix numbers of the ACLs, which have no further name."""


def read_xattrs(data: bytes, starts: Column, counts: Column) -> dict[int, dict[bytes, bytes]]:
    """The attributes of each row whose xattr count is not 0. ``starts`` are the ends of the inodes, all inside
    ``data`` with their areas. Raises `FormatError`."""
    found: dict[int, dict[bytes, bytes]] = {}
    for row in np.flatnonzero(counts).tolist():
        start = int(starts[row])
        pairs = _read_area(data, start, start + area_size(int(counts[row])))
        if pairs:
            found[row] = pairs
    return found


def _read_area(data: bytes, start: int, end: int) -> dict[bytes, bytes]:
    if data[start + _SHARED_COUNT]:
        raise FormatError("shared extended attributes")
    pairs: dict[bytes, bytes] = {}
    position = start + v6.XATTR_HEADER_SIZE
    while position < end:
        name_size, prefix, value_size = _ENTRY.unpack_from(data, position)
        name_at = position + _ENTRY.size
        value_at = name_at + name_size
        if value_at + value_size > end:
            raise FormatError("an extended attribute larger than its area")
        if prefix not in v6.XATTR_PREFIXES or (prefix in _WHOLE_NAMES and name_size):
            raise FormatError(f"an extended attribute with prefix number {prefix} and {name_size} bytes of name")
        name = v6.XATTR_PREFIXES[prefix] + data[name_at:value_at]
        if name in pairs or len(name) > MAX_NAME or b"\0" in name:
            raise FormatError(f"extended attribute {name[:80]!r}: twice, too long, or with a NUL")
        pairs[name] = data[value_at : value_at + value_size]
        position = -(-(value_at + value_size) // 4) * 4
    if position != end:
        raise FormatError("an extended attribute beyond its area")
    return pairs
