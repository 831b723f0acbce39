"""Maps of sparse tar entries. Source: GNU tar manual, "Storing Sparse Files"."""

from collections.abc import Callable

from nydusify.build.tar_fields import BLOCK, decimal, number
from nydusify.errors import FormatError

Segments = list[tuple[int, int]]
MAX_SEGMENTS = 1 << 20


def old_gnu(header: bytes, read: Callable[[int], bytes]) -> tuple[Segments, int]:
    """Map and real size of a type ``S`` entry; ``read`` gives the extension blocks that follow its header."""
    segments = _slots(header[386:482])
    more = header[482]
    while more:
        block = read(BLOCK)
        segments += _slots(block[:504])
        more = block[504]
        if len(segments) > MAX_SEGMENTS:
            raise FormatError("tar: a sparse map of more than a million pieces")
    return segments, number(header[483:495])


def _slots(area: bytes) -> Segments:
    slots = [area[at : at + 24] for at in range(0, len(area), 24)]
    return [(number(slot[:12]), number(slot[12:])) for slot in slots if slot[0]]


def pairs(numbers: list[bytes]) -> Segments:
    """The map of pax formats 0.0 and 0.1: offset, length, offset, length…"""
    if len(numbers) % 2 or len(numbers) > 2 * MAX_SEGMENTS:
        raise FormatError("tar: a sparse map with an odd or excessive number of entries")
    values = [decimal(text, "sparse map") for text in numbers]
    return list(zip(values[::2], values[1::2], strict=True))


def pax_1_0(read: Callable[[int], bytes]) -> Segments:
    """The map of pax format 1.0: decimal lines in front of the data, padded to a block."""
    block, lines = read(BLOCK), []

    def line() -> int:
        nonlocal block
        while b"\n" not in block:
            if len(block) > BLOCK:
                raise FormatError("tar: sparse map without line ends")
            block += read(BLOCK)
        text, _, block = block.partition(b"\n")
        return decimal(text, "sparse map")

    count = line()
    if count > MAX_SEGMENTS:
        raise FormatError("tar: a sparse map of more than a million pieces")
    for _ in range(count):
        lines.append((line(), line()))
    return lines


def check(segments: Segments, real_size: int, stored: int) -> None:
    """Refuse a map that overlaps, goes backwards, leaves the file, or needs other than the ``stored`` bytes."""
    end = 0
    for offset, length in segments:
        if offset < end or length < 0 or offset + length > real_size:
            raise FormatError("tar: the pieces of a sparse file overlap or lie outside it")
        end = offset + length
    if sum(length for _, length in segments) != stored:
        raise FormatError("tar: a sparse file needs other data than are stored")
