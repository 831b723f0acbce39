"""Damaged bootstraps: refused with a `FormatError`, or read; never a crash, never much memory."""

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nydusify.errors import FormatError, NydusifyError
from nydusify.rafs import v5, v6
from nydusify.rafs.reader import read_bootstrap
from nydusify.rafs.tree import Bootstrap, iter_tree
from nydusify.rafs.writer import write_bootstrap
from tests.golden import golden_dir
from tests.layers import DATA
from tests.memory import measured
from tests.trees import tree_of

MEMORY = 64 << 20
"""Bytes that reading a bootstrap of some KiB may take; the most a reader may use at all is 256 MB."""
GOOD = [DATA / "bootstraps/v5-zstd.boot", DATA / "bootstraps/v6-zstd.boot"]


def damaged_bootstraps() -> Iterator[Any]:
    """The golden set's list, or one test that skips with the reason."""
    try:
        cases = json.loads((golden_dir() / "should-fail/index.json").read_text())
    except pytest.skip.Exception as skipped:
        yield pytest.param({}, marks=pytest.mark.skip(reason=str(skipped)), id="none")
        return
    for case in cases:
        if case["kind"] in ("v5 bootstrap", "v6 bootstrap"):
            yield pytest.param(case, id=case["file"].removeprefix("should-fail/").removesuffix(".boot"))


def use(bootstrap: Bootstrap) -> None:
    """What readers do with a bootstrap that they have opened."""
    for path, inode in iter_tree(bootstrap.root):
        assert path.startswith(b"/")
        assert all(0 <= row < len(bootstrap.chunks) for row in inode.chunks)
        assert inode.children is None or {b".", b"..", b""}.isdisjoint(inode.children)
    tree_of(bootstrap)
    with suppress(NydusifyError):
        write_bootstrap(bootstrap)


@pytest.mark.parametrize("case", list(damaged_bootstraps()))
def test_a_damaged_bootstrap_is_refused_where_its_kind_of_damage_must_be(case: dict[str, Any]) -> None:
    data = (golden_dir() / case["file"]).read_bytes()

    with measured() as peak:
        if case["must"].startswith("refuse at open") and " or " not in case["must"]:
            with pytest.raises(FormatError):
                read_bootstrap(data)
        else:
            try:
                bootstrap = read_bootstrap(data)
            except FormatError:
                pass
            else:
                use(bootstrap)
    assert peak.grown < MEMORY


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_bootstrap_that_is_cut_anywhere_is_refused(path: Path) -> None:
    data = path.read_bytes()

    for length in [*range(0, 2048, 61), *range(2048, len(data) - 1, 997), len(data) - 1]:
        with pytest.raises(FormatError):
            read_bootstrap(data[:length])


@cache
def good(number: int) -> bytes:
    return GOOD[number].read_bytes()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good bootstrap with some of its bytes, words or ranges changed, mostly in its super block and tables."""
    number = draw(st.integers(0, 1))
    data = bytearray(good(number))
    start = v5.SUPER_BLOCK_SIZE if number == 0 else v6.SUPER_BLOCK_OFFSET
    places = st.integers(0, len(data) - 9) | st.integers(start, start + 1024) | st.integers(0, 127)
    for at in draw(st.lists(places, min_size=1, max_size=6)):
        change = draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8), b"\0\0\0\x80"]))
        data[at : at + len(change)] = change
    return bytes(data)


@settings(max_examples=600, deadline=None)
@given(damaged())
@example(b"")
def test_random_damage_is_refused_or_read(data: bytes) -> None:
    try:
        bootstrap = read_bootstrap(data)
    except FormatError:
        return
    use(bootstrap)


@settings(max_examples=200, deadline=None)
@given(number=st.integers(0, 1), at=st.integers(0, (1 << 20) - 1), bit=st.integers(0, 7))
def test_one_flipped_bit_is_refused_or_read(number: int, at: int, bit: int) -> None:
    data = bytearray(good(number))
    data[at % len(data)] ^= 1 << bit
    try:
        bootstrap = read_bootstrap(bytes(data))
    except FormatError:
        return
    use(bootstrap)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=20000), st.sampled_from([v5.MAGIC, v6.MAGIC]))
def test_random_bytes_with_a_magic_are_refused(noise: bytes, magic: int) -> None:
    place = 0 if magic == v5.MAGIC else v6.SUPER_BLOCK_OFFSET
    data = noise.ljust(place + 4, b"\0")
    data = data[:place] + magic.to_bytes(4, "little") + data[place + 4 :]

    with pytest.raises(FormatError):
        read_bootstrap(data)
