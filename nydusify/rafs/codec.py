"""Compressors, digesters and the checksum of chunks. Source: nydus, utils/src/compress, utils/src/digest.rs."""

import hashlib
import threading
import zlib
from collections.abc import Callable

import blake3
import google_crc32c
import lz4.block
import zstandard

from nydusify.errors import FormatError, UnsupportedError
from nydusify.rafs.spec import Compressor, Digester

ZSTD_LEVEL = 3
MIN_WINDOW, MAX_WINDOW = 16 << 20, 1 << 31
"""Bytes of history that any zstd frame may ask for; more only when its content is larger."""
MAX_LZ4 = 0x7E000000
"""The longest input of one LZ4 block."""
GZIP_WINDOW = 31
"""zlib's ``wbits`` for a gzip member."""


def decompress(compressor: Compressor, data: bytes, usize: int) -> bytes:
    """The plain bytes of ``data``, exactly ``usize`` of them.

    Never allocates more than ``usize`` and a constant. Raises `FormatError` for damaged data and for any other length.
    """
    try:
        plain = _DECOMPRESS[compressor](data, usize)
    except (zstandard.ZstdError, lz4.block.LZ4BlockError, zlib.error) as error:
        raise FormatError(f"damaged {compressor.name.lower()} data: {error}") from error
    if len(plain) != usize:
        raise FormatError(f"{compressor.name.lower()} data are {len(plain)} bytes long, {usize} were announced")
    return plain


def _plain(data: bytes, usize: int) -> bytes:
    return data


def _unlz4(data: bytes, usize: int) -> bytes:
    if usize > MAX_LZ4:
        raise FormatError(f"an lz4 block cannot hold {usize} bytes")
    plain: bytes = lz4.block.decompress(data, uncompressed_size=usize)
    return plain


def _unzstd(data: bytes, usize: int) -> bytes:
    announced = zstandard.frame_content_size(data)
    if announced not in (-1, usize):  # the library allocates what the frame says
        raise FormatError(f"zstd frame of {announced} bytes where {usize} were announced")
    if usize > MIN_WINDOW:
        window = min(1 << usize.bit_length(), MAX_WINDOW)
        unzstd = zstandard.ZstdDecompressor(max_window_size=window)
    else:
        unzstd = _local.unzstd
    return unzstd.decompress(data, max_output_size=usize, allow_extra_data=False)


class _Local(threading.local):
    """One decompressor a thread: making one costs more than unpacking a small chunk."""

    def __init__(self) -> None:
        self.unzstd = zstandard.ZstdDecompressor(max_window_size=MIN_WINDOW)


_local = _Local()


def _gunzip(data: bytes, usize: int) -> bytes:
    stream = zlib.decompressobj(GZIP_WINDOW)
    plain = stream.decompress(data, usize + 1)
    if len(plain) <= usize and not stream.eof:  # bytes may follow: tables only bound the length of a gzip member
        raise FormatError("gzip data that end too early")
    return plain


_DECOMPRESS: dict[Compressor, Callable[[bytes, int], bytes]] = {
    Compressor.NONE: _plain,
    Compressor.LZ4_BLOCK: _unlz4,
    Compressor.GZIP: _gunzip,
    Compressor.ZSTD: _unzstd,
}


def compress_function(compressor: Compressor) -> Callable[[bytes], bytes]:
    """A function for one thread that compresses a chunk, and returns the very object that it got when that is no gain.

    Raises `UnsupportedError` for a compressor that is only ever read.
    """
    if compressor is Compressor.NONE:
        return lambda data: data
    compress: Callable[[bytes], bytes]
    if compressor is Compressor.ZSTD:
        compress = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress
    elif compressor is Compressor.LZ4_BLOCK:
        compress = _lz4
    else:
        raise UnsupportedError(f"nothing is written with compressor {compressor.name.lower()}")

    def smaller(data: bytes) -> bytes:
        packed = compress(data) if data else data
        return packed if len(packed) < len(data) else data

    return smaller


def batch_compress_function(compressor: Compressor) -> Callable[[list[bytes]], list[bytes]]:
    """Like `compress_function` for many chunks at once.

    For zstd that is one call into the library, which lets go of the interpreter once a batch, not once a chunk.
    """
    if compressor is not Compressor.ZSTD:
        one = compress_function(compressor)
        return lambda batch: [one(data) for data in batch]
    many = zstandard.ZstdCompressor(level=ZSTD_LEVEL).multi_compress_to_buffer

    def compress(batch: list[bytes]) -> list[bytes]:
        if not batch:
            return []
        segments = many([*batch])
        packed = [segments[number].tobytes() for number in range(len(segments))]
        return [new if len(new) < len(data) else data for new, data in zip(packed, batch, strict=True)]

    return compress


def _lz4(data: bytes) -> bytes:
    packed: bytes = lz4.block.compress(data, store_size=False)
    return packed


def digest_function(digester: Digester) -> Callable[[bytes], bytes]:
    """A function from bytes to their 32-byte digest."""
    if digester is Digester.SHA256:
        return lambda data: hashlib.sha256(data).digest()
    return lambda data: blake3.blake3(data).digest()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of ``data``."""
    return int(google_crc32c.value(data))
