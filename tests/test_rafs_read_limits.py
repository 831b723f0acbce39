"""Bootstraps that small files could make large, and rare but legal forms that no builder of ours writes."""

import stat
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nydusify.errors import FormatError
from nydusify.rafs import v5, v6
from nydusify.rafs.reader import read_bootstrap
from nydusify.rafs.spec import CHUNK, BlobFeature, Compressor, Digester
from nydusify.rafs.tree import BlobInfo, Bootstrap, Inode
from nydusify.rafs.writer import write_bootstrap
from tests.layers import DATA
from tests.trees import differences, tree_of

FILE, DIRECTORY, SYMLINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777


def bootstrap(children: dict[bytes, Inode], version: int = 6, **fields: Any) -> Bootstrap:
    root = Inode(DIRECTORY, children=children)
    return Bootstrap(version, 4096, Compressor.ZSTD, Digester.BLAKE3, root, fields.pop("blobs", []), **fields)


def nids(data: bytes) -> dict[bytes, int]:
    """The nid of each entry of the root of a v6 bootstrap, whose names all lie in one block."""
    sb = np.frombuffer(data, v6.SUPER_BLOCK, 1, v6.SUPER_BLOCK_OFFSET)[0]
    root = (int(sb["meta_block"]) << 12) + int(sb["root_nid"]) * 32
    inode = np.frombuffer(data, v6.INODE_EXTENDED, 1, root)[0]
    content = bytes(data[root + 64 : root + 64 + int(inode["size"])])
    dirents = np.frombuffer(content, v6.DIRENT, int(np.frombuffer(content, "<u2", 1, 8)[0]) // 12)
    ends = [*dirents["name_offset"].tolist()[1:], len(content)]
    return {
        content[start:end]: int(nid)
        for start, end, nid in zip(dirents["name_offset"].tolist(), ends, dirents["nid"].tolist(), strict=True)
    }


def offset_of(data: bytearray, nid: int) -> int:
    sb = np.frombuffer(data, v6.SUPER_BLOCK, 1, v6.SUPER_BLOCK_OFFSET)[0]
    return (int(sb["meta_block"]) << 12) + nid * 32


def inode_at(data: bytearray, nid: int) -> Any:
    """A record of ``data`` to change in place."""
    return np.frombuffer(data, v6.INODE_EXTENDED, 1, offset_of(data, nid))


def test_directories_that_share_their_entries_cannot_multiply_them() -> None:
    entries = {b"!%0200d" % number: Inode(FILE) for number in range(200)}
    small = {b"small%d" % number: Inode(DIRECTORY, children={}) for number in range(60)}
    data = bytearray(write_bootstrap(bootstrap({b"big": Inode(DIRECTORY, children=entries), **small})))
    found = nids(data)
    big = inode_at(data, found[b"big"])[0]
    full = int(big["size"]) // 4096 * 4096
    for name in small:
        record = inode_at(data, found[name])
        record["size"] += full
        record["u"] = big["u"]

    with pytest.raises(FormatError, match="larger than the bootstrap"):
        read_bootstrap(bytes(data))


def test_files_whose_chunk_indexes_overlap_cannot_multiply_them() -> None:
    files = {b"f%02d" % number: Inode(FILE) for number in range(50)}
    data = bytearray(write_bootstrap(bootstrap(files)))
    found = nids(data)
    for name in files:
        inode_at(data, found[name])["size"] = 250 * 4096

    with pytest.raises(FormatError, match=r"overlap|beyond the end"):
        read_bootstrap(bytes(data))


@pytest.mark.parametrize("version", [5, 6])
def test_a_tree_may_be_deep_but_not_without_end(version: int) -> None:
    def chain(depth: int) -> bytes:
        inode = Inode(DIRECTORY, children={})
        for _ in range(depth):
            inode = Inode(DIRECTORY, children={b"dir": inode})
        return write_bootstrap(bootstrap({b"top": inode}, version))

    assert len(tree_of(read_bootstrap(chain(2000)))) == 2002
    with pytest.raises(FormatError, match="a path of"):
        read_bootstrap(chain(5000))


def test_compact_inodes_are_read() -> None:
    children = {b"empty": Inode(FILE, 7, 8), b"link": Inode(SYMLINK, 9, 10, size=4, target=b"here")}
    data = bytearray(write_bootstrap(bootstrap(children)))
    for name, nid in nids(data).items():
        if name in children:
            long = inode_at(data, nid)[0].copy()
            short = np.zeros(1, v6.INODE_COMPACT)
            for field in ("mode", "nlink", "size", "u", "ino", "uid", "gid"):
                short[field] = long[field]
            short["format"] = long["format"] ^ v6.FORMAT_EXTENDED
            start, end = offset_of(data, nid), offset_of(data, nid) + 64 + len(children[name].target)
            data[start:end] = short.tobytes() + data[start + 64 : end] + bytes(32)

    assert differences(tree_of(bootstrap(children)), tree_of(read_bootstrap(bytes(data)))) == []


def test_a_very_old_v5_image_without_sizes_of_its_blobs_is_read() -> None:
    data = bytearray((DATA / "bootstraps/v5-zstd.boot").read_bytes())
    whole = read_bootstrap(bytes(data))
    np.frombuffer(data, v5.SUPER_BLOCK, 1)["extended_entries"] = 0

    old = read_bootstrap(bytes(data))
    assert differences(tree_of(whole), tree_of(old)) == []
    assert [blob.id for blob in old.blobs] == [blob.id for blob in whole.blobs]
    for known, guessed in zip(whole.blobs, old.blobs, strict=True):  # what the tree uses of them
        assert 0 < guessed.uncompressed_size <= known.uncompressed_size
        assert 0 < guessed.chunk_count <= known.chunk_count


@pytest.mark.parametrize("version", [5, 6])
def test_marks_of_a_layer_bootstrap_survive(version: int) -> None:
    children = {
        b"implicit": Inode(DIRECTORY, children={}, implicit=True),
        b"link": Inode(SYMLINK, size=5, target=b"a/b/c", lower_link=True),
        b"plain": Inode(FILE),
    }
    root = read_bootstrap(write_bootstrap(bootstrap(children, version)), origin=3).root

    assert root.children is not None
    marks = {name: (inode.implicit, inode.lower_link, inode.origin) for name, inode in root.children.items()}
    assert marks == {b"implicit": (True, False, 3), b"link": (False, True, 3), b"plain": (False, False, 3)}


@pytest.mark.parametrize("version", [5, 6])
@pytest.mark.parametrize(
    ("features", "found"),
    [
        (BlobFeature.INLINED_FS_META | BlobFeature.CAP_TAR_TOC, "b" * 64),
        (BlobFeature.CAP_TAR_TOC, "a" * 64),
        (BlobFeature(0), "b" * 64),
    ],
)
def test_only_a_placeholder_becomes_the_id_of_the_file(version: int, features: BlobFeature, found: str) -> None:
    chunks = np.zeros(1, CHUNK)
    chunks["csize"] = chunks["usize"] = 10
    blob = BlobInfo("a" * 64, 1 << 20, 4096, 1, 4096, Compressor.ZSTD, Digester.BLAKE3, features)
    if version == 6:
        blob = replace(blob, features=features | BlobFeature.ALIGNED, ci_size=16, ci_raw_size=16, ci_offset=10)
    file = Inode(FILE, size=10, chunks=range(1))
    data = write_bootstrap(bootstrap({b"f": file}, version, blobs=[blob], chunks=chunks))

    assert read_bootstrap(data).blobs[0].id == "a" * 64
    assert read_bootstrap(data, blob_id="b" * 64).blobs[0].id == found


@pytest.mark.parametrize("version", [5, 6])
def test_a_file_with_two_names_is_one_object(version: int) -> None:
    file = Inode(FILE)
    root = read_bootstrap(write_bootstrap(bootstrap({b"a": file, b"z": file}, version))).root

    assert root.children is not None
    assert root.children[b"a"] is root.children[b"z"]
