"""Other people's tools read what we write, and we read what they write."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from nydusify.digest import Digest
from nydusify.oci import media
from nydusify.oci.layout import LayoutRepository
from nydusify.oci.manifest import ImageConfig, Manifest
from nydusify.oci.open import open_source, open_target
from nydusify.oci.reference import Reference
from tests.golden import golden_dir
from tests.oci_images import contents, copy_image, small_image, store

SOURCE = Reference.parse("registry.test/app:v1")


def run(*command: object) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def skopeo(*arguments: object) -> str:
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed (Debian package skopeo)")
    return run("skopeo", "--insecure-policy", *arguments)


def written(tmp_path: Path, kind: str) -> str:
    """The golden source image, written by us; answers what skopeo calls it."""
    source = open_source(golden_dir() / "images" / "source.oci.tar")
    target = open_target(f"{tmp_path}/out/" if kind == "oci" else tmp_path / "out.tar", SOURCE)
    copy_image(source, source.resolve("latest"), target, "v1", tmp_path)
    return f"oci:{tmp_path}/out:v1" if kind == "oci" else f"oci-archive:{tmp_path}/out.tar:v1"


@pytest.mark.parametrize("kind", ["oci", "oci-archive"])
def test_skopeo_copies_what_we_write(tmp_path: Path, kind: str) -> None:
    skopeo("copy", written(tmp_path, kind), f"oci:{tmp_path}/copy:v1")
    source = open_source(golden_dir() / "images" / "source.oci.tar")
    copy = LayoutRepository(tmp_path / "copy")

    assert contents(copy, copy.resolve("v1")) == contents(source, source.resolve("latest"))


def test_skopeo_reads_our_archive_as_a_docker_archive(tmp_path: Path) -> None:
    written(tmp_path, "oci-archive")
    inspected = json.loads(skopeo("inspect", "--config", f"docker-archive:{tmp_path}/out.tar:registry.test/app:v1"))

    assert inspected["author"] == "fixture"


def test_skopeo_inspects_our_copy_of_a_nydus_image(tmp_path: Path) -> None:
    source = open_source(golden_dir() / "images" / "v6-zstd.oci.tar")
    target = open_target(tmp_path / "out.tar", SOURCE)
    copy_image(source, source.resolve("v6-zstd"), target, "v1", tmp_path)
    raw = skopeo("inspect", "--raw", f"oci-archive:{tmp_path}/out.tar:v1")

    assert Manifest.parse(raw.encode()).layers[0].media_type == media.NYDUS_BLOB


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci"])
def test_we_read_what_skopeo_writes(tmp_path: Path, form: str) -> None:
    source = open_source(golden_dir() / "images" / "source.oci.tar")
    name = "registry.test/app:v1" if form == "docker-archive" else "v1"
    skopeo("copy", f"oci-archive:{golden_dir()}/images/source.oci.tar:latest", f"{form}:{tmp_path}/made:{name}")
    made = open_source(tmp_path / "made", SOURCE)
    descriptor = made.resolve("v1")
    manifest = Manifest.parse(made.read_manifest(descriptor), descriptor.media_type)
    original = Manifest.parse(source.read_manifest(source.resolve("latest")))
    config = ImageConfig.parse(b"".join(source.open_blob(original.config)))

    assert str(descriptor.platform or "linux/amd64") == "linux/amd64"
    assert ImageConfig.parse(b"".join(made.open_blob(manifest.config))).diff_ids == config.diff_ids
    if form == "docker-archive":
        read = [Digest.of(b"".join(made.open_blob(layer))) for layer in manifest.layers]
        assert read == list(config.diff_ids)
    else:
        assert manifest == original


def test_skopeo_reads_a_docker_image_out_of_our_archive(tmp_path: Path) -> None:
    skopeo("copy", f"oci-archive:{golden_dir()}/images/source.oci.tar:latest", f"docker-archive:{tmp_path}/made:a:v1")
    made = open_source(tmp_path / "made")
    copy_image(made, made.resolve("v1"), open_target(tmp_path / "out.tar", SOURCE), "v1", tmp_path)
    skopeo("copy", f"docker-archive:{tmp_path}/out.tar:registry.test/app:v1", f"dir:{tmp_path}/dir")
    digests = {Digest.of(path.read_bytes()).hex for path in (tmp_path / "dir").iterdir() if len(path.name) == 64}
    manifest = Manifest.parse(made.read_manifest(made.resolve("v1")))

    assert {blob.digest.hex for blob in (manifest.config, *manifest.layers)} == digests


def test_umoci_unpacks_our_layout(tmp_path: Path) -> None:
    if not shutil.which("umoci"):
        pytest.skip("umoci is not installed (Debian package umoci)")
    store(small_image("hello", "world"), open_target(f"{tmp_path}/out/", SOURCE), "v1")
    run("umoci", "unpack", "--rootless", "--image", f"{tmp_path}/out:v1", tmp_path / "bundle")

    assert (tmp_path / "bundle" / "rootfs" / "file0").read_text() == "hello"
    assert (tmp_path / "bundle" / "rootfs" / "file1").read_text() == "world"


def test_we_read_what_umoci_changed_in_our_layout(tmp_path: Path) -> None:
    if not shutil.which("umoci"):
        pytest.skip("umoci is not installed (Debian package umoci)")
    store(small_image("hello"), open_target(f"{tmp_path}/out/", SOURCE), "v1")
    run("umoci", "config", "--image", f"{tmp_path}/out:v1", "--tag", "v2", "--config.cmd", "/bin/true")
    layout = open_source(tmp_path / "out", SOURCE)
    manifest = Manifest.parse(layout.read_manifest(layout.resolve("v2")))

    assert ImageConfig.parse(b"".join(layout.open_blob(manifest.config))).raw["config"]["Cmd"] == ["/bin/true"]
    assert layout.resolve("v1").digest == small_image("hello").descriptor.digest
