"""The demo's source is a real image: other tools accept it, and its second layer changes and deletes."""

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sysconfig
import tarfile
from pathlib import Path
from typing import Any

import pytest

from scripts import demo

LIBRARY = Path(sysconfig.get_path("stdlib"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "source.tar"
    demo.make_archive(path, LIBRARY, max_bytes=6 << 20)
    return path


def members(content: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {info.name: info for info in tar}


def read_image(path: Path) -> tuple[dict[str, Any], list[bytes]]:
    with tarfile.open(path) as tar:
        files = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    for name, content in files.items():
        if name.startswith("blobs/"):
            assert hashlib.sha256(content).hexdigest() == name.rpartition("/")[2]

    def blob(descriptor: dict[str, Any]) -> bytes:
        content = files["blobs/" + descriptor["digest"].replace(":", "/")]
        assert len(content) == descriptor["size"]
        return content

    manifest = json.loads(blob(json.loads(files["index.json"])["manifests"][0]))
    return json.loads(blob(manifest["config"])), [gzip.decompress(blob(layer)) for layer in manifest["layers"]]


def test_digests_sizes_and_diff_ids_are_right(archive: Path) -> None:
    config, tars = read_image(archive)

    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
    assert len(tars) == 2


def test_the_second_layer_changes_deletes_replaces_and_adds(archive: Path) -> None:
    _, (base, second) = read_image(archive)
    below, above = members(base), members(second)

    whiteouts = {name.replace(".wh.", "", 1) for name in above if "/.wh." in name and not name.endswith(".opq")}
    opaque = [name.rpartition("/")[0] for name in above if name.endswith("/.wh..wh..opq")]
    changed = [name for name in above if name in below and above[name].isreg()]
    assert len(whiteouts) > 10
    assert whiteouts <= set(below)
    assert any(below[name].isdir() for name in whiteouts)
    assert len(opaque) == 1
    assert below[opaque[0]].isdir()
    assert len(changed) > 10
    assert all(above[name].size == below[name].size + 31 for name in changed)
    assert "usr/lib/python/ADDED" in set(above) - set(below)


def test_files_are_those_of_the_library_and_bounded(archive: Path) -> None:
    _, (base, _) = read_image(archive)
    with tarfile.open(fileobj=io.BytesIO(base)) as tar:
        files = [info for info in tar if info.isreg()]
        content = tar.extractfile("usr/lib/python/os.py").read()  # type: ignore[union-attr]

    assert content == (LIBRARY / "os.py").read_bytes()
    assert 3 << 20 < sum(info.size for info in files) <= 6 << 20
    assert {info.uid for info in files} == {0}


def test_the_same_library_gives_the_same_archive(archive: Path, tmp_path: Path) -> None:
    demo.make_archive(tmp_path / "again.tar", LIBRARY, max_bytes=6 << 20)

    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_links_keep_their_kind(tmp_path: Path) -> None:
    library = tmp_path / "library"
    (library / "first").mkdir(parents=True)
    (library / "last").mkdir()
    (library / "a.py").write_text("a")
    (library / "b.py").hardlink_to(library / "a.py")
    (library / "first" / "c").symlink_to("../a.py")
    (library / "last" / "d").write_text("d")

    demo.make_archive(tmp_path / "links.tar", library)
    below = members(read_image(tmp_path / "links.tar")[1][0])

    assert (below["usr/lib/python/b.py"].islnk(), below["usr/lib/python/b.py"].linkname) == (
        True,
        "usr/lib/python/a.py",
    )
    assert (below["usr/lib/python/first/c"].issym(), below["usr/lib/python/first/c"].linkname) == (True, "../a.py")


def test_skopeo_reads_the_archive(archive: Path, tmp_path: Path) -> None:
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        pytest.skip("skopeo is not installed (Debian: skopeo)")
    source = f"oci-archive:{archive}:1"
    inspected = subprocess.run([skopeo, "inspect", source], check=True, capture_output=True, text=True)
    copied = subprocess.run(
        [skopeo, "--insecure-policy", "copy", "--quiet", source, f"dir:{tmp_path}"], check=False, capture_output=True
    )

    assert len(json.loads(inspected.stdout)["Layers"]) == 2
    assert (copied.returncode, copied.stderr) == (0, b"")
