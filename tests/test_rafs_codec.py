"""Compressed data unpack to exactly what was announced, or are refused; nothing is compressed for no gain."""

import hashlib
import os
import zlib

import lz4.block
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from nydusify.errors import FormatError, UnsupportedError
from nydusify.rafs.codec import compress_function, crc32c, decompress, digest_function
from nydusify.rafs.spec import Compressor, Digester
from tests.memory import measured

PLAIN = b"a line that repeats itself\n" * 4000
WRITTEN = (Compressor.NONE, Compressor.LZ4_BLOCK, Compressor.ZSTD)


def gzip_member(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=31)
    return stream.compress(data) + stream.flush()


def unsized_frame(data: bytes) -> bytes:
    """A zstd frame that does not say how long its content is."""
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(data) + stream.flush()


PACKED = {
    "lz4": (Compressor.LZ4_BLOCK, lz4.block.compress(PLAIN, store_size=False)),
    "gzip": (Compressor.GZIP, gzip_member(PLAIN)),
    "zstd": (Compressor.ZSTD, zstandard.ZstdCompressor().compress(PLAIN)),
    "zstd-unsized": (Compressor.ZSTD, unsized_frame(PLAIN)),
    "none": (Compressor.NONE, PLAIN),
}


@pytest.mark.parametrize("form", PACKED)
def test_data_unpack_to_what_was_packed(form: str) -> None:
    compressor, packed = PACKED[form]

    assert decompress(compressor, packed, len(PLAIN)) == PLAIN


@pytest.mark.parametrize("form", PACKED)
@pytest.mark.parametrize("size", [0, 1, len(PLAIN) - 1, len(PLAIN) + 1, 2 * len(PLAIN), 1 << 40])
def test_another_size_than_announced_is_refused(form: str, size: int) -> None:
    compressor, packed = PACKED[form]
    if form == "zstd-unsized" and size == 1 << 40:
        pytest.skip("callers bound the size; the codec trusts them to")

    with pytest.raises(FormatError):
        decompress(compressor, packed, size)


@pytest.mark.parametrize("form", PACKED)
def test_data_that_are_cut_are_refused(form: str) -> None:
    compressor, packed = PACKED[form]

    for length in {0, 1, 5, len(packed) // 2, len(packed) - 9}:
        with pytest.raises(FormatError):
            decompress(compressor, packed[:length], len(PLAIN))


@pytest.mark.parametrize("form", ["lz4", "zstd", "none"])
def test_bytes_behind_the_data_are_refused(form: str) -> None:
    compressor, packed = PACKED[form]

    with pytest.raises(FormatError):
        decompress(compressor, packed + b"more", len(PLAIN))


def test_bytes_behind_a_gzip_member_are_ignored_because_tables_only_bound_its_length() -> None:
    assert decompress(Compressor.GZIP, gzip_member(PLAIN) + b"the next member", len(PLAIN)) == PLAIN


@pytest.mark.parametrize("pack", [gzip_member, unsized_frame, zstandard.ZstdCompressor().compress])
def test_a_bomb_takes_no_more_memory_than_was_announced(pack: object) -> None:
    bomb = pack(bytes(256 << 20))  # type: ignore[operator]
    compressor = Compressor.GZIP if pack is gzip_member else Compressor.ZSTD
    decompress(compressor, pack(b"warm"), 4)  # type: ignore[operator]

    with measured() as peak, pytest.raises(FormatError):
        decompress(compressor, bomb, 4096)
    assert peak.grown < 40 << 20


def test_a_zstd_window_larger_than_the_content_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = stream.compress(b"short") + stream.flush()

    with pytest.raises(FormatError):
        decompress(Compressor.ZSTD, frame, 5)


@pytest.mark.parametrize("compressor", WRITTEN)
@given(data=st.binary(max_size=300) | st.binary(max_size=40).map(lambda piece: piece * 50))
def test_what_we_compress_is_smaller_or_the_same_object(compressor: Compressor, data: bytes) -> None:
    packed = compress_function(compressor)(data)

    assert packed is data or len(packed) < len(data)
    if packed is not data:
        assert decompress(compressor, packed, len(data)) == data


def test_random_bytes_are_stored_as_they_are() -> None:
    data = os.urandom(5000)

    assert all(compress_function(compressor)(data) is data for compressor in WRITTEN)


def test_nothing_is_written_as_gzip() -> None:
    with pytest.raises(UnsupportedError):
        compress_function(Compressor.GZIP)


def test_digests_and_checksum_are_those_of_the_format() -> None:
    # Test vectors of the BLAKE3 and CRC-32C (RFC 3720) specifications.
    empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert digest_function(Digester.BLAKE3)(b"").hex() == empty
    assert digest_function(Digester.SHA256)(b"abc") == hashlib.sha256(b"abc").digest()
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
