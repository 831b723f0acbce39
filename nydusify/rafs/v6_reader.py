"""Reads a v6 bootstrap: super blocks, tree and chunk table become a `tree.Bootstrap`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from nydusify.errors import FormatError
from nydusify.rafs import v6
from nydusify.rafs.inode_table import DIRECTORY, REGULAR, SYMLINK, Column, InodeTable, ragged
from nydusify.rafs.spec import CHUNK, SuperFlag
from nydusify.rafs.tree import Bootstrap, ChunkTable
from nydusify.rafs.v6_directories import Directories, blocks_of, read_directories
from nydusify.rafs.v6_super import SuperBlock, read_super_block
from nydusify.rafs.v6_xattrs import read_xattrs
from nydusify.rafs.validate import MAX_DEVICE_TARGET, check_chunks, check_file_chunks, prefetch_paths

_HALF = np.dtype("V32")


def read_v6(data: bytes, blob_id: str | None, origin: int) -> Bootstrap:
    """See `reader.read_bootstrap`. Rows of the chunk table are in the order of blob and chunk number."""
    sb = read_super_block(data, blob_id)
    directories = read_directories(data, sb)
    nids, entry_rows = np.unique(np.array([sb.root_nid, *directories.nids], np.uint64), return_inverse=True)
    raw = _Raw(data, sb, nids, directories.used)
    table = raw.table
    if not np.array_equal(table.type[entry_rows[1:]], np.array(directories.types, np.uint8)):
        raise FormatError("an entry whose type differs from its inode's")
    if table.type[entry_rows[0]] != DIRECTORY:
        raise FormatError("the root is not a directory")
    chunks = raw.read_chunks()
    raw.read_targets()
    table.xattrs = read_xattrs(data, raw.address + raw.head_size, raw.xattr_count)
    inodes = table.build(origin)
    named = [inodes[row] for row in entry_rows.tolist()]
    del named[0]
    for number, nid in enumerate(directories.directories):
        low, high = directories.starts[number], directories.starts[number + 1]
        inodes[int(np.searchsorted(nids, nid))].children = dict(zip(directories.names[low:high], named[low:high]))
    return Bootstrap(
        version=6,
        chunk_size=sb.chunk_size,
        compressor=sb.compressor,
        digester=sb.digester,
        root=inodes[entry_rows[0]],
        blobs=sb.blobs,
        chunks=chunks,
        prefetch=prefetch_paths(sb.prefetch, directories.path),
        flags=sb.flags,
    )
