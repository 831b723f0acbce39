"""A compressed layer as one stream of plain tar bytes, in constant memory, with its diff id."""

import hashlib
import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from isal import igzip, igzip_threaded, isal_zlib

from nydusify.errors import FormatError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE = 1 << 20
MAX_ZSTD_WINDOW_LOG = 27
"""128 MiB, the largest window that zstd itself opens without being told to."""


_ISAL_ERROR = cast(type[Exception], isal_zlib.error)  # its stub says that it is an instance
DAMAGE: tuple[Any, ...] = (EOFError, igzip.BadGzipFile, _ISAL_ERROR, zstd.ZstdError)


class _Pieces(io.RawIOBase):
    """The bytes of an iterator as a file."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")
        self.empty = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        self.empty = False
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class _Zstd(io.RawIOBase):
    """Frames of zstd decompressed piece by piece; a frame that does not end is an error, unlike in most readers."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._new_frame()
        self._started = False

    def _new_frame(self) -> None:
        options = {int(zstd.DecompressionParameter.window_log_max): MAX_ZSTD_WINDOW_LOG}
        self._frame = zstd.ZstdDecompressor(options=options)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            data = b""
            if self._frame.eof:
                data = self._frame.unused_data or next(self._pieces, b"")
                if not data:
                    return 0
                self._new_frame()
            elif self._frame.needs_input:
                data = next(self._pieces, b"")
                if not data:
                    raise FormatError("layer: the zstd stream is cut short" if self._started else "layer: no data")
            self._started = True
            plain = self._frame.decompress(data, max_length=len(buffer))
            if plain:
                buffer[: len(plain)] = plain
                return len(plain)


class PlainLayer(io.RawIOBase):
    """Counts and digests what passes. `finish` reads to the end."""

    def __init__(self, source: io.RawIOBase | io.BufferedIOBase) -> None:
        self._source = source
        self._state = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._source.readinto(buffer) or 0
        self._state.update(memoryview(buffer)[:count])
        self.size += count
        return count

    @property
    def diff_id(self) -> str:
        """Hex sha256 of everything read so far."""
        return self._state.hexdigest()


@contextmanager
def open_layer(pieces: Iterable[bytes], compression: str) -> Iterator[tuple[BinaryIO, PlainLayer]]:
    """Read a layer (``gzip``, ``zstd`` or ``none``); several gzip members or zstd frames are one stream.

    Gives the tar stream and the object that knows size and diff id once the stream is read to its end. Damaged
    compression raises `FormatError` while reading; errors of ``pieces`` pass through.
    """
    raw = _Pieces(pieces)
    if compression == "gzip":
        source: Any = igzip_threaded.open(raw, "rb", block_size=PIECE)  # type: ignore[no-untyped-call]
    elif compression == "zstd":
        source = _Zstd(pieces)
    else:
        source = raw
    plain = PlainLayer(source)
    try:
        yield cast(BinaryIO, io.BufferedReader(plain, PIECE)), plain
        if compression == "gzip" and raw.empty:
            raise FormatError("layer: no data")
    except DAMAGE as error:
        raise FormatError(f"layer: damaged {compression} data ({error})") from error
    finally:
        source.close()
