"""JSON from strangers: bounded in size and depth, each key once, and written back without surprises."""

import json
import math
from typing import Any

from nydusify.errors import FormatError

MAX_MANIFEST_SIZE = 4 << 20
MAX_CONFIG_SIZE = 8 << 20
MAX_DEPTH = 64


def parse_object(data: bytes, what: str, limit: int = MAX_MANIFEST_SIZE) -> dict[str, Any]:
    """The object in ``data``; raise `FormatError` for anything else, for duplicate keys, and above ``limit`` bytes."""
    value = parse_json(data, what, limit)
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not a JSON object")
    return value


def parse_json(data: bytes, what: str, limit: int = MAX_MANIFEST_SIZE) -> Any:
    """Any JSON value of at most ``limit`` bytes and `MAX_DEPTH` levels; raise `FormatError` otherwise."""
    if len(data) > limit:
        raise FormatError(f"{what} has {len(data)} bytes, more than the {limit} that are read")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
        _check_depth_and_text(value)
    except RecursionError:
        raise FormatError(f"{what}: JSON nested too deeply") from None
    except ValueError as error:  # also UnicodeError, JSONDecodeError and FormatError itself
        raise FormatError(f"{what} is not valid JSON: {str(error)[:200]}") from None
    return value


def dump_json(value: Any) -> bytes:
    """Compact UTF-8 JSON, keys in the order of the dicts, nothing escaped that need not be."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise FormatError(f"key {twice[:80]!r} appears twice")
    return found


def _refuse(constant: str) -> Any:
    raise FormatError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise FormatError("a number is out of range")
    return number


def _check_depth_and_text(value: Any) -> None:
    """What was parsed may be written again, by a caller deeper in the stack: keep room, and refuse half surrogates."""
    level = [value]
    for _ in range(MAX_DEPTH):
        for item in level:
            if isinstance(item, str) and not item.isascii():
                item.encode()
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in ([*item.keys(), *item.values()] if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise FormatError(f"nested more than {MAX_DEPTH} levels deep")
