"""Values as they are typed: sizes, durations, choices, prefetch patterns. All raise `UsageError`."""

import re
from collections.abc import Iterable
from enum import Enum
from typing import BinaryIO, TypeVar

from nydusify.errors import UsageError

MAX_PATTERNS = 16 << 20
"""Bytes of prefetch patterns."""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,18})([KMGT]?)(?:iB|B)?", re.IGNORECASE)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})(ns|us|µs|μs|ms|s|m|h)")
Choice = TypeVar("Choice", bound=Enum)


def parse_number(option: str, text: str) -> int:
    """A whole number, decimal or with ``0x`` hexadecimal."""
    try:
        if len(text) > 20:
            raise ValueError
        return int(text, 16) if text.lower().startswith("0x") else int(text, 10)
    except ValueError:
        raise UsageError(
            f"{option}: {text[:40]!r} is not a number", advice=f"Write it like {option} 0x100000, or 1048576."
        ) from None


def parse_size(option: str, text: str) -> int:
    """Bytes, from ``20GiB``, ``20G`` or ``1000``; units are powers of 1024."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{option}: {text[:40]!r} is not a size", advice=f"Write it like {option} 20GiB.")
    return int(found[1]) * _UNITS[found[2].upper()]


def parse_duration(option: str, text: str) -> float:
    """Seconds, from Go's notation: ``5s``, ``500ms``, ``1m30s``, ``0``."""
    if text == "0":
        return 0.0
    parts = list(_PART.finditer(text[:200]))
    if not parts or "".join(part[0] for part in parts) != text:
        raise UsageError(f"{option}: {text[:40]!r} is not a duration", advice=f"Write it like {option} 5s, or 1m30s.")
    return sum(float(part[1]) * _SECONDS[part[2]] for part in parts)


def parse_choice(option: str, text: str, choices: Iterable[Choice]) -> Choice:
    """The member of an enum whose lower-case name is ``text``."""
    names = {choice.name.lower(): choice for choice in choices}
    if text.lower() not in names:
        raise UsageError(f"{option}: unknown {text[:40]!r}", advice=f"Choose one of {', '.join(names)}.")
    return names[text.lower()]


def check_path(option: str, path: bytes) -> bytes:
    """A path inside the image, which is absolute."""
    if not path.startswith(b"/"):
        shown = path[:100].decode(errors="backslashreplace")
        raise UsageError(f"{option}: {shown!r} is not an absolute path", advice="Begin paths in the image with a /.")
    return path


def read_patterns(option: str, stream: BinaryIO) -> tuple[bytes, ...]:
    """Prefetch patterns: one absolute path a line, to the end of ``stream``; empty lines are skipped."""
    content = stream.read(MAX_PATTERNS + 1)
    if len(content) > MAX_PATTERNS:
        raise UsageError(f"{option}: more than {MAX_PATTERNS >> 20} MiB of patterns on standard input")
    return tuple(check_path(option, line) for line in content.split(b"\n") if line.strip())


def human_size(size: int) -> str:
    """``12.3 MB``; units are powers of 1000."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.95:
            return f"{value:.1f} {unit}" if unit != "B" else f"{size} B"
        value /= 1000
    return f"{value:.1f} TB"


def human_time(nanoseconds: int) -> str:
    """``3.2 s``, or ``2 min 5 s`` from a minute on."""
    seconds = nanoseconds / 1e9
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
