"""Damaged and hostile archives are refused by name, in little time and memory."""

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nydusify.errors import FormatError, NydusifyError, UsageError
from nydusify.oci import decompress, tarindex
from nydusify.oci.open import open_source
from tests.oci_images import contents, docker_files, layout_files, make_tar, small_image, write


def read_all(path: Path) -> dict[str, str]:
    repository = open_source(path)
    return contents(repository, repository.resolve("latest"))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_damaged_compressed_archive_is_refused(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    data = bytearray(pack(make_tar(layout_files(small_image("hello")))))
    path = tmp_path / "a.tar.xx"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError):
        open_source(path)
    data[len(data) // 2 : len(data) // 2 + 20] = b"\xff" * 20
    path.write_bytes(data)
    with pytest.raises(FormatError):
        read_all(path)


def test_a_decompression_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress, "FREE_SIZE", 4 << 20)
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(bytes(16 << 20)))

    with pytest.raises(FormatError, match="decompresses to more than"):
        open_source(path)


def test_an_archive_that_is_not_there_or_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        open_source(tmp_path / "absent.tar")
    for data in (b"", b"text", bytes(1024), make_tar({"hello": b"x"}), os.urandom(5000)):
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(FormatError):
            open_source(tmp_path / "a")
    with pytest.raises(UsageError, match="not an OCI layout"):
        open_source(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FormatError, match="not a regular file"):
        open_source(tmp_path / "fifo")


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "blobs/../../evil", "a/../b"])
def test_a_name_that_leads_out_of_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.tar", layout_files(small_image("x")) | {name: b"evil"})

    with pytest.raises(FormatError, match="leads out of the archive"):
        open_source(path)


def with_member(tmp_path: Path, **fields: Any) -> Path:
    buffer = io.BytesIO(make_tar(layout_files(small_image("x"))))
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        info = tarfile.TarInfo(fields.pop("name"))
        for key, value in fields.items():
            setattr(info, key, value)
        tar.addfile(info)
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    return tmp_path / "a.tar"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "index.json"}, "there twice"),
        ({"name": "l", "type": tarfile.SYMTYPE, "linkname": "../../etc/passwd"}, "leads out"),
        ({"name": "l", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "leads out"),
        ({"name": "l", "type": tarfile.LNKTYPE, "linkname": "../x"}, "leads out"),
        ({"name": "oci-layout", "type": tarfile.SYMTYPE, "linkname": "x"}, "there twice"),
        ({"name": "dev", "type": tarfile.CHRTYPE}, "not a plain file"),
        ({"name": "fifo", "type": tarfile.FIFOTYPE}, "not a plain file"),
    ],
)
def test_members_that_no_image_archive_has_are_refused(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        open_source(with_member(tmp_path, **fields))


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    files = docker_files((["app:v1"], small_image("x")))
    files["manifest.json"] = files["manifest.json"].replace(b"0-0/layer.tar", b"loop")
    buffer = io.BytesIO(make_tar(files))
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        link = tarfile.TarInfo("loop")
        link.type, link.linkname = tarfile.SYMTYPE, "./loop"
        tar.addfile(link)
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())

    with pytest.raises(FormatError, match="do not end"):
        open_source(tmp_path / "a.tar")


def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    data = make_tar({"big": bytes(5000), **layout_files(small_image("x"))})
    (tmp_path / "a.tar").write_bytes(data[:3000])

    with pytest.raises(FormatError, match=r"cut off|not a valid tar"):
        open_source(tmp_path / "a.tar")


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 7 << 30
        path = tmp_path / "a.tar"
        path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
        os.truncate(path, 8 << 30)  # sparse
        with pytest.raises(FormatError, match="header claims"):
            open_source(path)


def test_a_negative_size_does_not_hang(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 12
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) * 3 + bytes(1024))

    with pytest.raises(FormatError, match="impossible size"):
        open_source(tmp_path / "a.tar")


def test_a_chain_of_extended_headers_does_not_overflow_the_stack(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2
    (tmp_path / "a.tar").write_bytes((info.tobuf(tarfile.GNU_FORMAT) + b"y\0".ljust(512, b"\0")) * 5000 + bytes(1024))

    with pytest.raises(FormatError):
        open_source(tmp_path / "a.tar")


def test_more_members_than_any_image_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarindex, "MAX_MEMBERS", 100)

    with pytest.raises(FormatError, match="more than 100 files"):
        open_source(write(tmp_path / "a.tar", {f"f{number}": b"" for number in range(200)}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"manifest.json": b"{}"}, "no usable manifest.json"),
        ({"manifest.json": b"[]"}, "no usable manifest.json"),
        ({"manifest.json": b"[1]"}, "not a JSON object"),
        ({"manifest.json": b'[{"Config":"x"}]'}, "no config 'x'"),
        ({"manifest.json": b'[{"Config":"../0.json"}]'}, "leads out"),
        ({"manifest.json": b'[{"Config":"0.json","Layers":[]}]'}, "0 layers"),
        ({"manifest.json": b'[{"Config":"0.json","Layers":["nope"]}]'}, "no layer 'nope'"),
        ({"manifest.json": b'[{"Config":"0.json","Layers":"x"}]'}, "not a list"),
        ({"manifest.json": b'[{"Config":5,"Layers":[]}]'}, "no config '5'"),
        ({"0.json": b"{}"}, "no rootfs"),
        ({"oci-layout": b'{"imageLayoutVersion":"2.0.0"}'}, "version '2.0.0'"),
        ({"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}, "without index.json"),
    ],
)
def test_a_broken_docker_save_tar_is_refused(tmp_path: Path, changes: dict[str, bytes], reason: str) -> None:
    files = docker_files((["app:v1"], small_image("one"))) | changes

    with pytest.raises(FormatError, match=reason):
        open_source(write(tmp_path / "a.tar", files))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8), st.floats(0, 1))
def test_any_damage_is_an_error_with_a_name(tmp_path: Path, damage: list[tuple[float, int]], cut: float) -> None:
    data = bytearray(make_tar(layout_files(small_image("x")) | docker_files((["a:b"], small_image("y")))))
    for place, value in damage:
        data[int(place * (len(data) - 1))] = value
    (tmp_path / "a.tar").write_bytes(data[: int(len(data) * max(cut, 0.2))])
    try:
        repository = open_source(tmp_path / "a.tar")
        contents(repository, repository.resolve("latest"))
    except NydusifyError:
        return
