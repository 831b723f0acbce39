"""A bootstrap as the entries that the golden set's ``expected/*.json`` lists, and how two such trees differ."""

import base64
import hashlib
import json
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

import numpy as np
import zstandard

from nydusify.rafs.codec import crc32c, decompress, digest_function
from nydusify.rafs.numbering import number_tree
from nydusify.rafs.spec import ChunkFlag
from nydusify.rafs.tree import Bootstrap, Inode, iter_tree

Entry = dict[str, Any]
Tree = dict[str, Entry]
"""Entries by percent-encoded path."""
Content = Callable[[Inode], str]
"""The hex sha256 of a regular file."""

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
ABOUT_THE_LAYER = {"whiteout", "implicit"}
"""Fields that only make sense for one layer, not for the merged image."""


def quote(path: bytes) -> str:
    return quote_from_bytes(path, safe="/")


def expected_tree(path: Path) -> Tree:
    """An ``expected`` file, with paths quoted as `quote` does; ``path`` may also be that of its zstd form."""
    if not path.exists():
        path = path.with_name(path.name + ".zst")
    data = path.read_bytes()
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    entries = json.loads(data)
    for entry in entries:
        entry |= {key: quote(unquote_to_bytes(entry[key])) for key in ("path", "link") if key in entry}
    return {entry["path"]: entry for entry in entries}


def tree_of(bootstrap: Bootstrap, content: Content | None = None) -> Tree:
    """The entries of ``bootstrap``; files have a ``sha256`` if ``content`` gives it."""
    numbering = number_tree(bootstrap.root)
    links = {id(inode): count for inode, count in zip(numbering.inodes, numbering.links, strict=True)}
    return {quote(path): _entry(path, inode, links[id(inode)], content) for path, inode in iter_tree(bootstrap.root)}


def _entry(path: bytes, inode: Inode, links: int, content: Content | None) -> Entry:
    kind = KINDS[inode.kind]
    made: Entry = {
        "path": quote(path),
        "type": kind,
        "mode": f"{stat.S_IMODE(inode.mode):04o}",
        "uid": inode.uid,
        "gid": inode.gid,
        "mtime_s": inode.mtime,
        "mtime_ns": inode.mtime_ns,
        "nlink": links,
    }
    if kind == "symlink":
        made |= {"link": quote(inode.target), "size": inode.size}
    elif kind == "file":
        made["size"] = inode.size
        if content is not None:
            made["sha256"] = content(inode)
    elif kind in ("char", "block"):
        made["rdev"] = inode.rdev
    if inode.xattrs:
        made["xattrs"] = encode_xattrs(inode.xattrs)
    if inode.implicit:
        made["implicit"] = True
    if inode.lower_link:
        made["lower_link"] = True
    return made


def encode_xattrs(xattrs: Mapping[bytes, bytes]) -> dict[str, str]:
    return {quote(name): base64.b64encode(xattrs[name]).decode() for name in sorted(xattrs)}


def differences(expected: Tree, tree: Tree, ignore: Collection[str] = ()) -> list[str]:
    """What of ``tree`` is not as ``expected``, one line a field, but for the fields ``ignore``."""
    lines = [f"{path}: only in the truth" for path in sorted(expected.keys() - tree.keys())]
    lines += [f"{path}: not in the truth" for path in sorted(tree.keys() - expected.keys())]
    for path in sorted(expected.keys() & tree.keys()):
        truth, ours = expected[path], tree[path]
        for name in sorted((truth.keys() | ours.keys()) - set(ignore)):
            wanted, got = truth.get(name), ours.get(name)
            if wanted != got:
                lines.append(f"{path}: {name}: truth {json.dumps(wanted)}, ours {json.dumps(got)}")
    return lines


class BlobContent:
    """Reads whole files out of blobs by nothing but the bootstrap's chunk records; every digest and CRC is compared."""

    def __init__(self, bootstrap: Bootstrap, blobs: Mapping[str, bytes]) -> None:
        self._bootstrap = bootstrap
        self._blobs = blobs
        self._digest = [digest_function(blob.digester) for blob in bootstrap.blobs]
        self._plain: dict[int, bytes] = {}
        self._files: dict[int, str] = {}

    def chunk(self, row: int) -> bytes:
        """The plain bytes of one row of the chunk table."""
        record = self._bootstrap.chunks[row]
        number, offset, size = int(record["blob"]), int(record["coffset"]), int(record["csize"])
        info, flags = self._bootstrap.blobs[number], int(record["flags"])
        plain = self._blobs[info.id][offset : offset + size]
        assert len(plain) == size, f"row {row} lies beyond its blob"
        if flags & ChunkFlag.COMPRESSED:
            plain = decompress(info.compressor, plain, int(record["usize"]))
        assert len(plain) == record["usize"]
        assert self._digest[number](plain) == record["digest"].tobytes()
        assert not flags & ChunkFlag.HAS_CRC or crc32c(plain) == record["crc"]
        return plain

    def __call__(self, inode: Inode) -> str:
        known = self._files.get(id(inode))
        if known is None:
            state, size = hashlib.sha256(), 0
            for row in inode.chunks:
                if row not in self._plain:
                    self._plain[row] = self.chunk(row)
                state.update(self._plain[row])
                size += len(self._plain[row])
            assert size == inode.size
            known = self._files[id(inode)] = state.hexdigest()
        return known


def device_images(bootstrap: Bootstrap, blobs: Mapping[str, bytes]) -> list[bytes]:
    """The plain data of every blob as the kernel's EROFS and a cache file have them, in the order of the blob table."""
    images = [np.zeros(blob.uncompressed_size, np.uint8) for blob in bootstrap.blobs]
    content = BlobContent(bootstrap, blobs)
    for row, record in enumerate(bootstrap.chunks):
        start, size = int(record["uoffset"]), int(record["usize"])
        images[int(record["blob"])][start : start + size] = np.frombuffer(content.chunk(row), np.uint8)
    return [image.tobytes() for image in images]
