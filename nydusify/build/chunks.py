"""The data of a layer's files, cut into chunks, digested and compressed by threads, stored in order.

Whatever the number of threads, chunks get their numbers and places in the order of the archive; a chunk that the layer
already stored is only referred to.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

import numpy as np

from nydusify.build.options import BuildOptions
from nydusify.errors import UnsupportedError
from nydusify.rafs.codec import batch_compress_function, crc32c, digest_function
from nydusify.rafs.spec import BLOCK, CHUNK, MAX_CHUNKS, ChunkFlag
from nydusify.rafs.tree import ChunkTable, Inode

BATCH_BYTES, BATCH_CHUNKS = 1 << 20, 128
IN_FLIGHT = 6
"""Batches of one layer that may wait for threads or for their turn to be written; bounds its memory."""

Result = list[tuple[bytes, int, int, bytes | None]]
"""Digest, plain size, CRC and stored bytes of each chunk of a batch; None for one that is known already."""


class BlobFile:
    """The blob being written: counts and digests every byte."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._state = hashlib.sha256()
        self.offset = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._state.update(data)
        self.offset += len(data)

    def digest_with(self, data: bytes = b"") -> bytes:
        """sha256 of everything so far and ``data``, which is not written."""
        state = self._state.copy()
        state.update(data)
        return state.digest()


class ChunkWriter:
    """Stores the chunks of one layer. Not for use by several threads; it uses those of ``pool``."""

    def __init__(self, blob: BlobFile, options: BuildOptions, pool: ThreadPoolExecutor) -> None:
        self._blob = blob
        self._pool = pool
        self._options = options
        self._aligned = options.fs_version == 6 or options.aligned
        self._digest = digest_function(options.digester)
        self.hole = bytes(options.chunk_size)
        """A chunk of zeros; given to `add` as this very object, it is not digested again."""
        self._hole_digest = self._digest(self.hole)
        self._local = threading.local()
        self._batch: list[tuple[Inode, bytes]] = []
        self._batch_bytes = 0
        self._waiting: deque[tuple[list[tuple[Inode, bytes]], Future[Result]]] = deque()
        self._known: dict[bytes, int] = {}
        self._digests: list[bytes] = []
        self._sizes: list[tuple[int, int, int]] = []
        """Stored size, plain size and CRC of every chunk in the blob."""
        self.repeated = 0
        """Chunks that were stored before, and their bytes."""
        self.repeated_bytes = 0

    def add(self, inode: Inode, data: bytes) -> None:
        """The next chunk of ``inode``: the chunk size, but for the last. Long files have a list as their ``chunks``."""
        self._batch.append((inode, data))
        self._batch_bytes += len(data)
        if self._batch_bytes >= BATCH_BYTES or len(self._batch) >= BATCH_CHUNKS:
            self._submit()

    def _submit(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        self._waiting.append((batch, self._pool.submit(self._work, batch)))
        while len(self._waiting) > IN_FLIGHT or (self._waiting and self._waiting[0][1].done()):
            self._store(*self._waiting.popleft())

    def _work(self, batch: list[tuple[Inode, bytes]]) -> Result:
        compress: Callable[[list[bytes]], list[bytes]] | None = getattr(self._local, "compress", None)
        if compress is None:
            compress = self._local.compress = batch_compress_function(self._options.compressor)
        digest, known, fresh = self._digest, self._known, dict[bytes, bytes]()
        identities = []
        for _, data in batch:
            identity = self._hole_digest if data is self.hole else digest(data)
            identities.append(identity)
            if identity not in known:
                fresh.setdefault(identity, data)
        stored = dict(zip(fresh, compress(list(fresh.values())), strict=True))
        return [
            (identity, len(data), crc32c(data), stored.pop(identity))
            if identity in stored
            else (identity, len(data), 0, None)
            for identity, (_, data) in zip(identities, batch, strict=True)
        ]

    def _store(self, batch: list[tuple[Inode, bytes]], future: "Future[Result]") -> None:
        known, digests, sizes, pieces = self._known, self._digests, self._sizes, []
        number = len(digests)
        for (inode, _), (identity, size, crc, stored) in zip(batch, future.result(), strict=True):
            found = known.setdefault(identity, number)
            if found == number:
                assert stored is not None
                digests.append(identity)
                sizes.append((len(stored), size, crc))
                pieces.append(stored)
                number += 1
            else:
                self.repeated += 1
                self.repeated_bytes += size
            if type(inode.chunks) is list:
                inode.chunks.append(found)
            else:
                inode.chunks = (found,)
        self._blob.write(b"".join(pieces))
        if number > MAX_CHUNKS:
            raise UnsupportedError(
                f"the layer has more than {MAX_CHUNKS} chunks", advice="Convert it with a larger --fs-chunk-size."
            )

    def finish(self) -> ChunkTable:
        """Store what waits and return the chunk table, in the order of the blob, all of blob 0."""
        self._submit()
        while self._waiting:
            self._store(*self._waiting.popleft())
        table = np.zeros(len(self._digests), CHUNK)
        if self._digests:
            stored, plain, crc = np.array(self._sizes, np.uint64).T
            room = (plain + np.uint64(BLOCK - 1)) // np.uint64(BLOCK) * np.uint64(BLOCK) if self._aligned else plain
            table["csize"], table["usize"], table["crc"] = stored, plain, crc
            table["coffset"], table["uoffset"] = np.cumsum(stored) - stored, np.cumsum(room) - room
            table["digest"] = np.frombuffer(b"".join(self._digests), "V32")
            table["index"] = np.arange(len(table))
            compressed = np.where(stored != plain, int(ChunkFlag.COMPRESSED), 0)
            table["flags"] = compressed | int(ChunkFlag.HAS_CRC)
        return table

    def abandon(self) -> None:
        """Wait for the threads after an error, so that nothing runs on behind it."""
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
