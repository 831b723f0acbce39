"""A bootstrap in memory: the same objects are read from v5 and v6, merged, and written as either."""

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nydusify.rafs.spec import CHUNK, BlobFeature, Cipher, Compressor, Digester, SuperFlag

NO_FLAGS = SuperFlag(0)
ChunkTable = npt.NDArray[np.void]
"""An array of `CHUNK` records."""


@dataclass(slots=True, eq=False)
class Inode:
    """One file, directory or other entry. Hard links are several names for one object."""

    mode: int
    """``st_mode`` with the type bits."""
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    """Whole seconds since 1970, rounded down; negative before."""
    mtime_ns: int = 0
    size: int = 0
    """Bytes of a regular file or of a symlink's target; 0 otherwise."""
    rdev: int = 0
    """Device number in the 32-bit Linux encoding."""
    target: bytes = b""
    """Where a symlink points."""
    xattrs: dict[bytes, bytes] | None = None
    children: dict[bytes, "Inode"] | None = None
    """Entries of a directory by name, in any order; None for everything else."""
    chunks: Sequence[int] = ()
    """Rows of `Bootstrap.chunks` that make up a regular file, in order."""
    origin: int = 0
    """Which of several chunk tables ``chunks`` counts in, while bootstraps are merged; 0 otherwise."""
    implicit: bool = False
    """A directory that its layer fills but does not list: when merged, a lower layer's attributes stay."""
    lower_link: bool = False
    """A hard link whose target (in ``target``, relative to the root) was not in its own layer when it was met."""

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One row of the blob table. Sizes and offsets in bytes; ``ci_…`` is the chunk-information array."""

    id: str
    compressed_size: int
    uncompressed_size: int
    chunk_count: int
    chunk_size: int
    compressor: Compressor
    digester: Digester
    features: BlobFeature
    ci_compressor: Compressor = Compressor.NONE
    ci_offset: int = 0
    ci_size: int = 0
    """As stored."""
    ci_raw_size: int = 0
    toc_size: int = 0
    toc_digest: bytes = bytes(32)
    meta_digest: bytes = bytes(32)
    """sha256 of the blob that holds the RAFS part of a zran blob."""
    meta_size: int = 0
    cipher: Cipher = Cipher.NONE
    key: bytes = b""
    iv: bytes = b""


@dataclass(slots=True)
class Bootstrap:
    """A whole file system: tree, chunk table, blob table."""

    version: int
    """5 or 6."""
    chunk_size: int
    compressor: Compressor
    digester: Digester
    root: Inode
    blobs: list[BlobInfo]
    chunks: ChunkTable = field(default_factory=lambda: np.empty(0, CHUNK))
    prefetch: list[bytes] = field(default_factory=list)
    """Paths of the prefetch table, in its order; ``/`` alone means everything."""
    flags: SuperFlag = NO_FLAGS
    """As read. Writers work the flags out anew and keep only `SuperFlag.TARFS` from here."""


def iter_inodes(root: Inode) -> Iterator[Inode]:
    """Every name's inode, in no particular order: hard links come once a name. Cheaper than `iter_tree`."""
    todo = [root]
    while todo:
        inode = todo.pop()
        yield inode
        if inode.children:
            todo.extend(inode.children.values())


def iter_tree(root: Inode) -> Iterator[tuple[bytes, Inode]]:
    """Every path (``/``, ``/bin``, …) with its inode, parents first, names in byte order; no recursion."""
    todo: list[tuple[bytes, Inode]] = [(b"/", root)]
    while todo:
        path, inode = todo.pop()
        yield path, inode
        if inode.children:
            prefix = path if path == b"/" else path + b"/"
            todo.extend((prefix + name, inode.children[name]) for name in sorted(inode.children, reverse=True))
