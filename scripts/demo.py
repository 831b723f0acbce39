#!/usr/bin/env python3
"""`make demo`: a real two-layer image from this machine's Python, converted by the real command, archive to archive.

Standard library only, so that it also runs where nothing is installed but the command.
"""

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOURCE = "demo.test/python:1"
TARGET = "demo.test/python:1-nydus"
MAX_BYTES = 30 << 20
MAX_FILE_BYTES = 4 << 20
LEFT_OUT = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test"}
OCI = "application/vnd.oci.image"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
EPOCH = "1970-01-01T00:00:00Z"


def library_files(library: Path, max_bytes: int) -> list[Path]:
    """Files and symbolic links below ``library``, sorted, until ``max_bytes`` are reached."""
    found, total = [], 0
    for directory, names, files in os.walk(library):
        names[:] = sorted(set(names) - LEFT_OUT)
        for name in sorted(files):
            path = Path(directory, name)
            size = path.lstat().st_size
            if size > MAX_FILE_BYTES or not (path.is_symlink() or path.is_file()):
                continue
            if total + size > max_bytes:
                return found
            total += size
            found.append(path)
    return found


class LayerTar:
    """One layer in the making: entries under ``usr/lib/python``, owned by root, every parent before its children."""

    PREFIX = Path("usr/lib/python")

    def __init__(self) -> None:
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self.directories: set[Path] = set()
        self.entries = 0

    def _add(self, name: Path, info: tarfile.TarInfo, content: Any = None) -> None:
        for parent in reversed((self.PREFIX / name).parents[:-1]):
            if parent not in self.directories:
                self.directories.add(parent)
                directory = tarfile.TarInfo(f"{parent}/")
                directory.type, directory.mode = tarfile.DIRTYPE, 0o755
                self.tar.addfile(directory)
                self.entries += 1
        info.name = str(self.PREFIX / name)
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        self.tar.addfile(info, content)
        self.entries += 1

    def add_file(self, path: Path, name: Path) -> None:
        """A file or symbolic link as it is on disk."""
        info = self.tar.gettarinfo(path)
        if info.isreg():
            with path.open("rb") as content:
                self._add(name, info, content)
        elif info.issym():
            self._add(name, info)
        else:  # tarfile made it a hard link to a file that it has seen
            self._add(name, info)

    def add_bytes(self, content: bytes, name: Path, mode: int = 0o644) -> None:
        info = tarfile.TarInfo()
        info.size, info.mode = len(content), mode
        self._add(name, info, io.BytesIO(content))

    def delete(self, name: Path) -> None:
        """A whiteout: the entry of the layer below is gone."""
        self.add_bytes(b"", name.with_name(f".wh.{name.name}"))

    def close(self) -> bytes:
        self.tar.close()
        return self.buffer.getvalue()
