"""Damaged blobs: refused with a `FormatError` where their kind of damage must be, in little memory."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nydusify.errors import DigestMismatch, FormatError
from nydusify.rafs import zran
from nydusify.rafs.blob import CI_HEADER_SIZE, ZRAN_CONTEXT
from nydusify.rafs.blob_reader import (
    blob_meta_file,
    extract_bootstrap,
    parse_blob_meta_file,
    read_chunk_digests,
    read_sections,
)
from nydusify.rafs.blob_source import FileBlob
from nydusify.rafs.chunk_info import parse_chunk_info
from nydusify.rafs.chunk_reader import ChunkReader
from nydusify.rafs.codec import decompress
from nydusify.rafs.reader import read_bootstrap
from nydusify.rafs.spec import ChunkFlag
from nydusify.rafs.tree import BlobInfo, Bootstrap
from tests.golden import golden_dir
from tests.memory import measured

MEMORY = 64 << 20
"""Bytes that a blob of some KiB may take; the most a reader may use at all is 256 MB."""
BLOB_ID = "a" * 64
GOOD_BLOB = "should-fail/good/v6/2b5162e5c9900a4ad3604cb0214216f9dffc3946bf6cf69ac578272c54605be3"


class Bytes:
    """A blob in memory."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def damaged(kind: str, name: str = "") -> Iterator[Any]:
    """The golden set's list, or one test that skips with the reason."""
    try:
        cases = json.loads((golden_dir() / "should-fail/index.json").read_text())
    except pytest.skip.Exception as skipped:
        yield pytest.param({}, marks=pytest.mark.skip(reason=str(skipped)), id="none")
        return
    for case in cases:
        if case["kind"].startswith(kind) and Path(case["file"]).name.startswith(name):
            yield pytest.param(case, id=Path(case["file"]).name[:40])


def open_blob(blob: FileBlob) -> Bootstrap:
    """Open a framed blob as a checker does: all its small sections, each compared with its digest."""
    bootstrap = read_bootstrap(extract_bootstrap(blob), blob_id=BLOB_ID)
    blob_meta_file(blob, bootstrap.blobs[0])
    read_chunk_digests(blob, bootstrap.blobs[0])
    return bootstrap


def read_chunks(bootstrap: Bootstrap, blob: FileBlob) -> None:
    reader = ChunkReader(bootstrap, lambda _: blob)
    for row in range(len(bootstrap.chunks)):
        reader.read(row)


@pytest.mark.parametrize("case", list(damaged("framed blob")))
def test_a_damaged_blob_is_refused_where_its_kind_of_damage_must_be(case: dict[str, Any]) -> None:
    with FileBlob(golden_dir() / case["file"]) as blob, measured() as peak:
        if case["must"] == "refuse at open":
            with pytest.raises(FormatError):
                open_blob(blob)
        elif case["must"] == "refuse at read":
            bootstrap = open_blob(blob)
            with pytest.raises(FormatError):
                read_chunks(bootstrap, blob)
        else:
            assert case["must"].startswith("refuse when the CI array is opened")
            info = read_bootstrap(extract_bootstrap(blob), blob_id=BLOB_ID).blobs[0]
            with pytest.raises(FormatError):
                blob_meta_file(blob, info)
    assert peak.grown < MEMORY


@pytest.mark.parametrize("case", list(damaged("framed blob", "blob-ci")))
def test_damaged_chunk_information_is_refused_without_the_help_of_a_digest(case: dict[str, Any]) -> None:
    """A hostile blob has right digests: what stands in the array and its header must be refused for itself."""
    with FileBlob(golden_dir() / case["file"]) as blob:
        info = read_bootstrap(extract_bootstrap(blob), blob_id=BLOB_ID).blobs[0]
        array = decompress(info.ci_compressor, blob.read_at(info.ci_offset, info.ci_size), info.ci_raw_size)
        header = blob.read_at(info.ci_offset + info.ci_size, CI_HEADER_SIZE)
    with pytest.raises(FormatError):
        parse_chunk_info(info, array, header)


@pytest.mark.parametrize("case", list(damaged("cached blob.meta")))
def test_a_damaged_cached_file_is_refused_and_an_undamaged_one_read(case: dict[str, Any]) -> None:
    bootstrap = read_bootstrap((golden_dir() / case["base"]).with_name("merged.boot").read_bytes())
    meta, info = (golden_dir() / case["file"]).read_bytes(), bootstrap.blobs[0]

    with measured() as peak:
        if case["must"] == "accept":
            assert len(parse_blob_meta_file(meta, info).usize) == info.chunk_count
        else:
            with pytest.raises(FormatError):
                parse_blob_meta_file(meta, info)
    assert peak.grown < MEMORY


@pytest.fixture
def good() -> Iterator[tuple[Bootstrap, FileBlob]]:
    path = golden_dir() / GOOD_BLOB
    with FileBlob(path) as blob:
        yield read_bootstrap(extract_bootstrap(blob), blob_id=path.name), blob


def test_the_undamaged_blob_is_read(good: tuple[Bootstrap, FileBlob]) -> None:
    bootstrap, blob = good
    read_chunks(bootstrap, blob)
    assert len(bootstrap.chunks) == bootstrap.blobs[0].chunk_count


@pytest.mark.parametrize("cut", [*range(0, 1500, 97), *range(1, 17923, 1013)])
def test_a_blob_that_is_cut_anywhere_is_refused(cut: int) -> None:
    data = (golden_dir() / GOOD_BLOB).read_bytes()
    with pytest.raises(FormatError):
        read_sections(Bytes(data[: len(data) - 1 - cut]))


@pytest.mark.parametrize("field", ["coffset", "csize", "uoffset", "flags"])
def test_a_bootstrap_that_contradicts_its_blob_is_refused(good: tuple[Bootstrap, FileBlob], field: str) -> None:
    bootstrap, blob = good
    bootstrap.chunks = bootstrap.chunks.copy()
    bootstrap.chunks[field][1] ^= 1
    with pytest.raises(FormatError, match="disagree"):
        ChunkReader(bootstrap, lambda _: blob).read(0)


@pytest.mark.parametrize("field", ["digest", "crc"])
def test_a_chunk_with_another_digest_or_checksum_is_refused(good: tuple[Bootstrap, FileBlob], field: str) -> None:
    bootstrap, blob = good
    bootstrap.chunks = bootstrap.chunks.copy()
    assert bootstrap.chunks["flags"][1] & ChunkFlag.HAS_CRC
    bootstrap.chunks[field][1] = bytes(32) if field == "digest" else 1
    reader = ChunkReader(bootstrap, lambda _: blob)
    reader.read(0)
    with pytest.raises(DigestMismatch):
        reader.read(1)


def test_an_entry_that_announces_more_than_its_bytes_can_hold_is_refused(good: tuple[Bootstrap, FileBlob]) -> None:
    bootstrap, blob = good
    info: BlobInfo = replace(bootstrap.blobs[0], ci_raw_size=1 << 40)
    with measured() as peak, pytest.raises(FormatError):
        blob_meta_file(blob, info)
    assert peak.grown < MEMORY


def context(in_size: int, out_size: int) -> Any:
    return np.array([(10, 0, 0, in_size, out_size, 0, 0, 0, b"")], ZRAN_CONTEXT)[0]


def test_a_zran_context_unpacks_no_more_than_it_announces() -> None:
    bomb = gzip.compress(bytes(512 << 20), 1, mtime=0)
    with measured() as peak:
        assert zran.inflate(Bytes(bomb).read_at, context(len(bomb) - 10, 1 << 20), b"") == bytes(1 << 20)
    assert peak.grown < MEMORY


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (gzip.compress(b"short", mtime=0), 6),
        (gzip.compress(b"x" * 1000, mtime=0)[:-14], 1000),
        (gzip.compress(b"text", mtime=0) + b"no gzip member here", 8),
        (gzip.compress(b"", mtime=0) * 5000, 1),
        (bytes(10) + b"\xff" * 100, 8),
    ],
    ids=["too-short", "cut", "garbage-behind", "empty-members", "garbage"],
)
def test_damaged_gzip_data_in_a_context_are_refused(data: bytes, size: int) -> None:
    with pytest.raises(FormatError):
        zran.inflate(Bytes(data).read_at, context(len(data) - 10, size), b"")
