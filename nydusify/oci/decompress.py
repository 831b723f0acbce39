"""Compressed archives made plain, within a bound that a decompression bomb meets soon."""

import gzip
import os
from collections.abc import Iterator
from typing import BinaryIO, Literal

from nydusify.errors import FormatError, UnsupportedError

COMPRESSED: dict[bytes, Literal["gzip", "zstd", "bzip2", "xz"]] = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
}
MAX_RATIO = 200
FREE_SIZE = 1 << 30
"""Bytes that are written whatever the ratio; above, a compressed byte may become at most `MAX_RATIO`."""
MAX_ZSTD_WINDOW = 128 << 20
_PIECE = 1 << 20


def decompress(fd: int, kind: str, target: BinaryIO, where: str) -> None:
    """Write the decompressed file to ``target``. Raises `FormatError` for damage and for what grows without measure."""
    limit = max(FREE_SIZE, MAX_RATIO * os.fstat(fd).st_size)
    with open(fd, "rb", closefd=False) as source:
        written = 0
        for piece in _pieces(source, kind, where):
            written += len(piece)
            if written > limit:
                raise FormatError(
                    f"{where}: decompresses to more than {limit} bytes",
                    advice="If that is right, decompress the archive yourself and name the plain tar.",
                )
            target.write(piece)
    target.flush()


def _pieces(source: BinaryIO, kind: str, where: str) -> Iterator[bytes]:
    if kind == "gzip":
        yield from _gunzip(source, where)
    elif kind == "zstd":
        yield from _unzstd(source, where)
    else:
        raise UnsupportedError(f"{where}: {kind} archives are not read", advice="Decompress it, or use gzip or zstd.")


def _gunzip(source: BinaryIO, where: str) -> Iterator[bytes]:
    from isal import igzip, igzip_lib

    reader = igzip.IGzipFile(fileobj=source, mode="rb")  # type: ignore[no-untyped-call]
    try:
        while piece := reader.read(_PIECE):
            yield piece
    except (EOFError, gzip.BadGzipFile, igzip_lib.IsalError) as error:  # type: ignore[misc]  # a wrong stub
        raise FormatError(f"{where}: damaged gzip archive: {error}") from None


def _unzstd(source: BinaryIO, where: str) -> Iterator[bytes]:
    import zstandard

    decoder = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
    reader = decoder.stream_reader(source, read_across_frames=True, closefd=False)
    try:
        while piece := reader.read(_PIECE):
            yield piece
    except zstandard.ZstdError as error:
        raise FormatError(f"{where}: damaged zstd archive: {error}") from None
