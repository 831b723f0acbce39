"""Tar archives as sources: OCI layouts and docker-save tars, read in place; gzip and zstd ones through a plain copy."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from nydusify.digest import Digest
from nydusify.errors import FormatError, NotFound, StoreError, UnsupportedError
from nydusify.oci import media
from nydusify.oci.decompress import COMPRESSED, decompress
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.docker_save import DockerSave
from nydusify.oci.files import open_regular, read_at
from nydusify.oci.imagelist import NamedImage, list_images
from nydusify.oci.jsontext import MAX_MANIFEST_SIZE
from nydusify.oci.local import LocalReader, Place, check_layout_version
from nydusify.oci.manifest import Index
from nydusify.oci.reference import Reference
from nydusify.oci.tarindex import Member, TarIndex


class ArchiveRepository(LocalReader):
    """A `Repository` that is read from one tar file. Writing to it is an error.

    ``any_name``: an archive with a single image answers for any tag. ``temp_dir`` takes the plain copy of a
    compressed archive, which has no name there and vanishes with `close`. Opening raises `NotFound`, `FormatError`.
    """

    def __init__(
        self,
        path: Path,
        reference: Reference | None = None,
        *,
        any_name: bool = False,
        temp_dir: Path | None = None,
    ) -> None:
        fd = _open_plain(path, temp_dir)
        try:
            self._archive = _ArchiveContent(fd, str(path))
        except BaseException:
            os.close(fd)
            raise
        super().__init__(str(path), self._archive, reference, any_name=any_name)
        self._fd: int | None = fd
        self._closing = threading.Lock()

    def write_blob(self, descriptor: Descriptor, content: Path | bytes, mount_from: str | None = None) -> NoReturn:
        raise UnsupportedError(f"{self.name}: an archive that is read cannot be written to")

    def write_manifest(self, descriptor: Descriptor, content: bytes, tag: str | None = None) -> NoReturn:
        raise UnsupportedError(f"{self.name}: an archive that is read cannot be written to")

    def close(self) -> None:
        with self._closing:
            fd, self._fd = self._fd, None
        if fd is not None:
            self._archive.forget()
            os.close(fd)


class _ArchiveContent:
    """The content of an archive by digest."""

    def __init__(self, fd: int, where: str) -> None:
        self._tar = TarIndex(fd)
        self._where = where
        self._saved: dict[Digest, Member] = {}
        version = self._tar.read("oci-layout", MAX_MANIFEST_SIZE)
        if version is None:
            saved = DockerSave(self._tar)
            self._saved, self._images = saved.members, saved.images
            return
        check_layout_version(version, where)
        index = self._tar.read("index.json", MAX_MANIFEST_SIZE)
        if index is None:
            raise FormatError(f"{where}: an OCI layout without index.json")
        self._images = list_images(Index.parse(index, media.OCI_INDEX).manifests)

    def forget(self) -> None:
        """Let no late reader use the file's number, which the next file that is opened may get."""
        self._tar.fd = -1

    def images(self) -> list[NamedImage]:
        return self._images

    @contextmanager
    def place(self, digest: Digest) -> Iterator[Place]:
        member = self._saved.get(digest) or self._tar.find(f"blobs/{digest.algorithm}/{digest.hex}")
        if member is None:
            raise NotFound(f"{self._where}: the archive has no content {digest}")
        yield Place(self._tar.fd, member.offset, member.size)


def _open_plain(path: Path, temp_dir: Path | None) -> int:
    """A file descriptor of the archive, of its decompressed copy if it is compressed."""
    fd = open_regular(path)
    try:
        head = read_at(fd, 0, min(6, os.fstat(fd).st_size))
        kind = next((kind for magic, kind in COMPRESSED.items() if head.startswith(magic)), None)
        if kind is None:
            return os.dup(fd)
        with tempfile.TemporaryFile(dir=temp_dir) as plain:
            decompress(fd, kind, plain, str(path))
            return os.dup(plain.fileno())
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be read or unpacked: {error.strerror or error}") from error
    finally:
        os.close(fd)
