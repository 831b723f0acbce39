"""One layer: tar in, framed blob and layer bootstrap out, in one pass over the stream."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import BinaryIO

from nydusify.build.chunks import BlobFile, ChunkWriter
from nydusify.build.framing import frame_v5, frame_v6
from nydusify.build.layer_tree import LayerTree
from nydusify.build.options import BuildOptions
from nydusify.build.stream import open_layer
from nydusify.build.tar import TarEntry, TarReader
from nydusify.digest import Digest
from nydusify.errors import DigestMismatch, UnsupportedError
from nydusify.rafs.spec import MAX_CHUNKS
from nydusify.rafs.tree import BlobInfo, Bootstrap, Inode
from nydusify.rafs.writer import write_bootstrap

MAX_FILE_CHUNKS = MAX_CHUNKS >> 2
"""Chunks of one file, repeated ones counted: 4 TiB of mostly holes at the default chunk size."""


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """What was built from one layer; all sizes in bytes. Small enough to travel between tasks."""

    blob: Digest
    blob_size: int
    diff_id: Digest
    """Of the plain tar."""
    tar_size: int
    entries: int
    chunks: int
    """Stored in the blob."""
    data_size: int
    """Of the stored chunks, before compression."""
    repeated_chunks: int
    repeated_size: int
    dropped_xattrs: int


@dataclass(frozen=True, slots=True)
class LayerBuild:
    facts: LayerFacts
    bootstrap: Bootstrap
    """As in the blob, but with the blob's real id."""
    bootstrap_bytes: bytes
    blob_meta: bytes
    """Chunk information as hosts cache it; empty for v5 and for layers without data."""


def build_layer(
    pieces: Iterable[bytes],
    compression: str,
    file: BinaryIO,
    options: BuildOptions,
    pool: ThreadPoolExecutor,
    diff_id: Digest | None = None,
) -> LayerBuild:
    """Build the layer whose bytes (``gzip``, ``zstd`` or ``none``) are ``pieces``; write its blob to ``file``.

    Raises `FormatError` for damaged or hostile input, `DigestMismatch` when the plain tar is not ``diff_id``; errors
    of ``pieces`` pass through. What was written to ``file`` is then worth nothing.
    """
    blob, tree = BlobFile(file), LayerTree()
    writer = ChunkWriter(blob, options, pool)
    try:
        with open_layer(pieces, compression) as (stream, plain):
            reader = TarReader(stream)
            while (entry := reader.next()) is not None:
                inode = tree.add(entry)
                if inode is not None and entry.size:
                    _store_file(reader, entry, inode, writer, options.chunk_size)
            while stream.read(1 << 20):
                pass
    except BaseException:
        writer.abandon()
        raise
    if diff_id is not None and plain.diff_id != diff_id.hex:
        raise DigestMismatch(f"layer: its tar is sha256:{plain.diff_id}, the image config promised {diff_id}")
    bootstrap = Bootstrap(
        options.fs_version, options.chunk_size, options.compressor, options.digester, tree.root, [], writer.finish()
    )

    def inlined(infos: list[BlobInfo]) -> bytes:
        bootstrap.blobs = infos
        return write_bootstrap(bootstrap)

    meta = b""
    if options.fs_version == 6:
        content, meta = frame_v6(blob, bootstrap.chunks, options, inlined)
    else:
        content = frame_v5(blob, bootstrap.chunks, options, inlined)
    digest = Digest("sha256", blob.digest_with().hex())
    bootstrap.blobs = [replace(info, id=digest.hex) for info in bootstrap.blobs]
    facts = LayerFacts(
        blob=digest,
        blob_size=blob.offset,
        diff_id=Digest("sha256", plain.diff_id),
        tar_size=plain.size,
        entries=tree.entries,
        chunks=len(bootstrap.chunks),
        data_size=int(bootstrap.chunks["usize"].sum()),
        repeated_chunks=writer.repeated,
        repeated_size=writer.repeated_bytes,
        dropped_xattrs=tree.dropped_xattrs,
    )
    return LayerBuild(facts, bootstrap, content, meta)


def _store_file(reader: TarReader, entry: TarEntry, inode: Inode, writer: ChunkWriter, chunk_size: int) -> None:
    size = entry.size
    if size > chunk_size * MAX_FILE_CHUNKS:
        raise UnsupportedError(
            f"{entry.name[:200]!r} has more than {MAX_FILE_CHUNKS} chunks",
            advice="Convert it with a larger --fs-chunk-size.",
        )
    if size > chunk_size:
        inode.chunks = []
    if entry.segments is not None:
        for chunk in _sparse_chunks(reader, entry.segments, size, chunk_size, writer.hole):
            writer.add(inode, chunk)
        return
    for offset in range(0, size, chunk_size):
        writer.add(inode, reader.read(min(chunk_size, size - offset)))


def _sparse_chunks(
    reader: TarReader, segments: list[tuple[int, int]], size: int, chunk_size: int, hole: bytes
) -> Iterator[bytes]:
    """The chunks of a sparse file; a whole chunk without data is the one object ``hole``, so that it costs nothing."""
    waiting = iter(segments)
    start, end = next(waiting, (size, 0))
    end += start
    for offset in range(0, size, chunk_size):
        limit = min(offset + chunk_size, size)
        if start >= limit and limit - offset == chunk_size:
            yield hole
            continue
        chunk = bytearray(limit - offset)
        while start < limit:
            length = min(end, limit) - start
            chunk[start - offset : start - offset + length] = reader.read(length)
            start += length
            if start < end:
                break
            start, length = next(waiting, (size, 0))
            end = start + length
        yield bytes(chunk)
