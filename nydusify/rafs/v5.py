"""RAFS v5 on disk: super block, tables, inode records. Source: nydus, rafs/src/metadata/layout/v5.rs.

A file is: super block, inode table (`u4` each), prefetch table (`u4` inode numbers), blob table (text), extended blob
table, inode records. Every part starts on a multiple of 8.
"""

import numpy as np

MAGIC = 0x52414653
VERSION = 0x500
SUPER_BLOCK_SIZE = 8192
MAX_BOOTSTRAP = 0x80000000
ALIGNMENT = 8
MAX_TABLE_VALUE = 1 << 29
"""Inode-table values are file offsets divided by 8, below 4 GiB."""

SUPER_BLOCK = np.dtype(
    [
        ("magic", "<u4"),
        ("version", "<u4"),
        ("size", "<u4"),
        ("chunk_size", "<u4"),
        ("flags", "<u8"),
        ("inode_count", "<u8"),
        ("inode_table", "<u8"),
        ("prefetch_table", "<u8"),
        ("blob_table", "<u8"),
        ("inode_entries", "<u4"),
        ("prefetch_entries", "<u4"),
        ("blob_table_size", "<u4"),
        ("extended_entries", "<u4"),
        ("extended_table", "<u8"),
        ("reserved", "V8112"),
    ]
)
"""``…_table`` are file offsets; ``inode_count`` counts a hard-linked file once, ``inode_entries`` every link."""

EXTENDED_BLOB = np.dtype(
    [("chunk_count", "<u4"), ("features", "<u4"), ("usize", "<u8"), ("csize", "<u8"), ("reserved", "V40")]
)

INODE = np.dtype(
    [
        ("digest", "V32"),
        ("parent", "<u8"),
        ("ino", "<u8"),
        ("uid", "<u4"),
        ("gid", "<u4"),
        ("project", "<u4"),
        ("mode", "<u4"),
        ("size", "<u8"),
        ("blocks", "<u8"),
        ("flags", "<u8"),
        ("nlink", "<u4"),
        ("child", "<u4"),
        ("child_count", "<u4"),
        ("name_size", "<u2"),
        ("target_size", "<u2"),
        ("rdev", "<u4"),
        ("mtime_ns", "<u4"),
        ("mtime", "<i8"),
        ("private", "u1"),
        ("reserved", "V7"),
    ]
)
"""Fixed part of an inode record. ``child`` is the index of the first child; ``child_count`` counts children or chunks.

Behind it: name, symlink target (each zero-padded to 8), xattr block, chunk records. ``private`` (`spec` knows it as
zero bytes, and readers skip them) holds flags of our own layer bootstraps.
"""

INODE_SYMLINK, INODE_HARDLINK, INODE_XATTR, INODE_HOLE = 1, 2, 4, 8

PRIVATE_IMPLICIT, PRIVATE_LOWER_LINK = 1, 2
"""Values of ``private``: `tree.Inode.implicit` and `tree.Inode.lower_link`."""

XATTR_PREFIXES = (b"user.", b"security.", b"trusted.", b"system.posix_acl_access", b"system.posix_acl_default")
"""Namespaces that the reference accepts; the ACL names stand for themselves."""
