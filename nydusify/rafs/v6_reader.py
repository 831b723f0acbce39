"""Reads a v6 bootstrap: super blocks, tree and chunk table become a `tree.Bootstrap`."""

import numpy as np

from nydusify.errors import FormatError
from nydusify.rafs import v6
from nydusify.rafs.inode_table import DIRECTORY, REGULAR, SYMLINK, Column, InodeTable, check_target
from nydusify.rafs.spec import SuperFlag
from nydusify.rafs.tree import Bootstrap
from nydusify.rafs.v6_chunks import FileChunks, read_chunks, read_tarfs_chunks
from nydusify.rafs.v6_directories import blocks_of, read_directories
from nydusify.rafs.v6_super import SuperBlock, read_super_block
from nydusify.rafs.v6_xattrs import read_xattrs
from nydusify.rafs.validate import MAX_TARGET

_HALF = np.dtype("V32")


def read_v6(data: bytes, blob_id: str | None, origin: int) -> Bootstrap:
    """See `reader.read_bootstrap`. Rows of the chunk table are in the order of blob and chunk number."""
    sb = read_super_block(data, blob_id)
    directories = read_directories(data, sb)
    nids, rows = np.unique(np.array([sb.root_nid, *directories.nids], np.uint64), return_inverse=True)
    nodes = _Nodes(data, sb, nids)
    table = nodes.table
    types = np.array([DIRECTORY, *directories.types], np.uint8)
    if not np.array_equal(table.type[rows], types):
        raise FormatError("an entry whose type differs from its inode's, or a root that is not a directory")
    files = nodes.file_chunks()
    nodes.check_space(directories.used, files)
    nodes.read_targets()
    table.xattrs = read_xattrs(data, nodes.inode_end, nodes.xattr_count)
    read = read_tarfs_chunks if SuperFlag.TARFS in sb.flags else read_chunks
    chunks, table.rows = read(data, sb, files)
    table.files, table.counts = files.files, files.counts
    inodes = table.build(origin)
    named = list(map(inodes.__getitem__, rows.tolist()))
    root = named.pop(0)
    for entry, low, high in zip(directories.named_by, directories.starts, directories.starts[1:], strict=False):
        parent = named[entry] if entry >= 0 else root
        parent.children = dict(zip(directories.names[low:high], named[low:high], strict=True))
    return Bootstrap(
        version=6,
        chunk_size=sb.chunk_size,
        compressor=sb.compressor,
        digester=sb.digester,
        root=root,
        blobs=sb.blobs,
        chunks=chunks,
        prefetch=directories.paths(sb.prefetch),
        flags=sb.flags,
    )


class _Nodes:
    """The inodes with the given nids (sorted, no two the same), as columns."""

    def __init__(self, data: bytes, sb: SuperBlock, nids: Column) -> None:
        self.data, self.sb = data, sb
        slots = np.frombuffer(data, _HALF)
        if int(nids[-1]) > len(data) // v6.NID_SIZE:
            raise FormatError(f"nid {int(nids[-1])} outside the file")
        slot = nids.astype(np.int64) + sb.meta // v6.NID_SIZE
        self.address = slot * v6.NID_SIZE
        if int(slot[-1]) >= len(slots) or int(self.address[0]) < sb.first_inode:
            raise FormatError("an inode outside the file, or inside the super block")
        raw = np.zeros((len(nids), 2), _HALF)
        raw[:, 0] = slots[slot]
        extended = raw.view(v6.INODE_EXTENDED)[:, 0]
        compact = raw[:, :1].copy().view(v6.INODE_COMPACT)[:, 0]
        is_long = extended["format"] & v6.FORMAT_EXTENDED != 0
        if np.any(is_long[-1:]) and int(slot[-1]) + 1 >= len(slots):
            raise FormatError("an inode beyond the end of the file")
        raw[is_long, 1] = slots[slot[is_long] + 1]
        self._take(extended, compact, is_long)

    def _take(self, extended: Column, compact: Column, is_long: Column) -> None:
        if np.any(extended["format"] >> 4):
            raise FormatError("an inode with an unknown format")
        self.layout = extended["format"] >> 1 & 7
        self.u = extended["u"]
        self.size = np.where(is_long, extended["size"], compact["size"])
        self.xattr_count = extended["xattr_count"].astype(np.int64)
        head = np.where(is_long, v6.INODE_EXTENDED.itemsize, v6.INODE_COMPACT.itemsize)
        self.inode_end = self.address + head
        area = v6.XATTR_HEADER_SIZE + 4 * (self.xattr_count - 1)
        self.end = self.inode_end + np.where(self.xattr_count > 0, area, 0)
        if int(self.end.max()) > len(self.data):
            raise FormatError("extended attributes beyond the end of the file")
        self.table = InodeTable(
            mode=extended["mode"],
            uid=np.where(is_long, extended["uid"], compact["uid"]),
            gid=np.where(is_long, extended["gid"], compact["gid"]),
            mtime=extended["mtime"],
            mtime_ns=extended["mtime_ns"],
            size=np.zeros(len(extended), np.int64),
            rdev=self.u,
            nlink=np.where(is_long, extended["nlink"], compact["nlink"]),
            private=extended["private"],
        )
        kind = self.table.type
        chunked, flat = kind == REGULAR, (kind == DIRECTORY) | (kind == SYMLINK)
        fits = np.where(chunked, self.layout == v6.LAYOUT_CHUNKED, self.layout == v6.LAYOUT_PLAIN)
        if not np.all(fits | (flat & (self.layout == v6.LAYOUT_INLINE))):
            raise FormatError("an inode whose data layout does not fit its type")

    def file_chunks(self) -> FileChunks:
        """Where the chunk indexes of regular files lie, all inside the bootstrap."""
        files = np.flatnonzero(self.table.type == REGULAR)
        sizes, chunk_size = self.size[files], self.sb.chunk_size
        if len(sizes) and int(sizes.max()) > len(self.data) // v6.CHUNK_INDEX.itemsize * chunk_size:
            raise FormatError(f"a file of {int(sizes.max())} bytes, more than the bootstrap has chunks for")
        sizes = sizes.astype(np.int64)
        self.table.size[files] = sizes
        counts = -(-sizes // chunk_size)
        starts = -(-self.end[files] // 8) * 8
        if np.any(starts + counts * v6.CHUNK_INDEX.itemsize > len(self.data)):
            raise FormatError("chunk indexes beyond the end of the file")
        return FileChunks(files, sizes, counts, starts, self.u[files])

    def check_space(self, directory_bytes: int, files: FileChunks) -> None:
        """Parts that overlap would let a small file grow large in memory: together they must fit into it."""
        symlinks = np.flatnonzero(self.table.type == SYMLINK)
        targets = self.size[symlinks]
        if len(targets) and int(targets.max()) > MAX_TARGET:
            raise FormatError(f"a symlink of {int(targets.max())} bytes")
        used = directory_bytes + int(targets.sum()) + int((self.end - self.address).sum())
        if used + int(files.counts.sum()) * v6.CHUNK_INDEX.itemsize > len(self.data):
            raise FormatError("inodes and their data overlap")

    def read_targets(self) -> None:
        data, bits = self.data, self.sb.block_bits
        rows = np.flatnonzero(self.table.type == SYMLINK)
        columns = (self.layout[rows], self.end[rows], self.u[rows], self.size[rows])
        self.table.size[rows] = self.size[rows]
        for row, layout, end, block, size in zip(rows.tolist(), *(c.tolist() for c in columns), strict=True):
            target = b"".join(data[low:high] for low, high in blocks_of(data, bits, layout, end, block, size))
            check_target(target)
            self.table.targets[row] = target
