"""What follows the chunks in a layer's blob: chunk information, digests, bootstrap, table of contents, tar headers.

Source: the framing of "tar-like" blobs in nydus, builder/src/core/blob.rs and rafs/src/blob.rs.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import zstandard

from nydusify.build.chunks import BlobFile
from nydusify.build.options import BuildOptions
from nydusify.rafs import blob as fmt
from nydusify.rafs.codec import ZSTD_LEVEL, compress_function
from nydusify.rafs.spec import BLOCK, PLACEHOLDER_ID, BlobFeature, Compressor, align
from nydusify.rafs.tree import BlobInfo, ChunkTable

V6_FEATURES = (
    BlobFeature.ALIGNED
    | BlobFeature.INLINED_FS_META
    | BlobFeature.INLINED_CHUNK_DIGEST
    | BlobFeature.HAS_TAR_HEADER
    | BlobFeature.HAS_TOC
    | BlobFeature.CAP_TAR_TOC
)
SMALL_BOOTSTRAP = 512 << 10
V5_FEATURES = BlobFeature.INLINED_FS_META | BlobFeature.HAS_TAR_HEADER | BlobFeature.CAP_TAR_TOC

Bootstrapper = Callable[[list[BlobInfo]], bytes]
"""Makes the bootstrap to be laid into the blob, once the blob's own table row (if it has data) is known."""


class _Framer:
    """Writes sections and their tar headers, and collects the table of contents."""

    def __init__(self, blob: BlobFile) -> None:
        self.blob = blob
        self.toc: list[tuple[int, str, bytes, int, int, int]] = []

    def entry(self, name: str, plain: bytes, size: int, compressor: Compressor) -> None:
        digest = hashlib.sha256(plain).digest()
        self.toc.append((fmt.TOC_FLAG[compressor], name, digest, self.blob.offset, size, len(plain)))

    def section(self, name: str, plain: bytes, stored: bytes, compressor: Compressor) -> None:
        self.entry(name, plain, len(stored), compressor)
        self.blob.write(stored)
        self.blob.write(fmt.tar_header(name, len(stored)))

    def finish(self) -> None:
        table = np.zeros(len(self.toc), fmt.TOC_ENTRY)
        for row, (flags, name, digest, offset, size, plain_size) in zip(table, self.toc, strict=True):
            row["flags"], row["name"], row["digest"] = flags, name.encode(), digest
            row["offset"], row["csize"], row["usize"] = offset, size, plain_size
        self.blob.write(table.tobytes())
        self.blob.write(fmt.tar_header(fmt.SECTION_TOC, table.nbytes))


def frame_v5(blob: BlobFile, chunks: ChunkTable, options: BuildOptions, bootstrap: Bootstrapper) -> bytes:
    """Complete a v5 blob that so far holds the chunks; returns its bootstrap."""
    infos = []
    if len(chunks):
        blob.write(fmt.tar_header(fmt.SECTION_DATA, blob.offset))
        end = int(chunks["uoffset"][-1] + chunks["usize"][-1])
        infos = [_info(blob.offset, end, len(chunks), options, V5_FEATURES)]
    plain = bootstrap(infos)
    blob.write(plain)
    blob.write(fmt.tar_header(fmt.SECTION_BOOTSTRAP, len(plain)))
    return plain


def frame_v6(blob: BlobFile, chunks: ChunkTable, options: BuildOptions, bootstrap: Bootstrapper) -> tuple[bytes, bytes]:
    """Complete a v6 blob that so far holds the chunks; returns its bootstrap and its ``blob.meta``.

    The latter is what hosts cache: the plain chunk-information array, padded to 4096, and its header; empty when the
    layer has no data.
    """
    framer, infos, meta = _Framer(blob), [], b""
    if len(chunks):
        size = blob.offset
        plain_size = align(int(chunks["uoffset"][-1] + chunks["usize"][-1]), BLOCK)
        header = fmt.tar_header(fmt.SECTION_DATA, size)
        framer.toc.append(
            (fmt.TOC_FLAG[Compressor.NONE], fmt.SECTION_DATA, blob.digest_with(header), 0, size, plain_size)
        )
        blob.write(header)
        meta, info = _chunk_information(framer, chunks, options)
        digests = chunks["digest"].tobytes()
        framer.section(fmt.SECTION_DIGESTS, digests, digests, Compressor.NONE)
        infos = [_info(blob.offset, plain_size, len(chunks), options, V6_FEATURES, info)]
    plain = bootstrap(infos)
    stored = pack_bootstrap(plain)
    framer.section(
        fmt.SECTION_BOOTSTRAP, plain, stored, Compressor.ZSTD if len(stored) < len(plain) else Compressor.NONE
    )
    framer.finish()
    return plain, meta


def pack_bootstrap(plain: bytes) -> bytes:
    """The bootstrap as a zstd frame, pressed harder where it is small: there it is a large part of the blob."""
    level = 19 if len(plain) <= SMALL_BOOTSTRAP else ZSTD_LEVEL
    packed = zstandard.ZstdCompressor(level=level).compress(plain)
    return packed if len(packed) < len(plain) else plain


def _chunk_information(framer: _Framer, chunks: ChunkTable, options: BuildOptions) -> tuple[bytes, tuple[int, ...]]:
    blob, plain = framer.blob, pack_v1(chunks)
    stored = compress_function(options.compressor)(plain)
    compressor = options.compressor if len(stored) < len(plain) else Compressor.NONE
    info = (int(compressor), blob.offset, len(stored), len(plain))
    record = np.zeros(1, fmt.CI_HEADER)
    record["magic"] = record["magic2"] = fmt.CI_MAGIC
    record["features"], record["entries"] = int(V6_FEATURES), len(chunks)
    for name, value in zip(("ci_compressor", "ci_offset", "ci_csize", "ci_usize"), info, strict=True):
        record[name] = value
    header = record.tobytes()
    framer.entry(fmt.SECTION_CI, plain, len(stored), compressor)
    blob.write(stored)
    framer.entry(fmt.SECTION_CI_HEADER, header, len(header), Compressor.NONE)
    blob.write(header)
    blob.write(fmt.tar_header(fmt.SECTION_CI, len(stored) + len(header)))
    return plain + bytes(-len(plain) % BLOCK) + header, info


def pack_v1(chunks: ChunkTable) -> bytes:
    """The chunk-information array, version 1: 16 bytes a chunk."""
    table = np.empty(len(chunks), fmt.CHUNK_INFO_V1)
    usize, csize = chunks["usize"].astype("<u8") - 1, chunks["csize"].astype("<u8") - 1
    low, high = np.uint64(0xFFFFF), np.uint64(20)
    table["u"] = chunks["uoffset"] | (usize & low) << np.uint64(44) | usize >> high << np.uint64(8)
    table["c"] = chunks["coffset"] | (csize & low) << np.uint64(44) | csize >> high << np.uint64(40)
    return table.tobytes()


def _info(
    size: int,
    plain_size: int,
    count: int,
    options: BuildOptions,
    features: BlobFeature,
    chunk_information: tuple[int, ...] = (0, 0, 0, 0),
) -> BlobInfo:
    compressor, offset, stored_size, raw_size = chunk_information
    return BlobInfo(
        id=PLACEHOLDER_ID,
        compressed_size=size,
        uncompressed_size=plain_size,
        chunk_count=count,
        chunk_size=options.chunk_size,
        compressor=options.compressor,
        digester=options.digester,
        features=features,
        ci_compressor=Compressor(compressor),
        ci_offset=offset,
        ci_size=stored_size,
        ci_raw_size=raw_size,
    )
