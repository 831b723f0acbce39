"""Targets: layouts and archives appear whole or not at all, and hold what was written."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nydusify.digest import Digest
from nydusify.errors import DigestMismatch, FormatError, NotFound, StoreError, UsageError
from nydusify.oci import media
from nydusify.oci.archive_writer import ArchiveWriter
from nydusify.oci.descriptor import Descriptor, Platform
from nydusify.oci.files import replacing
from nydusify.oci.layout import LayoutRepository
from nydusify.oci.manifest import Index
from nydusify.oci.open import open_source, open_target
from nydusify.oci.reference import Reference
from nydusify.oci.repository import Repository
from tests.golden import golden_dir
from tests.oci_images import contents, copy_image, small_image, store

NAME = Reference.parse("registry.test/app:v1")
ROOT = Path(__file__).parent.parent


def target(kind: str, tmp_path: Path) -> Repository:
    return open_target(f"{tmp_path}/out/" if kind == "layout" else tmp_path / "out.tar", NAME)


def reopened(kind: str, tmp_path: Path) -> Repository:
    return open_source(tmp_path / ("out" if kind == "layout" else "out.tar"))


@pytest.mark.parametrize("kind", ["layout", "archive"])
def test_what_is_written_is_read_again(tmp_path: Path, kind: str) -> None:
    image, written = small_image("one", "two"), target(kind, tmp_path)
    with pytest.raises(NotFound):
        written.resolve("v1")
    store(image, written, "v1")

    for repository in (written, reopened(kind, tmp_path)):
        found = repository.resolve("v1")
        assert found.digest == image.descriptor.digest
        read = contents(repository, found)
        assert set(read) == {str(digest) for digest in (image.descriptor.digest, *image.blobs)}
        assert all(digest == f"sha256:{content}" for digest, content in read.items())
        assert all(repository.has_blob(layer) for layer in image.manifest.layers)
        repository.close()


@pytest.mark.parametrize("kind", ["layout", "archive"])
def test_golden_images_are_copied_whole(tmp_path: Path, kind: str) -> None:
    for path in sorted((golden_dir() / "images").glob("*.oci.tar")):
        source = open_source(path)
        descriptor = source.resolve("any")
        work = tmp_path / path.name
        work.mkdir()
        written = target(kind, work)
        copy_image(source, descriptor, written, "v1", work)
        again = reopened(kind, work)

        assert again.resolve("v1").digest == descriptor.digest
        assert contents(again, descriptor) == contents(source, descriptor)


def test_an_archive_is_byte_for_byte_that_of_the_reference(tmp_path: Path) -> None:
    golden = golden_dir() / "images" / "v6-archive.oci.tar"
    source = open_source(golden)
    written = open_target(tmp_path / "out.tar", Reference.parse("example.test/app:arch"))
    copy_image(source, source.resolve("arch"), written, "arch", tmp_path)

    assert (tmp_path / "out.tar").read_bytes() == golden.read_bytes()


def test_an_archive_does_not_depend_on_the_order_of_writing(tmp_path: Path) -> None:
    image = small_image("one", "two", "three")
    for number, order in enumerate((1, -1)):
        written = open_target(tmp_path / f"{number}.tar", NAME)
        for digest in list(image.blobs)[::order]:
            written.write_blob(Descriptor("a/b", digest, len(image.blobs[digest])), image.blobs[digest])
        written.write_manifest(image.descriptor, image.manifest.to_bytes(), "v1")

    assert (tmp_path / "0.tar").read_bytes() == (tmp_path / "1.tar").read_bytes()


def test_an_archive_names_its_image_for_oci_and_docker(tmp_path: Path) -> None:
    image = small_image("one")
    store(image, target("archive", tmp_path), "v1")
    with tarfile.open(tmp_path / "out.tar") as tar:
        members = tar.getmembers()
        index, docker = (json.load(tar.extractfile(name)) for name in ("index.json", "manifest.json"))  # type: ignore[arg-type]

    assert {member.mtime for member in members} == {0}
    assert [member.name for member in members[:2]] == ["blobs", "blobs/sha256"]
    assert [member.name for member in members[-3:]] == ["index.json", "manifest.json", "oci-layout"]
    (entry,) = index["manifests"]
    assert entry["platform"] == {"architecture": "amd64", "os": "linux"}
    assert entry["annotations"] == {
        media.ANNOTATION_IMAGE_NAME: "registry.test/app:v1",
        media.ANNOTATION_REF_NAME: "v1",
    }
    config = f"blobs/sha256/{image.manifest.config.digest.hex}"
    layers = [f"blobs/sha256/{layer.digest.hex}" for layer in image.manifest.layers]
    assert docker == [{"Config": config, "RepoTags": ["registry.test/app:v1"], "Layers": layers}]


def test_a_sha512_blob_has_its_place(tmp_path: Path) -> None:
    image, written = small_image("one"), target("archive", tmp_path)
    blob = Descriptor("a/b", Digest("sha512", hashlib.sha512(b"long").hexdigest()), 4)
    written.write_blob(blob, b"long")
    store(image, written, "v1")

    assert b"".join(reopened("archive", tmp_path).open_blob(blob)) == b"long"


@pytest.mark.parametrize("kind", ["layout", "archive"])
def test_an_entry_that_is_no_manifest_only_has_to_be_there(tmp_path: Path, kind: str) -> None:
    written, note = target(kind, tmp_path), Descriptor("text/plain", Digest.of(b"note"), 4)
    index = Index((note,))
    with pytest.raises(FormatError, match="not there"):
        written.write_manifest(index.descriptor(), index.to_bytes(), "v1")
    written.write_blob(note, b"note")
    written.write_manifest(index.descriptor(), index.to_bytes(), "v1")

    assert reopened(kind, tmp_path).resolve("v1").digest == index.descriptor().digest


def test_docker_gets_the_plain_image_of_an_index(tmp_path: Path) -> None:
    nydus, plain = small_image("nydus"), small_image("plain")
    written = target("archive", tmp_path)
    for image in (nydus, plain):
        store(image, written, None)
    platform = Platform("linux", "amd64")
    entries = [
        Descriptor(image.descriptor.media_type, image.descriptor.digest, image.descriptor.size, {}, platform, mark)
        for image, mark in ((nydus, media.NYDUS_ARTIFACT), (plain, ""))
    ]
    index = Index(tuple(entries))
    written.write_manifest(index.descriptor(), index.to_bytes(), "v1")
    with tarfile.open(tmp_path / "out.tar") as tar:
        docker = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]

    assert docker[0]["Config"].endswith(plain.manifest.config.digest.hex)


@pytest.mark.parametrize("kind", ["layout", "archive"])
def test_no_tag_before_its_content(tmp_path: Path, kind: str) -> None:
    image, written = small_image("one", "two"), target(kind, tmp_path)
    written.write_blob(image.manifest.config, image.blobs[image.manifest.config.digest])

    with pytest.raises(FormatError, match="needs sha256"):
        written.write_manifest(image.descriptor, image.manifest.to_bytes(), "v1")
    with pytest.raises(NotFound):
        written.resolve("v1")


@pytest.mark.parametrize("kind", ["layout", "archive"])
def test_content_other_than_promised_is_refused(tmp_path: Path, kind: str) -> None:
    written = target(kind, tmp_path)
    blob = Descriptor("a/b", Digest.of(b"good"), 4)
    with pytest.raises(DigestMismatch):
        written.write_blob(blob, b"evil")
    with pytest.raises(DigestMismatch):
        written.write_blob(blob, b"too long")

    assert not written.has_blob(blob)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "oci-layout"] == []


def test_a_blob_is_written_once(tmp_path: Path) -> None:
    for kind in ("layout", "archive"):
        written = target(kind, tmp_path)
        blob = Descriptor("a/b", Digest.of(b"good"), 4)

        assert written.write_blob(blob, b"good") == 4
        assert written.write_blob(blob, b"good", mount_from="elsewhere") == 0


def test_an_interrupted_archive_leaves_the_old_one(tmp_path: Path) -> None:
    store(small_image("old"), target("archive", tmp_path), "v1")
    before = (tmp_path / "out.tar").read_bytes()
    image, written = small_image("new"), target("archive", tmp_path)
    source = tmp_path / "layer"
    layer = image.manifest.layers[0]
    source.write_bytes(image.blobs[layer.digest])
    written.write_blob(layer, source)
    source.write_bytes(bytes(layer.size))  # changes after it was noted
    written.write_blob(image.manifest.config, image.blobs[image.manifest.config.digest])

    with pytest.raises(DigestMismatch):
        written.write_manifest(image.descriptor, image.manifest.to_bytes(), "v1")
    assert (tmp_path / "out.tar").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layer", "out.tar"]
    assert written.resolve("v1").digest == small_image("old").descriptor.digest
    source.write_bytes(image.blobs[layer.digest])
    written.write_manifest(image.descriptor, image.manifest.to_bytes(), "v1")
    assert written.resolve("v1").digest == image.descriptor.digest
    assert not written.has_blob(small_image("old").manifest.layers[0])


def test_a_shorter_archive_replaces_a_longer_file(tmp_path: Path) -> None:
    (tmp_path / "out.tar").write_bytes(b"junk" * 100_000)
    image, written = small_image("x"), target("archive", tmp_path)
    with pytest.raises(NotFound, match="not an image archive yet"):
        written.resolve("v1")
    store(image, written, "v1")

    assert (tmp_path / "out.tar").stat().st_size < 20_000
    assert reopened("archive", tmp_path).resolve("v1").digest == image.descriptor.digest


def test_a_layout_keeps_its_other_tags_and_replaces_its_own(tmp_path: Path) -> None:
    one, two = small_image("one"), small_image("two")
    for image, tag in ((one, "a"), (one, "b"), (two, "a")):
        store(image, open_target(f"{tmp_path}/out/", NAME), tag)
    layout = LayoutRepository(tmp_path / "out")

    assert layout.resolve("a").digest == two.descriptor.digest
    assert layout.resolve("b").digest == one.descriptor.digest
    assert len(json.loads((tmp_path / "out" / "index.json").read_text())["manifests"]) == 2


def test_tags_written_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    images = {f"t{number}": small_image(f"text {number}", "shared") for number in range(24)}
    barrier = threading.Barrier(8)

    def write(tag: str) -> None:
        if int(tag[1:]) < 8:
            barrier.wait(10)
        store(images[tag], LayoutRepository(tmp_path), tag)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, images))

    layout = LayoutRepository(tmp_path)
    for tag, image in images.items():
        assert layout.resolve(tag).digest == image.descriptor.digest
    assert list(tmp_path.rglob("*.partial")) == []


def test_a_damaged_blob_of_a_layout_is_written_anew(tmp_path: Path) -> None:
    image, layout = small_image("one"), LayoutRepository(tmp_path)
    store(image, layout, "v1")
    layer = image.manifest.layers[0]
    path = tmp_path / "blobs" / "sha256" / layer.digest.hex
    path.write_bytes(b"short")

    assert not layout.has_blob(layer)
    assert layout.write_blob(layer, image.blobs[layer.digest]) == layer.size
    assert b"".join(layout.open_blob(layer)) == image.blobs[layer.digest]


def test_which_path_is_a_layout_and_which_a_tar(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()

    assert isinstance(open_target(tmp_path / "dir"), LayoutRepository)
    assert isinstance(open_target(f"{tmp_path}/new/"), LayoutRepository)
    assert isinstance(open_target(tmp_path / "new"), ArchiveWriter)
    assert not (tmp_path / "new").exists()
    (tmp_path / "dir" / "precious").write_text("x")
    with pytest.raises(UsageError, match="neither empty"):
        open_target(tmp_path / "dir")
    with pytest.raises(UsageError, match="no such directory"):
        open_target(tmp_path / "absent" / "out.tar")
    with pytest.raises(UsageError, match="not a file"):
        ArchiveWriter(tmp_path / "dir")


def test_a_layout_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"9.0"}')

    with pytest.raises(FormatError, match=r"version '9\.0'"):
        LayoutRepository(tmp_path).resolve("v1")


def test_a_full_or_forbidden_disk_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError), replacing(Path("/proc/nothing/here")):
        pass
    assert not (tmp_path / "x").exists()
    with pytest.raises(StoreError), replacing(tmp_path / "x"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_follows_the_umask(tmp_path: Path) -> None:
    store(small_image("x"), target("archive", tmp_path), "v1")
    mask = os.umask(0)
    os.umask(mask)

    assert (tmp_path / "out.tar").stat().st_mode & 0o777 == 0o666 & ~mask


STREAM = """
import re, sys
from pathlib import Path
from nydusify.digest import Digest
from nydusify.oci import media
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.manifest import Manifest
from nydusify.oci.open import open_source, open_target
work, size, digest = Path(sys.argv[1]), int(sys.argv[2]), Digest.parse(sys.argv[3])
target = open_target(work / "out.tar")
layer = Descriptor(media.OCI_LAYER, digest, size)
config = Descriptor("application/x", Digest.of(b"{}"), 2)
target.write_blob(layer, work / "blob")
target.write_blob(config, b"{}")
manifest = Manifest(config, (layer,))
target.write_manifest(manifest.descriptor(), manifest.to_bytes(), "v1")
source = open_source(work / "out.tar")
read = sum(map(len, source.open_blob(layer)))
# Not ru_maxrss: a child starts with the peak of the process that forked it.
print(read, int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""


def test_a_blob_of_300_mb_passes_through_little_memory(tmp_path: Path) -> None:
    size = 300 << 20
    with (tmp_path / "blob").open("wb") as file:
        file.truncate(size)
    digest = Digest("sha256", subprocess.check_output(["sha256sum", tmp_path / "blob"], text=True).split()[0])
    command = [sys.executable, "-c", STREAM, str(tmp_path), str(size), str(digest)]
    read, peak = map(int, subprocess.check_output(command, text=True, cwd=ROOT).split())

    assert read == size
    assert peak < 100 << 20
