"""Blobs of the reference builder, read: every chunk is what its digest says, every file what the truth says."""

import gzip
import hashlib
import io
import json
import random
import tarfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from nydusify.rafs import zran
from nydusify.rafs.blob import ZRAN_CONTEXT
from nydusify.rafs.blob_reader import blob_meta_file, extract_bootstrap, read_chunk_digests, read_sections
from nydusify.rafs.blob_source import BlobSource, FileBlob
from nydusify.rafs.chunk_reader import ChunkReader
from nydusify.rafs.reader import read_bootstrap
from nydusify.rafs.spec import BlobFeature, Compressor
from nydusify.rafs.tree import Bootstrap, iter_tree
from tests.golden import golden_dir

ALL_READS = 6852
"""What the golden set's own reader counted over all bootstraps."""
COUNTED_TWICE = {"built/v6-chunk-4m/merged.boot": 1}
"""The set's reader says 612; the blob entry, the chunk table and the set's own list of blobs say 611."""


class Bytes:
    """A blob in memory."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


@cache
def index() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((golden_dir() / "built/index.json").read_text())
    return found


@cache
def library() -> dict[str, BlobSource]:
    """Every blob of the set by its id: framed ones, and the layers, packed and plain, that zran and tarfs read."""
    golden = golden_dir()
    paths = [*golden.glob("built/*/blobs/*"), *golden.glob("should-fail/good/*/*")]
    found: dict[str, BlobSource] = {path.name: FileBlob(path) for path in paths if len(path.name) == 64}
    for path in golden.glob("layers/*.tar*"):
        data = path.read_bytes()
        plain = gzip.decompress(data) if path.suffix == ".gz" else data
        for content in (data, plain):
            found[hashlib.sha256(content).hexdigest()] = Bytes(content)
    return found


def bootstraps(case: str) -> Iterator[tuple[dict[str, Any], Bootstrap]]:
    """Those of a case, from files and from its layers' blobs, with what the set says about each."""
    blobs = iter((index()[case]["layers"] or {}).values())
    for row in index()[case]["bootstraps"]:
        if row["bootstrap"]:
            yield row, read_bootstrap((golden_dir() / row["bootstrap"]).read_bytes())
        else:
            blob_id = Path(next(blobs)["blob"]).name
            yield row, read_bootstrap(extract_bootstrap(library()[blob_id]), blob_id=blob_id)


def cases() -> list[str]:
    try:
        return sorted(index())
    except pytest.skip.Exception:
        return []


def used_rows(bootstrap: Bootstrap) -> list[int]:
    return sorted({int(row) for _, inode in iter_tree(bootstrap.root) for row in inode.chunks})


def read_all(bootstrap: Bootstrap, blobs: dict[str, BlobSource], metas: dict[str, bytes] | None = None) -> int:
    """Read, and so verify, every chunk; the number of reads."""
    reader, table = ChunkReader(bootstrap, blobs.__getitem__, metas), bootstrap.chunks
    rows = used_rows(bootstrap)
    for row in rows:
        assert len(reader.read(row)) == table[row]["usize"]
    return len(rows)


@pytest.mark.parametrize("case", cases())
def test_every_chunk_of_a_built_image_is_what_its_digest_says(case: str) -> None:
    for row, bootstrap in bootstraps(case):
        wanted = row["chunks_verified"] - COUNTED_TWICE.get(row["bootstrap"], 0)

        assert read_all(bootstrap, library()) == wanted, row["bootstrap"]


def test_no_chunk_of_the_set_is_left_out() -> None:
    assert sum(row["chunks_verified"] for case in index().values() for row in case["bootstraps"]) == ALL_READS


def truth(name: str) -> dict[str, str]:
    """sha256 of each file of an expected tree, by its path."""
    path = golden_dir() / name
    if not path.exists():
        packed = path.with_name(path.name + ".zst").read_bytes()
        rows = json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(packed))
    else:
        rows = json.loads(path.read_text())
    return {row["path"]: row["sha256"] for row in rows if row["type"] == "file" and "%" not in row["path"]}


@pytest.mark.parametrize(
    "case", ["v6-tarfs", "v6-zran", "v6-zran-big", "v6-batch-1m", "v6-batch-64k", "v6-encrypt", "v5-aligned", "v6-dict"]
)
def test_files_of_an_unusual_image_have_the_content_of_the_layer(case: str) -> None:
    compared = 0
    for row, bootstrap in bootstraps(case):
        if not row["expected"]:
            continue
        wanted, reader = truth(row["expected"]), ChunkReader(bootstrap, library().__getitem__)
        for path, inode in iter_tree(bootstrap.root):
            name = path.decode("utf-8", "replace")
            if name in wanted:
                content = b"".join(reader.read_file(inode))
                assert hashlib.sha256(content).hexdigest() == wanted[name], (row["bootstrap"], name)
                compared += 1
    assert compared > 10


@pytest.mark.parametrize("case", cases())
def test_a_blob_has_the_sections_that_the_builder_wrote(case: str) -> None:
    for layer in (index()[case]["layers"] or {}).values():
        blob = library()[Path(layer["blob"]).name]
        found = read_sections(blob)

        # The set lists the array and its header, which share a tar header, as one; and the table of contents itself.
        listed = set(layer["sections"]) - {"rafs.blob.toc"}
        assert set(found) - {"blob.meta.header"} == listed
        assert all(0 <= s.offset <= s.offset + s.size <= blob.size for s in found.values())


@pytest.mark.parametrize("case", [case for case in cases() if case.startswith("v6-") or "-v6" in case])
def test_the_stored_digests_are_those_of_the_chunk_table(case: str) -> None:
    for _, bootstrap in bootstraps(case):
        for number, info in enumerate(bootstrap.blobs):
            if BlobFeature.INLINED_CHUNK_DIGEST not in info.features:
                continue
            holder = info.meta_digest.hex() if BlobFeature.SEPARATE in info.features else info.id
            stored = read_chunk_digests(library()[holder], info)
            for record in bootstrap.chunks[bootstrap.chunks["blob"] == number]:
                start = 32 * int(record["index"])
                assert stored[start : start + 32] == bytes(record["digest"])


def images() -> list[str]:
    try:
        return sorted(path.name for path in golden_dir().glob("images/v*.oci.tar"))
    except pytest.skip.Exception:
        return []


@cache
def image(name: str) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The manifests and all blobs of an OCI archive."""
    with tarfile.open(golden_dir() / "images" / name) as archive:
        files = [(member.name, archive.extractfile(member)) for member in archive.getmembers() if member.isfile()]
        content = {Path(path).name: file.read() for path, file in files if file is not None}
    found, todo = [], [json.loads(content["index.json"])]
    while todo:
        document = todo.pop()
        todo += [json.loads(content[row["digest"][7:]]) for row in document.get("manifests", [])]
        if "layers" in document:
            found.append(document)
    return found, content


def bootstrap_files(layer: bytes) -> dict[str, bytes]:
    """What a bootstrap layer holds, by file name."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as archive:
        files = [(member.name, archive.extractfile(member)) for member in archive.getmembers() if member.isfile()]
        return {Path(path).name: file.read() for path, file in files if file is not None}


@pytest.mark.parametrize("name", images())
def test_every_chunk_of_a_converted_image_is_what_its_digest_says(name: str) -> None:
    manifests, content = image(name)
    blobs = {**library(), **{digest: Bytes(data) for digest, data in content.items()}}
    read = 0
    for manifest in manifests:
        last = manifest["layers"][-1]
        if last.get("annotations", {}).get("containerd.io/snapshot/nydus-bootstrap") != "true":
            continue
        files = bootstrap_files(content[last["digest"][7:]])
        bootstrap = read_bootstrap(files["image.boot"])
        metas = {path.removesuffix(".blob.meta"): data for path, data in files.items() if path.endswith(".blob.meta")}

        assert read_all(bootstrap, blobs) == 47
        assert read_all(bootstrap, blobs, metas) == 47
        for info in bootstrap.blobs if bootstrap.version == 6 else []:
            holder = info.meta_digest.hex() if BlobFeature.SEPARATE in info.features else info.id
            wanted = blob_meta_file(blobs[holder], info)
            # The reference cannot unpack lz4 arrays here, and ships the bare header; the reader passes over such files.
            assert metas[holder] == (wanted[-4096:] if info.ci_compressor is Compressor.LZ4_BLOCK else wanted)
        read += 1
    assert read == 1


def context(in_offset: int, in_size: int, out_size: int, byte: int = 0, bits: int = 0) -> Any:
    return np.array([(in_offset, 0, 0, in_size, out_size, 0, byte, bits, b"")], ZRAN_CONTEXT)[0]


@pytest.mark.parametrize("bits", range(8))
@pytest.mark.parametrize("byte", [0, 0xFF, 0xA5])
def test_the_bits_in_front_of_a_context_keep_stored_blocks_aligned(bits: int, byte: int) -> None:
    content = b"stored bytes, which begin on a byte"
    block = b"\x01" + len(content).to_bytes(2, "little") + (len(content) ^ 0xFFFF).to_bytes(2, "little") + content
    # The header of a stored block is a 1 and two 0 bits, then zeros up to the next byte; ``bits`` of it come before.
    if bits:
        before = 8 - bits
        first = 1 << before | byte & ((1 << before) - 1)  # what comes below the context's bits must not matter
        data = (b"\0" if bits < 3 else b"") + block[1:]
    else:
        first, data = 0, block

    assert zran.inflate(Bytes(data).read_at, context(0, len(data), len(content), first, bits), b"") == content


def test_a_context_may_go_on_in_the_next_gzip_member() -> None:
    rng = random.Random(7)
    parts = [rng.randbytes(100_000), b"", b"abc" * 50_000]
    named = io.BytesIO()
    with gzip.GzipFile("a name", "wb", fileobj=named) as file:
        file.write(parts[2])
    data = gzip.compress(parts[0], mtime=0) + gzip.compress(parts[1], mtime=0) + named.getvalue()
    wanted = b"".join(parts)

    assert zran.inflate(Bytes(data).read_at, context(10, len(data) - 10, len(wanted)), b"") == wanted


def test_a_context_uses_its_dictionary() -> None:
    dictionary = random.Random(8).randbytes(32768)
    content = dictionary[1000:9000]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=dictionary)
    data = packer.compress(content) + packer.flush()

    assert len(data) < 1000
    assert zran.inflate(Bytes(data).read_at, context(0, len(data), len(content)), dictionary) == content
