"""Inflates a part of a gzip file from a point in its middle. Source: nydus, utils/src/compress/zlib_random.rs."""

import zlib
from collections.abc import Callable
from typing import Any

from nydusify.errors import FormatError

RAW = -15
"""zlib's ``wbits`` for a deflate stream without header and trailer."""
PIECE = 1 << 16
MAX_MEMBERS = 1 << 12
"""Gzip members that one context may touch; builders start a context at each."""
MAX_HEADER = 1 << 16
"""Bytes of a gzip header, names and comments included."""
TRAILER = 8

# Deflate blocks that hold nothing, as (value, bits), least-significant bit first. They fill the bits in front of a
# context so that its input keeps its byte alignment, on which stored blocks depend.
_EMPTY_FIXED = (0b010, 10)
"""Not the last block, fixed codes; seven zero bits end it."""


def _empty_dynamic() -> tuple[int, int]:
    """An empty block of 93 bits: the only kind with an odd number of them, as fixed and stored ones have even ones.

    The code lengths of 256 literals are zero, that of the end of the block 1, that of the one distance code zero. They
    are written in three symbols, 18 (many zeros), 0 and 1 (RFC 1951, 3.2.7).
    """
    order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1]
    lengths = {0: 2, 1: 1, 18: 2}
    # Huffman codes are sent from their most-significant bit: symbol 0 is 10, symbol 18 is 11, symbol 1 is 0.
    zero, one, many = (0b01, 2), (0b0, 1), (0b11, 2)
    fields = [(0b100, 3), (0, 5), (0, 5), (len(order) - 4, 4)]
    fields += [(lengths.get(symbol, 0), 3) for symbol in order]
    fields += [many, (138 - 11, 7), many, (118 - 11, 7), one, zero]
    fields += [(0, 1)]
    return _join(fields)


def _join(fields: list[tuple[int, int]]) -> tuple[int, int]:
    value = bits = 0
    for field, width in fields:
        value |= field << bits
        bits += width
    return value, bits


def prime(byte: int, bits: int) -> bytes:
    """Whole bytes of deflate data that yield nothing and end with the top ``bits`` (0 to 7) bits of ``byte``."""
    if not bits:
        return b""
    blocks = [_empty_dynamic()] if bits % 2 else []
    while (sum(width for _, width in blocks) + bits) % 8:
        blocks.append(_EMPTY_FIXED)
    value, width = _join([*blocks, (byte >> (8 - bits), bits)])
    return value.to_bytes(width // 8, "little")


class _Input:
    """The bytes of a context, read piece by piece."""

    def __init__(self, read_at: Callable[[int, int], bytes], offset: int, size: int) -> None:
        self._read_at = read_at
        self._offset, self._end = offset, offset + size
        self._back = b""

    def piece(self) -> bytes:
        """The next bytes; none at the end."""
        if self._back:
            piece, self._back = self._back, b""
            return piece
        length = min(PIECE, self._end - self._offset)
        self._offset += length
        return self._read_at(self._offset - length, length) if length else b""

    def put_back(self, data: bytes) -> None:
        self._back = data

    def skip_member(self) -> None:
        """Go past the trailer of one gzip member and the header of the next."""
        data = b""
        while (size := _header_size(data[TRAILER:])) is None:
            piece = self.piece()
            if not piece or len(data) > MAX_HEADER:
                raise FormatError("a zran context ends between two gzip members")
            data += piece
        self.put_back(data[TRAILER + size :])


def _header_size(data: bytes) -> int | None:
    """Bytes of the gzip header that ``data`` begins with (RFC 1952, 2.3); None if more of it is needed."""
    if len(data) < 10:
        return None
    if data[:3] != b"\x1f\x8b\x08":
        raise FormatError("a zran context goes on behind the end of the gzip data")
    flags, size = data[3], 10
    if flags & 0x04:  # extra field
        if len(data) < size + 2:
            return None
        size += 2 + int.from_bytes(data[size : size + 2], "little")
    for text in (0x08, 0x10):  # name, comment
        if flags & text:
            end = data.find(b"\0", size)
            if end < 0:
                return None
            size = end + 1
    if flags & 0x02:  # checksum of the header
        size += 2
    return size if size <= len(data) else None


def inflate(read_at: Callable[[int, int], bytes], context: Any, dictionary: bytes) -> bytes:
    """What ``context`` (a `blob.ZRAN_CONTEXT` record) of a gzip file unpacks to, exactly ``out_size`` bytes.

    ``read_at(offset, length)`` reads the file. Raises `FormatError` if the data are damaged or end early. Allocates
    ``out_size`` and a constant.
    """
    wanted, members = int(context["out_size"]), 0
    source = _Input(read_at, int(context["in_offset"]), int(context["in_size"]))
    decoder = zlib.decompressobj(RAW, zdict=dictionary)
    pieces: list[bytes] = []
    try:
        decoder.decompress(prime(int(context["byte"]), int(context["bits"])))
        while wanted:
            if decoder.eof:
                members += 1
                if members > MAX_MEMBERS:
                    raise FormatError(f"a zran context of more than {MAX_MEMBERS} gzip members")
                source.put_back(decoder.unused_data)
                source.skip_member()
                decoder = zlib.decompressobj(RAW)
            data = decoder.unconsumed_tail or source.piece()
            if not data:
                raise FormatError(f"a zran context ends {wanted} bytes too early")
            pieces.append(decoder.decompress(data, wanted))
            wanted -= len(pieces[-1])
    except zlib.error as error:
        raise FormatError(f"damaged gzip data: {error}") from error
    return b"".join(pieces)
