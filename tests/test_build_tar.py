"""The tar reader against archives of tarfile, of GNU tar, and against raw headers."""

import io
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nydusify.build.tar import TarEntry, TarReader
from nydusify.build.tar_fields import cut, number, pax_records, pax_time
from nydusify.errors import FormatError, NydusifyError, UnsupportedError
from tests.archives import END, header, make_tar, pax_header, pax_record
from tests.layers import build_bytes
from tests.trees import BlobContent, tree_of

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def entries(archive: bytes) -> Iterator[tuple[TarEntry, bytes]]:
    """Every entry with its stored bytes."""
    reader = TarReader(io.BytesIO(archive))
    while (entry := reader.next()) is not None:
        stored = entry.size if entry.segments is None else sum(length for _, length in entry.segments)
        yield entry, reader.read(stored)


def only(archive: bytes) -> TarEntry:
    ((entry, _),) = entries(archive)
    return entry


@pytest.mark.parametrize("format", FORMATS)
def test_every_kind_of_entry_is_read(format: int) -> None:
    archive = make_tar(
        ("dir", "d", ""), ("file", "d/f", b"content"), ("symlink", "l", "d/f"), ("hardlink", "h", "d/f"),
        ("char", "c", ""), ("block", "b", ""), ("fifo", "p", ""), ("file", "empty", b""),
        format=format, uid=5, gid=6, devmajor=300, devminor=0x12345,
    )  # fmt: skip
    found = list(entries(archive))
    rdev = 0x45 | 300 << 8 | 0x12300 << 12

    assert [entry.name for entry, _ in found] == [b"d/", b"d/f", b"l", b"h", b"c", b"b", b"p", b"empty"]
    assert [stat.S_IFMT(entry.mode) for entry, _ in found] == [
        stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFREG
    ]  # fmt: skip
    assert [data for _, data in found] == [b"", b"content", *[b""] * 6]
    assert [entry.hardlink for entry, _ in found] == [False, False, False, True, *[False] * 4]
    assert (found[2][0].target, found[3][0].target) == (b"d/f", b"d/f")
    assert [entry.rdev for entry, _ in found] == [0, 0, 0, 0, rdev, rdev, 0, 0]
    assert {(entry.uid, entry.gid, entry.mtime, entry.mtime_ns) for entry, _ in found} == {(5, 6, 1, 0)}


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_and_targets_of_any_length_are_read(format: int) -> None:
    path, target = "/".join(["n" * 99] * 30), "t" * 4000
    archive = make_tar(("symlink", path, target), ("hardlink", "h", path), ("file", "after", b"1"), format=format)
    found = [entry for entry, _ in entries(archive)]

    assert (found[0].name, found[0].target) == (path.encode(), target.encode())
    assert (found[1].name, found[1].target) == (b"h", path.encode())
    assert found[2].name == b"after"


def test_a_ustar_prefix_is_put_in_front_of_the_name() -> None:
    path = "p" * 90 + "/" + "n" * 90

    assert only(make_tar(("file", path, b""), format=tarfile.USTAR_FORMAT)).name == path.encode()


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_are_not_utf_8_are_kept(format: int) -> None:
    name = b"caf\xe9-\xff\xfe"
    archive = make_tar(("file", name.decode("utf-8", "surrogateescape"), b""), format=format)

    assert only(archive).name == name


@pytest.mark.parametrize("value", [0, 0o7777777, 0o10000000, (1 << 32) - 1])
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_owners_of_32_bits_are_read(value: int, format: int) -> None:
    entry = only(make_tar(("file", "f", b""), format=format, uid=value, gid=value))

    assert (entry.uid, entry.gid) == (value, value)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-1, (-1, 0)),
        (-1.5, (-2, 500000000)),
        (1.000000001, (1, 0)),
        (0.25, (0, 250000000)),
        (1 << 33, (1 << 33, 0)),
        (-(1 << 40), (-(1 << 40), 0)),
    ],
)
def test_times_before_1970_after_2038_and_between_seconds_are_read(seconds: float, expected: tuple[int, int]) -> None:
    entry = only(make_tar(("file", "f", b""), mtime=seconds))

    assert entry.mtime == expected[0]
    assert abs(entry.mtime_ns - expected[1]) < 1000  # tarfile writes what a float holds
    if isinstance(seconds, int):
        gnu = only(make_tar(("file", "f", b""), mtime=seconds, format=tarfile.GNU_FORMAT))
        assert (gnu.mtime, gnu.mtime_ns) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"1", (1, 0)),
        (b"1.", (1, 0)),
        (b"0.5", (0, 500000000)),
        (b"-0.5", (-1, 500000000)),
        (b"-1.000000001", (-2, 999999999)),
        (b"1.9999999999999", (1, 999999999)),
        (b"0.000000000000000000000000000009", (0, 0)),
    ],
)
def test_a_pax_time_is_rounded_down(text: bytes, expected: tuple[int, int]) -> None:
    assert pax_time(text) == expected


@pytest.mark.parametrize("text", [b"", b".5", b"1e9", b"+1", b"1.5.5", b"0x1", b" 1", b"1\n", b"9" * 65])
def test_what_is_not_a_pax_time_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        pax_time(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"   644 \0", 0o644),
        (b"\0" * 8, 0),
        (b"        ", 0),
        (b"\x80\0\0\0\0\0\0\x07", 7),
        (b"\xff" * 8, -1),
        (b"\xff" * 11 + b"\xfe", -2),
        (b"\x80" + b"\0" * 3 + (1 << 63).to_bytes(8, "big"), 1 << 63),
    ],
)
def test_a_number_is_octal_base_256_or_blank(field: bytes, value: int) -> None:
    assert number(field) == value


@pytest.mark.parametrize("field", [b"9\0", b"12 34\0", b"-1\0", b"0x1\0", b"1.0\0", b"\x7f\0"])
def test_what_is_not_a_number_is_refused(field: bytes) -> None:
    with pytest.raises(FormatError):
        number(field)


def test_text_ends_at_the_first_nul() -> None:
    assert [cut(b"ab\0cd"), cut(b"ab"), cut(b"\0")] == [b"ab", b"ab", b""]


@pytest.mark.parametrize("value", [b"", b"\n", b"1\n2 a=b\n", b"a=b", b"\0\xff", b"x" * 5000])
def test_a_pax_value_may_hold_any_byte(value: bytes) -> None:
    data = pax_record(b"key", value) + pax_record(b"next", b"1")

    assert pax_records(data + bytes(300)) == [(b"key", value), (b"next", b"1")]


@pytest.mark.parametrize(
    "data", [b"0 a=b\n", b"5 a=b\n", b"7 a=b\n", b"99 a=b\n", b"a=b\n", b"6 a:b\n", b"5 =b\n", b"6 a=bb", b"-6 a=b\n"]
)
def test_a_pax_record_that_does_not_fit_its_length_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        pax_records(data)


def test_global_headers_hold_until_they_are_replaced_and_give_way_to_local_ones() -> None:
    archive = (
        pax_header((b"uid", b"7"), (b"mtime", b"9.5"), (b"comment", b"x"), kind=b"g") + header(b"a")
        + pax_header((b"uid", b"8")) + header(b"b") + header(b"c")
        + pax_header((b"uid", b"1"), kind=b"g") + header(b"d") + END
    )  # fmt: skip
    found = [entry for entry, _ in entries(archive)]

    assert [(entry.name, entry.uid, entry.mtime, entry.mtime_ns) for entry in found] == [
        (b"a", 7, 9, 500000000), (b"b", 8, 9, 500000000), (b"c", 7, 9, 500000000), (b"d", 1, 9, 500000000)
    ]  # fmt: skip


def test_xattrs_are_read_with_all_their_bytes() -> None:
    records = [(b"user.a", b"1\n2 x=y\n\0\xff"), (b"user.empty", b""), (b"user.a=b", b"")]
    archive = pax_header(*((b"SCHILY.xattr." + name, value) for name, value in records[:2])) + header(b"a") + END

    assert only(archive).xattrs == dict(records[:2])
    assert only(make_tar(("file", "a", b""))).xattrs is None


def test_a_size_in_a_pax_record_or_in_base_256_counts() -> None:
    data = b"x" * 700 + bytes(324)
    in_pax = pax_header((b"size", b"700")) + header(b"a", size=b"0") + data + header(b"b") + END
    in_binary = header(b"a", size=b"\x80" + (700).to_bytes(11, "big")) + data + header(b"b") + END

    for archive in (in_pax, in_binary):
        assert [(entry.name, stored) for entry, stored in entries(archive)] == [(b"a", b"x" * 700), (b"b", b"")]


def test_links_and_directories_have_no_data_whatever_their_size_field_says() -> None:
    archive = b"".join(header(b"n", kind, size=b"1000", link=b"t") for kind in (b"2", b"3", b"5", b"6")) + END

    assert [entry.size for entry, _ in entries(archive)] == [0] * 4


def test_a_v7_directory_is_known_by_its_slash_and_a_volume_label_is_passed_over() -> None:
    archive = header(b"LABEL", b"V") + header(b"d/", b"\0", magic=bytes(8)) + header(b"f", b"7") + END
    found = [entry for entry, _ in entries(archive)]

    assert [(entry.name, stat.S_IFMT(entry.mode)) for entry in found] == [(b"d/", stat.S_IFDIR), (b"f", stat.S_IFREG)]


def test_the_end_may_be_marked_or_not() -> None:
    archive = make_tar(("file", "a", b"1"))

    assert [only(archive[:length]).name for length in (1024, 1536, 2048)] == [b"a"] * 3
    assert list(entries(b"")) == list(entries(END)) == []


@pytest.mark.parametrize("kind", [b"Z", b"M", b"8"])
def test_an_unknown_type_is_unsupported(kind: bytes) -> None:
    with pytest.raises(UnsupportedError, match="type"):
        only(header(b"a", kind) + END)


@pytest.mark.parametrize("at", [0, 100, 124, 148, 156, 257, 500])
def test_a_header_with_a_wrong_checksum_is_refused(at: int) -> None:
    archive = bytearray(make_tar(("file", "a", b"")))
    archive[at] ^= 1

    with pytest.raises(FormatError):
        only(bytes(archive))


def test_a_checksum_over_signed_bytes_as_old_tars_wrote_it_is_taken() -> None:
    block = bytearray(header(b"caf\xe9"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in block)

    assert only(bytes(block) + END).name == b"caf\xe9"


SPARSE = [[(0, 10)], [(5000, 10)], [(0, 4096), (8192, 4096)], [(4095, 2), (9000, 0)], [(1 << 20, 3)], [(0, 0)]]


def sparse_tar(form: str, pieces: list[tuple[int, int]], size: int) -> tuple[bytes, bytes]:
    """An archive with one sparse file ``s`` in a pax form, and the file's bytes."""
    content, stored = bytearray(size), b""
    for place, (offset, length) in enumerate(pieces):
        data = bytes([65 + place]) * length
        content[offset : offset + length] = data
        stored += data
    total = str(size).encode()
    flat = [b"%d" % value for piece in pieces for value in piece]
    if form == "1.0":
        table = b"".join(b"%s\n" % value for value in [b"%d" % len(pieces), *flat])
        stored = table + bytes(-len(table) % 512) + stored
        records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", total)]
    elif form == "0.1":
        records = [(b"GNU.sparse.size", total), (b"GNU.sparse.map", b",".join(flat))]
    else:
        keys = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
        records = [(b"GNU.sparse.size", total), *((keys[at % 2], value) for at, value in enumerate(flat))]
    archive = pax_header(*records, (b"GNU.sparse.name", b"s")) + header(b"GNUSparseFile.0/s", size=b"%o" % len(stored))
    return archive + stored + bytes(-len(stored) % 512) + header(b"after") + END, bytes(content)


@pytest.mark.parametrize("pieces", SPARSE)
@pytest.mark.parametrize("form", ["0.0", "0.1", "1.0"])
def test_sparse_files_of_all_pax_forms_read_as_they_were(form: str, pieces: list[tuple[int, int]]) -> None:
    archive, content = sparse_tar(form, pieces, (1 << 20) + 4321)
    built = build_bytes(archive)
    read = built.read()
    contents = BlobContent(read, {built.facts.blob.hex: built.blob})
    assert read.root.children is not None
    file = read.root.children[b"s"]

    assert b"".join(contents.chunk(row) for row in file.chunks) == content
    assert set(tree_of(read)) == {"/", "/s", "/after"}


@pytest.mark.parametrize(
    "option", ["--format=gnu", *(f"--format=posix --sparse-version={form}" for form in ("0.0", "0.1", "1.0"))]
)
def test_sparse_files_that_gnu_tar_packs_read_as_they_were(option: str, tmp_path: Path) -> None:
    tar = shutil.which("tar")
    if tar is None or b"GNU tar" not in subprocess.run([tar, "--version"], capture_output=True, check=True).stdout:
        pytest.skip("no GNU tar on this machine")
    with (tmp_path / "sparse").open("wb") as file:
        for place in range(40):  # more than the header of the old GNU form has room for
            file.seek(place * 65536 + 4096)
            file.write(bytes([place + 1]) * 4096)
        file.truncate(3 << 20)
    command = [tar, "-C", str(tmp_path), "-S", *option.split(), "-cf", "-", "sparse"]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    built = build_bytes(archive)
    read = built.read()
    assert read.root.children is not None
    contents = BlobContent(read, {built.facts.blob.hex: built.blob})

    assert len(archive) < 1 << 20, "tar found no holes: the file system has none"
    plain = b"".join(contents.chunk(row) for row in read.root.children[b"sparse"].chunks)
    assert plain == (tmp_path / "sparse").read_bytes()


@pytest.mark.parametrize(
    "pieces", [[(0, 10), (5, 10)], [(10, 5), (0, 5)], [(95, 10)], [(1 << 62, 1)], [(0, 10)] * 2], ids=str
)
@pytest.mark.parametrize("form", ["0.0", "0.1", "1.0"])
def test_a_sparse_map_that_does_not_fit_its_file_is_refused(form: str, pieces: list[tuple[int, int]]) -> None:
    with pytest.raises(FormatError, match="sparse"):
        list(entries(sparse_tar(form, pieces, 100)[0]))


@pytest.mark.parametrize("missing", [-1, 1])
def test_a_sparse_file_with_other_data_than_its_map_needs_is_refused(missing: int) -> None:
    records = [(b"GNU.sparse.size", b"100"), (b"GNU.sparse.map", b"0,10")]
    archive = pax_header(*records) + header(b"s", size=b"%o" % (10 - missing)) + bytes(512) + END

    with pytest.raises(FormatError, match="sparse"):
        list(entries(archive))


NAMES = st.lists(
    st.binary(min_size=1, max_size=40).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b"..")),
    min_size=1,
    max_size=4,
).map(b"/".join)


@st.composite
def members(draw: st.DrawFn) -> tuple[bytes, dict[str, Any], bytes]:
    """Path, attributes and content of a file."""
    path = draw(NAMES)
    attributes = {
        "mode": draw(st.integers(0, 0o7777)),
        "uid": draw(st.integers(0, (1 << 32) - 1)),
        "gid": draw(st.integers(0, (1 << 32) - 1)),
        "mtime": draw(st.integers(-(1 << 40), 1 << 40)),
    }
    return path, attributes, draw(st.binary(max_size=1500))


@settings(max_examples=100, deadline=None)
@given(st.lists(members(), max_size=8), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_whatever_tarfile_writes_is_read(found: list[tuple[bytes, dict[str, Any], bytes]], format: int) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format, errors="surrogateescape") as archive:
        for path, attributes, content in found:
            info = tarfile.TarInfo(path.decode("utf-8", "surrogateescape"))
            info.size = len(content)
            for name, value in attributes.items():
                setattr(info, name, value)
            archive.addfile(info, io.BytesIO(content))
    read = [
        (e.name, {"mode": stat.S_IMODE(e.mode), "uid": e.uid, "gid": e.gid, "mtime": e.mtime}, data)
        for e, data in entries(file.getvalue())
    ]

    assert read == found


BASE = sparse_tar("1.0", [(0, 512), (4096, 100)], 9000)[0][: -len(END)] + make_tar(
    ("dir", "d", ""), ("file", "d/" + "n" * 120, b"x" * 700), ("symlink", "l", "t" * 150), ("hardlink", "h", "l"),
    pax={"SCHILY.xattr.user.a": "1"}, mtime=1.5,
)[: 512 * 20]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(BASE) - 1), st.integers(1, 255)), min_size=1, max_size=4), st.booleans())
def test_random_damage_is_refused_or_read(changes: list[tuple[int, int]], right_sums: bool) -> None:
    data = bytearray(BASE)
    for at, change in changes:
        data[at] ^= change
    if right_sums:  # so that damage gets past the checksums
        for start in {at // 512 * 512 for at, _ in changes}:
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    with suppress(NydusifyError):
        tree_of(build_bytes(bytes(data)).read())
