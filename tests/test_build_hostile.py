"""Layers that somebody made to do harm: refused with a `FormatError`, or built in bounded memory without harm."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nydusify.build.options import BuildOptions
from nydusify.errors import FormatError, NydusifyError
from tests.archives import END, header, make_tar, pax_header
from tests.golden import golden_dir
from tests.layers import build_bytes, layer_file, merge
from tests.trees import tree_of

MEMORY = 256 << 20
ENTRY_FLOOD_MEMORY = 400 << 20
"""Resident bytes for 200,000 entries, of which the golden set only says that they must not make a builder hang."""
ROOT = Path(__file__).parent.parent
BUILT = {
    "tar-whiteout-dotdot": "builds: the merged tree has nothing to remove",
    "tar-whiteout-bare": "builds: an empty name removes nothing",
    "tar-device-flood": "builds",
    "tar-entry-flood": "builds",
    "tar-deep-flood": "builds",
    "tar-bomb-1g": "builds: zeros are one chunk",
    "tar-bomb": "builds",
    "tar-bomb-members": "builds as an empty layer",
}
"""What is not refused, of those that need not be. Everything else is."""


def name_of(case: dict[str, Any]) -> str:
    return str(Path(case["file"]).name).partition(".tar")[0]


def damaged_layers() -> list[dict[str, Any]]:
    cases = json.loads((golden_dir() / "should-fail/index.json").read_text())
    return [case for case in cases if case["kind"] == "layer tar"]


def parameters() -> Iterator[Any]:
    """The golden set's list, or one test that skips with the reason."""
    try:
        for case in damaged_layers():
            yield pytest.param(case, id=name_of(case))
    except pytest.skip.Exception as skipped:
        yield pytest.param({}, marks=pytest.mark.skip(reason=str(skipped)), id="none")


@cache
def outcomes(version: int) -> dict[str, dict[str, Any]]:
    """By name, what a process of its own made of every damaged layer."""
    files = [str(golden_dir() / case["file"]) for case in damaged_layers()]
    command = [sys.executable, "-m", "tests.hostile_layers", str(version), *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {name_of(line): line for line in lines}


@pytest.mark.parametrize("version", [6, 5])
@pytest.mark.parametrize("case", list(parameters()))
def test_a_hostile_layer_is_refused_or_does_no_harm(case: dict[str, Any], version: int) -> None:
    name = name_of(case)
    outcome = outcomes(version)[name]

    assert outcome["refused"] or outcome["error"] is None, outcome["error"]
    assert (outcome["peak"] or 0) < (ENTRY_FLOOD_MEMORY if name == "tar-entry-flood" else MEMORY)
    assert outcome["refused"] == (name not in BUILT)
    assert name not in BUILT or case["must"] != "refuse the layer"


@pytest.mark.parametrize("version", [6, 5])
def test_what_is_built_of_hostile_layers_is_all_there(version: int) -> None:
    golden_dir()
    found = outcomes(version)

    assert found["tar-device-flood"]["entries"] >= 50000
    assert found["tar-entry-flood"]["entries"] >= 200000
    assert len(found["tar-deep-flood"]["paths"]) == 50
    assert found["tar-bomb-members"]["paths"] == ["/"]
    assert not [path for path in found["tar-whiteout-dotdot"]["paths"] if ".wh" in path]


def refuse(archive: bytes, match: str, **options: Any) -> None:
    with pytest.raises(FormatError, match=match):
        tree_of(merge([build_bytes(archive, BuildOptions(**options))]))


@pytest.mark.parametrize("path", ["../a", "a/../../b", "/..", "a/.."])
def test_no_entry_leaves_the_layer(path: str) -> None:
    refuse(make_tar(("file", path, b"1")), "leaves the layer")


@pytest.mark.parametrize("target", ["../a", "b", "/no/such"])
def test_no_hard_link_leads_out_of_the_image_or_to_itself(target: str) -> None:
    refuse(make_tar(("hardlink", "b", target)), "hard link|leaves the layer")


def test_hard_links_in_a_circle_are_refused() -> None:
    refuse(make_tar(("hardlink", "a", "b"), ("hardlink", "b", "a")), "no layer has its target")


def test_a_name_of_256_bytes_is_refused_and_one_of_255_is_not() -> None:
    assert "/" + "a" * 255 in tree_of(build_bytes(make_tar(("file", "a" * 255, b""))).bootstrap)
    refuse(make_tar(("file", "b/" + "a" * 256, b"")), "255 bytes")


@pytest.mark.parametrize("path", ["", "/", "./"])
def test_the_root_is_a_directory(path: str) -> None:
    refuse(header(path.encode(), b"2", link=b"elsewhere") + END, "root|name")


def test_a_symlink_may_have_4095_bytes() -> None:
    assert tree_of(build_bytes(make_tar(("symlink", "a", "x" * 4095))).read())["/a"]["size"] == 4095
    refuse(make_tar(("symlink", "a", "x" * 4096)), "target of 4096 bytes")
    refuse(make_tar(("symlink", "a", "")), "target of 0 bytes")


@pytest.mark.parametrize(
    ("record", "match"),
    [
        ((b"size", b"9" * 30), "size"),
        ((b"uid", b"-1"), "uid"),
        ((b"gid", b"4294967296"), "owner"),
        ((b"mtime", b"yesterday"), "time"),
        ((b"mtime", b"9" * 30), "time"),
        ((b"path", b"a\0b"), "NUL"),
        ((b"SCHILY.xattr." + b"u" * 256, b""), "xattr"),
        ((b"SCHILY.xattr.user.x", b"v" * 65536), "xattr"),
    ],
)
def test_a_pax_record_beyond_what_can_be_stored_is_refused(record: tuple[bytes, bytes], match: str) -> None:
    refuse(pax_header(record) + header(b"a") + END, match)


@pytest.mark.parametrize("name", ["security.x", "user.x", "trusted.x"])
@pytest.mark.parametrize("version", [6, 5])
def test_xattrs_that_together_are_too_large_for_an_inode_are_refused_or_kept(name: str, version: int) -> None:
    """v6 counts an inode's xattrs in words of 4 bytes, in 16 bits: 256 KiB together."""
    records = [(f"SCHILY.xattr.{name}{number}".encode(), b"v" * 65535) for number in range(5)]
    archive = pax_header(*records) + header(b"a") + END
    try:
        read = build_bytes(archive, BuildOptions(version)).read()
    except FormatError:
        assert version == 6
    else:
        assert len(tree_of(read)["/a"]["xattrs"]) == 5


@pytest.mark.parametrize("seconds", [-(1 << 62), -1, (1 << 62)])
@pytest.mark.parametrize("version", [6, 5])
def test_times_far_from_now_are_kept(seconds: int, version: int) -> None:
    archive = pax_header((b"mtime", str(seconds).encode())) + header(b"a") + END

    assert tree_of(build_bytes(archive, BuildOptions(version)).read())["/a"]["mtime_s"] == seconds


def test_a_file_of_more_chunks_than_a_blob_has_is_refused() -> None:
    size = (1 << 24) * 4096
    archive = pax_header((b"GNU.sparse.major", b"0"), (b"GNU.sparse.size", str(size).encode()),
                         (b"GNU.sparse.map", b"%d,0" % size)) + header(b"a") + END  # fmt: skip

    refuse(archive, "chunks", chunk_size=4096)


@pytest.mark.parametrize("name", ["04-small", "06-upper", "07-tiny", "05-nodata"])
def test_a_layer_that_is_cut_anywhere_is_refused(name: str) -> None:
    data = layer_file(name).read_bytes()

    for length in [*range(0, 64), *range(64, len(data), max(len(data) // 40, 1)), len(data) - 1]:
        with pytest.raises(FormatError):
            build_bytes(data[:length], compression="gzip")


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_bytes_that_are_not_of_the_announced_compression_are_refused(compression: str) -> None:
    for data in (b"\0\1\2\3" * 1000, b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"{}"):
        with pytest.raises(NydusifyError):
            build_bytes(data, compression=compression)
