"""The fields of a tar header: numbers, times, pax records. Source: POSIX pax, GNU tar manual ("Basic Tar Format")."""

import re
import zlib
from functools import lru_cache

from nydusify.errors import FormatError
from nydusify.rafs.spec import MAX_NAME, MAX_XATTR_VALUE

BLOCK = 512
MAX_EXTENSION = 1 << 20
"""Bytes that a pax header or a GNU long name may have; the limit that Go's archive/tar sets too."""

_OCTAL = re.compile(rb"[0-7]+\Z")
_DECIMAL = re.compile(rb"[0-9]+\Z")
_TIME = re.compile(rb"(-?)([0-9]+)(?:\.([0-9]*))?\Z")
_XATTR = b"SCHILY.xattr."
_XATTR_NAMESPACES = (b"user.", b"security.", b"trusted.")
_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")


@lru_cache(maxsize=4096)
def number(field: bytes) -> int:
    """An octal or base-256 number; blank counts as 0. Raises `FormatError`."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field) - 1
        value &= (1 << bits) - 1
        return value - (1 << bits) if value >> (bits - 1) else value
    text = field.strip(b"\0 ")
    if not text:
        return 0
    if not _OCTAL.match(text):
        raise FormatError(f"tar: {field!r} is not a number")
    return int(text, 8)


def decimal(text: bytes, what: str) -> int:
    """A pax decimal of at most 19 digits. Raises `FormatError` naming ``what``."""
    if not _DECIMAL.match(text) or len(text) > 19:
        raise FormatError(f"tar: pax {what} is not a number: {text[:40]!r}")
    return int(text)


def pax_time(text: bytes) -> tuple[int, int]:
    """Seconds, rounded down, and nanoseconds of a pax time such as ``-1.5``."""
    match = _TIME.match(text)
    if not match or len(text) > 64:
        raise FormatError(f"tar: not a pax time: {text[:40]!r}")
    sign, whole, fraction = match.groups()
    total = int(whole) * 10**9 + int((fraction or b"").ljust(9, b"0")[:9])
    seconds, nanoseconds = divmod(-total if sign else total, 10**9)
    if not -(1 << 63) <= seconds < 1 << 63:
        raise FormatError(f"tar: time out of range: {text[:40]!r}")
    return seconds, nanoseconds


def cut(field: bytes) -> bytes:
    """The part of a text field before its first NUL."""
    end = field.find(b"\0")
    return field if end < 0 else field[:end]


@lru_cache(maxsize=4096)
def numbers(fields: bytes) -> tuple[int, int, int]:
    """Three neighbouring fields of eight bytes: mode, uid and gid, which few entries have to themselves."""
    return number(fields[:8]), number(fields[8:16]), number(fields[16:])


def checksum(field: bytes) -> int:
    """Like `number`, for a field that hardly ever repeats; what is no number becomes one that cannot match."""
    try:
        return int(field.rstrip(b"\0 "), 8)
    except ValueError:
        return -1


def checksum_matches(header: bytes) -> bool:
    """Whether the sum of the header's bytes, with blanks for the sum itself, is the one it states."""
    own = header[148:156]
    stated = checksum(own)
    # Adler-32's low half is the byte sum plus one, modulo 65521: the same verdict at a tenth of the time.
    if ((zlib.adler32(header) & 0xFFFF) - 1 - sum(own) + 256 - stated) % 65521 == 0:
        return True
    signed = sum(byte - 256 if byte > 127 else byte for byte in header[:148] + header[156:]) + 256
    return stated == signed


def pax_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """The ``length key=value`` records of a pax header, in order. Raises `FormatError`."""
    records, at = [], 0
    while at < len(data):
        if data[at] == 0:  # some writers pad with NULs
            break
        blank = data.find(b" ", at, at + 20)
        if blank < 0:
            raise FormatError("tar: pax record without a length")
        end = at + decimal(data[at:blank], "record length")
        key, separator, value = data[blank + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= blank + 1 or not separator or not key or data[end - 1] != 10:
            raise FormatError("tar: pax record does not fit its length")
        records.append((key, value))
        at = end
    return records


def pax_xattrs(pax: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Extended attributes from ``SCHILY.xattr.`` records; like containerd and GNU tar, no others are read."""
    found = {key[len(_XATTR) :]: value for key, value in pax.items() if key.startswith(_XATTR)}
    for name, value in found.items():
        if len(name) > MAX_NAME or b"\0" in name or len(value) > MAX_XATTR_VALUE:
            raise FormatError(f"tar: xattr {name[:80]!r} is larger than a file system takes")
    return found


def storable(name: bytes) -> bool:
    """Whether RAFS, like the kernel, has a place for an xattr of this name."""
    return name in _ACLS or name.startswith(_XATTR_NAMESPACES)
