"""Archives: OCI layouts and docker-save tars are read in place; hostile ones are refused."""

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard

from nydusify.digest import Digest
from nydusify.errors import DigestMismatch, FormatError, NotFound, NydusifyError, UnsupportedError, UsageError
from nydusify.oci import media
from nydusify.oci.archive import ArchiveRepository
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.manifest import ImageConfig, Index, Manifest
from nydusify.oci.open import open_source
from nydusify.oci.reference import Reference
from tests.golden import golden_dir
from tests.oci_images import contents, docker_files, layout_files, make_tar, small_image, write


def names() -> list[str]:
    return sorted(path.name for path in (golden_dir() / "images").glob("*.oci.tar"))


def test_every_golden_archive_is_read_and_verified() -> None:
    assert len(names()) >= 9
    for name in names():
        repository = open_source(golden_dir() / "images" / name)
        found = contents(repository, repository.resolve("whatever"))
        assert len(found) >= 5
        assert all(digest == f"sha256:{read}" for digest, read in found.items())
        repository.close()


def test_a_range_of_a_blob_is_read(tmp_path: Path) -> None:
    image = small_image("hello")
    repository = ArchiveRepository(write(tmp_path / "a.tar", layout_files(image)))
    layer = image.manifest.layers[0]

    assert repository.read_blob_range(layer, 3, 10) == image.blobs[layer.digest][3:13]
    assert repository.read_blob_range(layer, layer.size, 0) == b""
    for offset, length in ((layer.size, 1), (-1, 1), (0, -1), (0, layer.size + 1)):
        with pytest.raises(FormatError):
            repository.read_blob_range(layer, offset, length)


def test_content_that_is_not_there_or_is_other_content(tmp_path: Path) -> None:
    image = small_image("hello")
    files = layout_files(image)
    layer = image.manifest.layers[0]
    files[f"blobs/sha256/{layer.digest.hex}"] = bytes(layer.size)
    repository = ArchiveRepository(write(tmp_path / "a.tar", files))
    absent = Descriptor(layer.media_type, Digest.of(b"absent"), 6)

    assert repository.has_blob(layer)
    assert not repository.has_blob(Descriptor(layer.media_type, layer.digest, layer.size + 1))
    assert not repository.has_blob(absent)
    with pytest.raises(DigestMismatch):
        list(repository.open_blob(layer))
    with pytest.raises(NotFound):
        list(repository.open_blob(absent))
    with pytest.raises(DigestMismatch, match="promised"):
        list(repository.open_blob(Descriptor(layer.media_type, layer.digest, 1)))


def test_a_source_archive_with_one_image_answers_for_any_name(tmp_path: Path) -> None:
    image = small_image("hello")
    path = write(tmp_path / "a.tar", layout_files(image, {"annotations": {media.ANNOTATION_REF_NAME: "v1"}}))

    assert open_source(path, Reference.parse("other/app:v9")).resolve("v9").digest == image.descriptor.digest
    with pytest.raises(NotFound, match="it holds v1"):
        ArchiveRepository(path).resolve("v9")
    assert ArchiveRepository(path).resolve("v1").digest == image.descriptor.digest
    assert ArchiveRepository(path).resolve(str(image.descriptor.digest)).media_type == media.OCI_MANIFEST


def test_among_several_images_the_reference_decides(tmp_path: Path) -> None:
    one, two = small_image("one"), small_image("two")
    path = write(tmp_path / "save.tar", docker_files((["a:latest"], one), (["r.test/b:latest", "b:v2"], two)))

    assert open_source(path, Reference.parse("r.test/b")).resolve("latest") == open_source(path).resolve("v2")
    assert open_source(path, Reference.parse("a")).resolve("latest") != open_source(path).resolve("v2")
    with pytest.raises(UsageError, match="several images fit"):
        open_source(path).resolve("latest")
    with pytest.raises(NotFound, match="there is no image 'v3'"):
        open_source(path).resolve("v3")


def test_entries_that_differ_in_platform_are_one_image(tmp_path: Path) -> None:
    amd, arm = small_image("amd"), small_image("arm", architecture="arm64")
    files = layout_files(amd) | layout_files(arm)
    entries = [
        {
            "mediaType": media.OCI_MANIFEST,
            "digest": str(image.descriptor.digest),
            "size": image.descriptor.size,
            "annotations": {media.ANNOTATION_REF_NAME: "v1"},
            "platform": {"os": "linux", "architecture": architecture},
        }
        for image, architecture in ((amd, "amd64"), (arm, "arm64"))
    ]
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    repository = ArchiveRepository(write(tmp_path / "a.tar", files))
    descriptor = repository.resolve("v1")
    index = Index.parse(repository.read_manifest(descriptor), descriptor.media_type)

    assert [str(entry.platform) for entry in index.manifests] == ["linux/amd64", "linux/arm64"]
    assert len(contents(repository, descriptor)) == 7


def test_a_manifest_inside_an_index_is_found_by_its_digest() -> None:
    repository = ArchiveRepository(golden_dir() / "images" / "v6-merge-platform.oci.tar")
    index = repository.resolve("v6-merge-platform")
    inner = Index.parse(repository.read_manifest(index)).manifests[1]
    found = repository.resolve(str(inner.digest))

    assert (found.digest, found.size, found.media_type) == (inner.digest, inner.size, inner.media_type)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_docker_save_tar_is_a_docker_image(tmp_path: Path, compressed: bool) -> None:
    image = small_image("one", "two", "one")
    path = write(tmp_path / "save.tar", docker_files((["app:v1"], image), compressed=compressed))
    repository = open_source(path, Reference.parse("app:v1"))
    descriptor = repository.resolve("v1")
    manifest = Manifest.parse(repository.read_manifest(descriptor), descriptor.media_type)

    assert manifest.media_type == media.DOCKER_MANIFEST
    assert str(descriptor.platform) == "linux/amd64"
    assert {layer.media_type for layer in manifest.layers} == {
        media.DOCKER_LAYER_GZIP if compressed else media.DOCKER_LAYER
    }
    read = [b"".join(repository.open_blob(layer)) for layer in manifest.layers]
    plain = [gzip.decompress(data) if compressed else data for data in read]
    config = ImageConfig.parse(b"".join(repository.open_blob(manifest.config)))
    assert [Digest.of(data) for data in plain] == list(config.diff_ids)


def test_a_docker_save_layer_with_wrong_content_fails_when_it_is_read(tmp_path: Path) -> None:
    files = docker_files((["app:v1"], small_image("one")))
    files["0-0/layer.tar"] = bytes(1024)
    repository = open_source(write(tmp_path / "save.tar", files))
    manifest = Manifest.parse(repository.read_manifest(repository.resolve("v1")))

    with pytest.raises(DigestMismatch):
        list(repository.open_blob(manifest.layers[0]))


def test_links_between_layers_of_an_old_docker_save_tar_are_followed(tmp_path: Path) -> None:
    image = small_image("same", "same2")
    files = docker_files((["app:v1"], image))
    target = files.pop("0-1/layer.tar")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in (files | {"other/layer.tar": target}).items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("0-1/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../other/layer.tar"
        tar.addfile(link)
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    repository = open_source(tmp_path / "a.tar")

    assert len(contents(repository, repository.resolve("v1"))) == 4


def zstd(data: bytes) -> bytes:
    half = len(data) // 2  # two frames, as a parallel compressor writes
    return zstandard.compress(data[:half]) + zstandard.compress(data[half:])


@pytest.mark.parametrize("pack", [gzip.compress, zstd, lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])])
def test_a_compressed_archive_is_read(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    image = small_image("hello")
    path = tmp_path / "a.tar.xx"
    path.write_bytes(pack(make_tar(layout_files(image))))
    work = tmp_path / "work"
    work.mkdir()
    repository = open_source(path, temp_dir=work)

    assert len(contents(repository, repository.resolve("latest"))) == 3
    assert list(work.iterdir()) == []
    repository.close()


@pytest.mark.parametrize("head", [b"BZh91AY", b"\xfd7zXZ\x00\x00"])
def test_other_compressions_are_named(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "a").write_bytes(head + bytes(600))

    with pytest.raises(UnsupportedError, match="archives are not read"):
        open_source(tmp_path / "a")


def test_a_blob_that_docker_repeats_is_read_once(tmp_path: Path) -> None:
    image = small_image("x")
    files = layout_files(image)
    again = {name: data for name, data in files.items() if name.startswith("blobs/")}
    buffer = io.BytesIO(make_tar(files))
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        for name, data in again.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    repository = open_source(tmp_path / "a.tar")

    assert len(contents(repository, repository.resolve("latest"))) == 3


def test_a_tar_of_a_newer_docker_is_read_as_the_oci_layout_that_it_also_is(tmp_path: Path) -> None:
    image = small_image("one")
    name = {media.ANNOTATION_IMAGE_NAME: "docker.io/library/app:v1", media.ANNOTATION_REF_NAME: "v1"}
    files = docker_files((["app:v1"], image)) | layout_files(image, {"annotations": name})
    repository = open_source(write(tmp_path / "a.tar", files), Reference.parse("app:v1"))

    assert repository.resolve("v1").media_type == media.OCI_MANIFEST
    assert len(contents(repository, repository.resolve("v1"))) == 3


def test_many_threads_read_one_archive() -> None:
    repository = open_source(golden_dir() / "images" / "v6-zstd.oci.tar")
    expected = contents(repository, repository.resolve("any"))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: contents(repository, repository.resolve("any")), range(32)))

    assert all(item == expected for item in found)


def test_a_source_archive_cannot_be_written(tmp_path: Path) -> None:
    image = small_image("x")
    repository = open_source(write(tmp_path / "a.tar", layout_files(image)))

    with pytest.raises(UnsupportedError):
        repository.write_blob(image.manifest.config, b"")
    with pytest.raises(UnsupportedError):
        repository.write_manifest(image.descriptor, b"", "v1")


def test_a_closed_archive_reads_nothing_more(tmp_path: Path) -> None:
    image = small_image("x")
    repository = open_source(write(tmp_path / "a.tar", layout_files(image)))
    repository.close()
    repository.close()

    with (tmp_path / "other").open("wb+"), pytest.raises(NydusifyError):
        repository.read_blob_range(image.manifest.layers[0], 0, 1)


def test_gnu_tar_with_long_names_and_dot_prefix_is_read(tmp_path: Path) -> None:
    image = small_image("hello")
    root = tmp_path / "layout"
    for name, data in layout_files(image).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    subprocess.run(["tar", "-cf", tmp_path / "a.tar", "--format=gnu", "-C", root, "."], check=True)
    repository = open_source(tmp_path / "a.tar")

    assert len(contents(repository, repository.resolve("latest"))) == 3
