"""The records on disk have the sizes and the field positions that the format says."""

import numpy as np
import pytest

from nydusify.errors import FormatError
from nydusify.rafs import blob, spec, v5, v6


@pytest.mark.parametrize(
    ("record", "size"),
    [
        (spec.CHUNK, 80),
        (v5.SUPER_BLOCK, 8192),
        (v5.EXTENDED_BLOB, 64),
        (v5.INODE, 128),
        (v6.SUPER_BLOCK, 128),
        (v6.EXTENDED_SUPER_BLOCK, 256),
        (v6.DEVICE_SLOT, 128),
        (v6.BLOB, 256),
        (v6.INODE_EXTENDED, 64),
        (v6.INODE_COMPACT, 32),
        (v6.DIRENT, 12),
        (v6.CHUNK_INDEX, 8),
        (v6.XATTR_ENTRY, 4),
        (blob.CHUNK_INFO_V1, 16),
        (blob.CHUNK_INFO_V2, 24),
        (blob.CI_HEADER, 4096),
        (blob.ZRAN_CONTEXT, 40),
        (blob.BATCH_CONTEXT, 40),
        (blob.TOC_ENTRY, 128),
        (blob.TAR_HEADER, 512),
    ],
)
def test_a_record_has_the_size_of_the_format(record: np.dtype, size: int) -> None:
    assert record.itemsize == size


@pytest.mark.parametrize(
    ("record", "offsets"),
    [
        (spec.CHUNK, {"blob": 32, "coffset": 48, "file_offset": 64, "index": 72, "crc": 76}),
        (v5.SUPER_BLOCK, {"flags": 16, "inode_table": 32, "inode_entries": 56, "extended_table": 72}),
        (v5.INODE, {"parent": 32, "mode": 60, "nlink": 88, "name_size": 100, "mtime": 112, "private": 120}),
        (v6.SUPER_BLOCK, {"root_nid": 14, "meta_block": 40, "feature_incompat": 80, "device_slot": 88}),
        (v6.EXTENDED_SUPER_BLOCK, {"chunk_size": 20, "chunk_table": 24, "prefetch_table_size": 48}),
        (v6.BLOB, {"features": 84, "toc_size": 104, "toc_digest": 136, "meta_size": 200, "cipher": 216}),
        (v6.INODE_EXTENDED, {"size": 8, "u": 16, "mtime": 32, "nlink": 44, "private": 48}),
        (v6.INODE_COMPACT, {"size": 8, "u": 16, "ino": 20, "uid": 24, "gid": 26}),
        (blob.CI_HEADER, {"ci_offset": 16, "contexts_offset": 40, "contexts": 56, "magic2": 4092}),
        (blob.ZRAN_CONTEXT, {"in_size": 24, "dict_size": 32, "byte": 36, "bits": 37}),
        (blob.TOC_ENTRY, {"name": 8, "digest": 24, "offset": 56, "usize": 72}),
        (blob.TAR_HEADER, {"size": 124, "mtime": 136, "checksum": 148, "type": 156, "magic": 257}),
    ],
)
def test_fields_lie_where_the_format_says(record: np.dtype, offsets: dict[str, int]) -> None:
    assert {name: record.fields[name][1] for name in offsets} == offsets


@pytest.mark.parametrize("size", [0, 1, 4096, (1 << 33) - 1, 1 << 33, 1 << 40])
def test_a_tar_header_survives_a_round_trip(size: int) -> None:
    assert blob.parse_tar_header(blob.tar_header("blob.meta", size)) == ("blob.meta", size)


@pytest.mark.parametrize("at", [0, 124, 148, 156, 257, 511])
def test_a_damaged_tar_header_is_refused(at: int) -> None:
    header = bytearray(blob.tar_header("image.boot", 8192))
    header[at] ^= 1

    with pytest.raises(FormatError):
        blob.parse_tar_header(bytes(header))
