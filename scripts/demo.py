#!/usr/bin/env python3
"""`make demo`: a real two-layer image from this machine's Python, converted by the real command, archive to archive.

Needs no registry, no daemon, no root, and nothing but the standard library and the command.
"""

import gzip
import hashlib
import io
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import Any

SOURCE = "demo.test/python:1"
TARGET = "demo.test/python:1-nydus"
MAX_BYTES = 30 << 20
MAX_FILE_BYTES = 4 << 20
LEFT_OUT = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test"}
PREFIX = Path("usr/lib/python")
OCI = "application/vnd.oci.image"
EPOCH = "1970-01-01T00:00:00Z"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Layer:
    """A layer in the making: entries below ``usr/lib/python``, owned by root, parents before children."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()
        self.tar = tarfile.TarFile(fileobj=self.buffer, mode="w", format=tarfile.PAX_FORMAT)
        self.directories: set[Path] = set()

    def add_file(self, path: Path, name: Path) -> None:
        """A file, symbolic link or hard link as it is on disk."""
        info = self.tar.gettarinfo(path, arcname=str(PREFIX / name))
        if info.isreg():
            with path.open("rb") as content:
                self._add(info, content)
        else:
            self._add(info)

    def add_bytes(self, content: bytes, name: Path) -> None:
        info = tarfile.TarInfo(str(PREFIX / name))
        info.size = len(content)
        self._add(info, io.BytesIO(content))

    def delete(self, name: Path) -> None:
        """A whiteout: this entry of the layer below is gone."""
        self.add_bytes(b"", name.with_name(f".wh.{name.name}"))

    def replace_directory(self, name: Path) -> None:
        """An opaque whiteout: nothing of the layer below is left in this directory."""
        self.add_bytes(b"", name / ".wh..wh..opq")

    def _add(self, info: tarfile.TarInfo, content: Any = None) -> None:
        for parent in reversed(Path(info.name).parents[:-1]):
            if parent not in self.directories:
                self.directories.add(parent)
                directory = tarfile.TarInfo(f"{parent}/")
                directory.type, directory.mode = tarfile.DIRTYPE, 0o755
                self.tar.addfile(directory)
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        self.tar.addfile(info, content)

    def close(self) -> bytes:
        self.tar.close()
        return self.buffer.getvalue()


def library_files(library: Path, max_bytes: int) -> list[Path]:
    """Names of files and symbolic links below ``library``, in the order of a walk, up to ``max_bytes`` in total."""
    found, total = [], 0
    for directory, names, files in os.walk(library):
        names[:] = sorted(set(names) - LEFT_OUT)
        for path in (Path(directory, name) for name in sorted(files)):
            size = path.lstat().st_size
            if size > MAX_FILE_BYTES or not (path.is_symlink() or path.is_file()):
                continue
            if total + size > max_bytes:
                return found
            total += size
            found.append(path.relative_to(library))
    return found


def base_layer(library: Path, names: list[Path]) -> bytes:
    """The files as they are."""
    layer = Layer()
    for name in names:
        layer.add_file(library / name, name)
    return layer.close()


def second_layer(library: Path, names: list[Path]) -> bytes:
    """Changes some of the files, deletes others, deletes one package, replaces another, and adds a file."""
    layer = Layer()
    packages = sorted({name.parts[0] for name in names if len(name.parts) > 1})
    replaced, deleted = Path(packages[0]), Path(packages[-1])
    modules = [name for name in names if len(name.parts) == 1 and name.suffix == ".py"]
    for name in modules[::4]:
        layer.add_bytes((library / name).read_bytes() + b"\n# changed by the second layer\n", name)
    for name in modules[1::8]:
        layer.delete(name)
    layer.delete(deleted)
    layer.replace_directory(replaced)
    layer.add_bytes(b"The package that was here is gone.\n", replaced / "README")
    layer.add_bytes(b"Added by the second layer.\n", Path("ADDED"))
    return layer.close()


def oci_files(tars: list[bytes]) -> dict[str, bytes]:
    """The files of an OCI image layout with one image. Source: OCI image-spec, image-layout.md."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def blob(media_type: str, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        files[f"blobs/sha256/{digest}"] = content
        return {"mediaType": f"{OCI}.{media_type}", "digest": f"sha256:{digest}", "size": len(content)}

    layers = [blob("layer.v1.tar+gzip", gzip.compress(tar, compresslevel=6, mtime=0)) for tar in tars]
    machine = platform.machine()
    config = {
        "created": EPOCH,
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": {"Cmd": ["python3"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]},
        "history": [{"created": EPOCH, "created_by": "make demo"} for _ in tars],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": blob("config.v1+json", json.dumps(config).encode()),
        "layers": layers,
    }
    names = {"org.opencontainers.image.ref.name": SOURCE.partition(":")[2], "io.containerd.image.name": SOURCE}
    image = {**blob("manifest.v1+json", json.dumps(manifest).encode()), "annotations": names}
    index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [image]}
    files["index.json"] = json.dumps(index).encode()
    return files


def make_archive(path: Path, library: Path, max_bytes: int = MAX_BYTES) -> None:
    """Write an image of ``library``'s files to ``path``, an OCI layout in a tar."""
    names = library_files(library, max_bytes)
    files = oci_files([base_layer(library, names), second_layer(library, names)])
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def main() -> int:
    """Make the archive in the checkout's ``demo/``, convert it with the installed command, return its exit code."""
    os.chdir(Path(__file__).resolve().parent.parent)
    place = Path("demo")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    source, target = place / "source.tar", place / "nydus.tar"
    library = Path(sysconfig.get_path("stdlib"))
    make_archive(source, library)
    print(f"Made {source} ({source.stat().st_size:,} bytes, two layers) from {library}\n")
    options = ["--source", SOURCE, "--source-archive", source, "--target", TARGET, "--target-archive", target]
    command = ["nydusify", "convert", *map(str, options), "--work-dir", str(place / "work")]
    print(f"$ {shlex.join(command)}\n", flush=True)
    return subprocess.run([Path(sys.executable).with_name(command[0]), *command[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
