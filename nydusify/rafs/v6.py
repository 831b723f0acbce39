"""RAFS v6 on disk, an EROFS image. Source: nydus, rafs/src/metadata/layout/v6.rs; Linux, fs/erofs/erofs_fs.h.

A file is: 1024 zero bytes, EROFS super block, RAFS extended super block, device slots, blob table, prefetch table
(`u4` nids), inodes with their dirent blocks, symlink bodies and chunk indexes, chunk table.
"""

import numpy as np

MAGIC = 0xE0F5E1E2
SUPER_BLOCK_OFFSET = 1024
EXTENDED_OFFSET = 1152
DEVICE_SLOT_OFFSET = 1408
DEVICE_TABLE_SLOT = DEVICE_SLOT_OFFSET // 128
FEATURE_COMPAT_RAFS = 0x40000000
FEATURE_INCOMPAT = 0xC
"""Chunked files and a device table; nothing else is allowed."""
BLOCK_BITS, TARFS_BLOCK_BITS = 12, 9
NID_SIZE = 32
ROOT_NID = 128
DEVICE_ALIGNMENT = 0x80000
"""Mapped block addresses of devices start on a multiple of this many bytes."""

SUPER_BLOCK = np.dtype(
    [
        ("magic", "<u4"),
        ("checksum", "<u4"),
        ("feature_compat", "<u4"),
        ("block_bits", "u1"),
        ("extslots", "u1"),
        ("root_nid", "<u2"),
        ("inos", "<u8"),
        ("build_time", "<u8"),
        ("build_time_ns", "<u4"),
        ("blocks", "<u4"),
        ("meta_block", "<u4"),
        ("xattr_block", "<u4"),
        ("uuid", "V16"),
        ("volume", "S16"),
        ("feature_incompat", "<u4"),
        ("compression", "<u2"),
        ("devices", "<u2"),
        ("device_slot", "<u2"),
        ("reserved", "V38"),
    ]
)
"""EROFS super block, 128 bytes. ``inos`` counts directory entries; ``meta_block`` is where nid 0 lies, in blocks."""

EXTENDED_SUPER_BLOCK = np.dtype(
    [
        ("flags", "<u8"),
        ("blob_table", "<u8"),
        ("blob_table_size", "<u4"),
        ("chunk_size", "<u4"),
        ("chunk_table", "<u8"),
        ("chunk_table_size", "<u8"),
        ("prefetch_table", "<u8"),
        ("prefetch_table_size", "<u4"),
        ("reserved", "V204"),
    ]
)
"""RAFS's part of the super block, 256 bytes. ``…_table`` are file offsets, sizes are bytes."""

DEVICE_SLOT = np.dtype([("id", "S64"), ("blocks", "<u4"), ("mapped_block", "<u4"), ("reserved", "V56")])

BLOB = np.dtype(
    [
        ("id", "S64"),
        ("index", "<u4"),
        ("chunk_size", "<u4"),
        ("chunk_count", "<u4"),
        ("compressor", "<u4"),
        ("digester", "<u4"),
        ("features", "<u4"),
        ("csize", "<u8"),
        ("usize", "<u8"),
        ("toc_size", "<u4"),
        ("ci_compressor", "<u4"),
        ("ci_offset", "<u8"),
        ("ci_csize", "<u8"),
        ("ci_usize", "<u8"),
        ("toc_digest", "V32"),
        ("meta_digest", "V32"),
        ("meta_size", "<u8"),
        ("iv_tail", "V8"),
        ("cipher", "<u4"),
        ("reserved", "V36"),
    ]
)
"""Blob-table entry, 256 bytes. With a cipher, ``meta_digest`` holds the key, ``meta_size`` and ``iv_tail`` the IV."""

INODE_EXTENDED = np.dtype(
    [
        ("format", "<u2"),
        ("xattr_count", "<u2"),
        ("mode", "<u2"),
        ("reserved", "<u2"),
        ("size", "<u8"),
        ("u", "<u4"),
        ("ino", "<u4"),
        ("uid", "<u4"),
        ("gid", "<u4"),
        ("mtime", "<i8"),
        ("mtime_ns", "<u4"),
        ("nlink", "<u4"),
        ("private", "u1"),
        ("reserved2", "V15"),
    ]
)
"""64 bytes. ``u`` is the first data block, the chunk format or the device number. ``private`` (the first of 16 reserved
bytes, which the kernel and the reference skip) holds flags of our own layer bootstraps."""

INODE_COMPACT = np.dtype(
    [
        ("format", "<u2"),
        ("xattr_count", "<u2"),
        ("mode", "<u2"),
        ("nlink", "<u2"),
        ("size", "<u4"),
        ("reserved", "<u4"),
        ("u", "<u4"),
        ("ino", "<u4"),
        ("uid", "<u2"),
        ("gid", "<u2"),
        ("reserved2", "<u4"),
    ]
)

PRIVATE_IMPLICIT, PRIVATE_LOWER_LINK = 1, 2
"""Values of ``private``: `tree.Inode.implicit` and `tree.Inode.lower_link`."""

FORMAT_EXTENDED = 1
LAYOUT_PLAIN, LAYOUT_INLINE, LAYOUT_CHUNKED = 0, 2, 4
"""Data layout, bits 1 to 3 of ``format``."""
CHUNK_FORMAT_INDEXES = 0x20
CHUNK_FORMAT_BITS = 0x1F

DIRENT = np.dtype([("nid", "<u8"), ("name_offset", "<u2"), ("type", "u1"), ("reserved", "u1")])
FILE_TYPES = {0o100000: 1, 0o040000: 2, 0o020000: 3, 0o060000: 4, 0o010000: 5, 0o140000: 6, 0o120000: 7}
"""Dirent type by the type bits of ``st_mode``."""

CHUNK_INDEX = np.dtype([("index_low", "<u2"), ("device", "u1"), ("index_high", "u1"), ("block", "<u4")])
"""One chunk of a file: its index in the blob (24 bits), blob index + 1, ``uoffset`` in blocks."""

XATTR_HEADER_SIZE = 12
XATTR_ENTRY = np.dtype([("name_size", "u1"), ("prefix", "u1"), ("value_size", "<u2")])
XATTR_PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
