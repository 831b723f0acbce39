"""OCI layout directories, as source and as target. Source: OCI image-spec, image-layout.md."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from nydusify.digest import Digest
from nydusify.errors import FormatError, NotFound, StoreError, UsageError
from nydusify.oci import media
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.files import iter_content, open_regular, read_at, replacing
from nydusify.oci.imagelist import NamedImage, list_images, named_entry
from nydusify.oci.jsontext import MAX_MANIFEST_SIZE
from nydusify.oci.local import LocalReader, Place, check_complete, check_layout_version
from nydusify.oci.manifest import Index
from nydusify.oci.reference import Reference

LAYOUT_VERSION = b'{"imageLayoutVersion":"1.0.0"}'


class LayoutRepository(LocalReader):
    """A `Repository` in a directory. It may be shared: blobs appear whole, ``index.json`` is changed under a lock.

    Opening raises `UsageError` for a directory that is neither empty nor a layout. Nothing is created before the first
    write. ``any_name``: a layout with a single image answers for any tag.
    """

    def __init__(self, path: Path, reference: Reference | None = None, *, any_name: bool = False) -> None:
        self.path = path
        self._layout = _LayoutContent(path)
        self._writing = threading.Lock()
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is not a directory")
        present = os.listdir(path) if path.is_dir() else []
        # Another writer may be about to begin the layout: `oci-layout` is what it writes first.
        if "oci-layout" not in present and not all(name.endswith(".partial") for name in present):
            raise UsageError(f"{path} is neither empty nor an OCI layout", advice="Name another directory.")
        super().__init__(str(path), self._layout, reference, any_name=any_name)

    def write_blob(self, descriptor: Descriptor, content: Path | bytes, mount_from: str | None = None) -> int:
        if self.has_blob(descriptor):
            return 0
        self._prepare(descriptor.digest.algorithm)
        with replacing(self._layout.blob(descriptor.digest)) as file:
            for piece in descriptor.digest.verify(iter_content(content), descriptor.size):
                file.write(piece)
        return descriptor.size

    def write_manifest(self, descriptor: Descriptor, content: bytes, tag: str | None = None) -> None:
        self.write_blob(descriptor, content)
        if tag is None:
            return
        check_complete(self, descriptor, self.read_manifest)
        entry = named_entry(descriptor, tag, self._reference)
        with self._writing, self._locked():
            index = self._layout.index()
            others = tuple(item for item in index.manifests if item.annotations.get(media.ANNOTATION_REF_NAME) != tag)
            with replacing(self.path / "index.json") as file:
                file.write(replace(index, manifests=(*others, entry)).to_bytes())

    def close(self) -> None:
        """Nothing is kept open."""

    def _prepare(self, algorithm: str) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not (self.path / "oci-layout").exists():
                with replacing(self.path / "oci-layout") as file:
                    file.write(LAYOUT_VERSION)
            (self.path / "blobs" / algorithm).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror or error}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes that do as we do from changing ``index.json`` at the same time."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


class _LayoutContent:
    """The content of a layout by digest."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def blob(self, digest: Digest) -> Path:
        return self._path / "blobs" / digest.algorithm / digest.hex

    def index(self) -> Index:
        data = self._small("index.json")
        return Index(()) if data is None else Index.parse(data, media.OCI_INDEX)

    def images(self) -> list[NamedImage]:
        version = self._small("oci-layout")
        if version is not None:
            check_layout_version(version, str(self._path))
        return list_images(self.index().manifests)

    @contextmanager
    def place(self, digest: Digest) -> Iterator[Place]:
        fd = open_regular(self.blob(digest))
        try:
            yield Place(fd, 0, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    def _small(self, name: str) -> bytes | None:
        try:
            fd = open_regular(self._path / name)
        except NotFound:
            return None
        try:
            size = os.fstat(fd).st_size
            if size > MAX_MANIFEST_SIZE:
                raise FormatError(f"{self._path}: {name} has {size} bytes")
            return read_at(fd, 0, size)
        finally:
            os.close(fd)
