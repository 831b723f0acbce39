"""The plain bytes of chunks and files, each chunk compared with its digest and checksum.

Source: nydus, storage/src/cache/mod.rs (decoding) and storage/src/device.rs (what blobs there are).
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from nydusify.errors import DigestMismatch, FormatError, UnsupportedError
from nydusify.rafs import zran
from nydusify.rafs.blob import ChunkInfoFlag
from nydusify.rafs.blob_reader import parse_blob_meta_file, read_chunk_info
from nydusify.rafs.blob_source import BlobSource, read_range
from nydusify.rafs.chunk_info import ChunkInfo
from nydusify.rafs.cipher import decrypt
from nydusify.rafs.codec import crc32c, decompress, digest_function
from nydusify.rafs.spec import DIGEST_SIZE, BlobFeature, ChunkFlag, Cipher
from nydusify.rafs.tree import BlobInfo, Bootstrap, ChunkTable, Inode

MAX_UNITS = 4
"""Decoded zran contexts and batches that are kept, of at most 16 MiB each: neighbouring chunks share them."""
_NO_DIGEST = bytes(DIGEST_SIZE)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One row of the chunk table."""

    digest: bytes
    blob: int
    flags: int
    csize: int
    usize: int
    coffset: int
    uoffset: int
    file_offset: int
    index: int
    crc: int


@dataclass(slots=True)
class _Blob:
    """A blob of the table, opened at the first read."""

    info: BlobInfo
    digest: Callable[[bytes], bytes]
    lock: threading.Lock = field(default_factory=threading.Lock)
    source: BlobSource | None = None
    chunk_info: ChunkInfo | None = None
    """None where the records of the bootstrap say it all: v5, tarfs, generated dictionaries."""


class ChunkReader:
    """Reads the chunks and files of ``bootstrap``. Several threads may read, if the blobs allow it.

    ``open_blob`` gives a blob by its id. It is called once for each, when it is first needed, and what it returned
    stays the caller's to close; its errors pass through. For a zran blob it is asked for the original layer and, unless
    ``metas`` has the chunk information, for the blob of the RAFS part. ``metas`` are cached ``.blob.meta`` files by the
    id of the blob that they were made from; one that is damaged is passed over, as the blob has the same.
    """

    def __init__(
        self, bootstrap: Bootstrap, open_blob: Callable[[str], BlobSource], metas: Mapping[str, bytes] | None = None
    ) -> None:
        self._bootstrap = bootstrap
        self._open_blob = open_blob
        self._metas = metas or {}
        self._blobs = [_Blob(info, digest_function(info.digester)) for info in bootstrap.blobs]
        self._units: OrderedDict[tuple[int, int, int], bytes] = OrderedDict()
        self._units_lock = threading.Lock()

    def read_file(self, inode: Inode) -> Iterator[bytes]:
        """The content of a regular file, a chunk at a time. Raises as `read`."""
        for row in inode.chunks:
            yield self.read(row)

    def read(self, row: int) -> bytes:
        """The plain bytes of the chunk in ``row`` of the chunk table.

        Raises `FormatError` for a blob that is damaged or contradicts the bootstrap, `DigestMismatch` for other bytes
        than promised, `UnsupportedError` for blobs in external stores. Chunks of tarfs images have no digest. Allocates
        a few chunks; for zran and batch chunks up to 64 MiB, which are kept.
        """
        chunk = _Chunk(*self._bootstrap.chunks[row].item())
        blob = self._opened(chunk.blob)
        plain = self._decode(blob, chunk)
        if len(plain) != chunk.usize:
            raise FormatError(f"chunk {row} is {len(plain)} bytes long, {chunk.usize} were announced")
        unchecked = BlobFeature.TARFS in blob.info.features and chunk.digest == _NO_DIGEST
        if not unchecked and blob.digest(plain) != chunk.digest:
            raise DigestMismatch(f"chunk {chunk.index} of blob {blob.info.id} differs from its digest")
        if chunk.flags & ChunkFlag.HAS_CRC and crc32c(plain) != chunk.crc:
            raise DigestMismatch(f"chunk {chunk.index} of blob {blob.info.id} differs from its checksum")
        return plain

    def _opened(self, number: int) -> _Blob:
        blob = self._blobs[number]
        with blob.lock:
            if blob.source is None:
                if BlobFeature.EXTERNAL in blob.info.features:
                    raise UnsupportedError(f"blob {blob.info.id} is kept in an external store")
                source = self._open_blob(blob.info.id)
                if blob.info.ci_raw_size:
                    blob.chunk_info = self._chunk_info(blob.info, source)
                    _check_agreement(self._bootstrap.chunks, number, blob.chunk_info, blob.info)
                blob.source = source
        return blob

    def _chunk_info(self, info: BlobInfo, source: BlobSource) -> ChunkInfo:
        holder = info.id
        if BlobFeature.SEPARATE in info.features and any(info.meta_digest):
            holder = info.meta_digest.hex()
        meta = self._metas.get(holder)
        if meta is not None:
            try:
                return parse_blob_meta_file(meta, info)
            except FormatError:  # only a cache: the reference leaves the array out of those of lz4 blobs
                pass
        return read_chunk_info(source if holder == info.id else self._open_blob(holder), info)

    def _decode(self, blob: _Blob, chunk: _Chunk) -> bytes:
        if blob.chunk_info is not None:
            flags = int(blob.chunk_info.flags[chunk.index])
            if flags & (ChunkInfoFlag.ZRAN | ChunkInfoFlag.BATCH):
                reference = int(blob.chunk_info.data[chunk.index])
                unit, skip = self._unit(blob, chunk, reference >> 32), reference & 0xFFFFFFFF
                return unit[skip : skip + chunk.usize]
        encrypted, compressed = bool(chunk.flags & ChunkFlag.ENCRYPTED), bool(chunk.flags & ChunkFlag.COMPRESSED)
        if chunk.csize > 2 * chunk.usize + 4096:  # nothing that builders write; it bounds what is read
            raise FormatError(f"chunk {chunk.index} of blob {blob.info.id}: {chunk.csize} bytes for {chunk.usize}")
        return _unpack(blob, chunk.coffset, chunk.csize, chunk.usize, encrypted, compressed)

    def _unit(self, blob: _Blob, chunk: _Chunk, number: int) -> bytes:
        """The output of a zran context or a batch, decoded or from the few that are kept."""
        info = blob.chunk_info
        assert info is not None
        zipped = bool(int(info.flags[chunk.index]) & ChunkInfoFlag.ZRAN)
        start = 0 if zipped else int(info.coffset[chunk.index])
        key = (chunk.blob, number, start)
        with self._units_lock:
            unit = self._units.get(key)
            if unit is not None:
                self._units.move_to_end(key)
                return unit
        unit = _inflate(blob, number) if zipped else _unbatch(blob, chunk.index, number, start)
        with self._units_lock:
            self._units[key] = unit
            while len(self._units) > MAX_UNITS:
                self._units.popitem(last=False)
        return unit


def _unpack(blob: _Blob, offset: int, csize: int, usize: int, encrypted: bool, compressed: bool) -> bytes:
    info, source = blob.info, blob.source
    assert source is not None
    data = read_range(source, "chunk", offset, csize)
    if encrypted:
        if info.cipher is Cipher.NONE:
            raise FormatError(f"blob {info.id}: an encrypted chunk in a blob without a key")
        data = decrypt(data, info.key, info.iv)
    return decompress(info.compressor, data, usize) if compressed else data


def _unbatch(blob: _Blob, index: int, number: int, start: int) -> bytes:
    info = blob.chunk_info
    assert info is not None
    csize, usize = int(info.contexts[number]["csize"]), int(info.contexts[number]["usize"])
    encrypted = bool(int(info.flags[index]) & ChunkInfoFlag.ENCRYPTED)
    unit = _unpack(blob, start, csize, usize, encrypted, csize != usize)
    if len(unit) != usize:
        raise FormatError(f"blob {blob.info.id}: batch {number} is {len(unit)} bytes long, {usize} were announced")
    return unit


def _inflate(blob: _Blob, number: int) -> bytes:
    info, source = blob.chunk_info, blob.source
    assert info is not None
    assert source is not None
    context = info.contexts[number]
    start = int(context["dict_offset"])
    dictionary = info.dictionaries[start : start + int(context["dict_size"])]

    def read_at(offset: int, length: int) -> bytes:
        return read_range(source, "zran context", offset, length)

    return zran.inflate(read_at, context, dictionary)


def _check_agreement(chunks: ChunkTable, number: int, chunk_info: ChunkInfo, info: BlobInfo) -> None:
    """The records of a blob's chunks in the bootstrap must say what the blob says itself."""
    own = chunks[chunks["blob"] == number]
    index = own["index"].astype(np.int64)
    flags = chunk_info.flags[index]
    batch = flags & np.uint64(ChunkInfoFlag.BATCH) != 0
    packed, encrypted = ((flags & np.uint64(flag)) != 0 for flag in (ChunkInfoFlag.COMPRESSED, ChunkInfoFlag.ENCRYPTED))
    has_crc = (flags & np.uint64(ChunkInfoFlag.HAS_CRC) != 0) & (own["flags"] & np.uint32(ChunkFlag.HAS_CRC) != 0)
    for what, bad in (
        ("plain offset", own["uoffset"] != chunk_info.uoffset[index]),
        ("plain size", own["usize"] != chunk_info.usize[index]),
        ("stored offset", (own["coffset"] != chunk_info.coffset[index]) & ~batch),
        ("stored size", (own["csize"] != chunk_info.csize[index]) & ~batch),
        ("compression", ((own["flags"] & np.uint32(ChunkFlag.COMPRESSED) != 0) != packed) & ~batch),
        ("encryption", ((own["flags"] & np.uint32(ChunkFlag.ENCRYPTED) != 0) != encrypted) & ~batch),
        ("checksum", (own["crc"] != chunk_info.data[index]) & has_crc),
    ):
        if np.any(bad):
            raise FormatError(f"blob {info.id}: bootstrap and blob disagree on the {what} of a chunk")
