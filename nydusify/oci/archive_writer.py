"""Tar archives as targets: an OCI layout that ``docker load`` reads too.

Source: nydusify-behaviour.md, 4, "Archive layout".
"""

import tarfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from nydusify.digest import Digest
from nydusify.errors import DigestMismatch, FormatError, NotFound, StoreError, UsageError
from nydusify.oci import media
from nydusify.oci.archive import ArchiveRepository
from nydusify.oci.config import ImageConfig
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.files import iter_content, replacing
from nydusify.oci.imagelist import named_entry
from nydusify.oci.jsontext import dump_json
from nydusify.oci.layout import LAYOUT_VERSION
from nydusify.oci.local import check_complete
from nydusify.oci.manifest import Index, Manifest, parse_manifest
from nydusify.oci.platform import is_attestation, is_nydus
from nydusify.oci.reference import Reference

_BLOCK = 512


@dataclass(frozen=True, slots=True)
class _Blob:
    descriptor: Descriptor
    content: Path | bytes


class ArchiveWriter:
    """A `Repository` that becomes one tar file when `write_manifest` gets a tag; until then the old file stays.

    Blobs are noted, not copied: a path must hold its content until then. What is read comes from the file as it is on
    disk, so before the tag from the archive of an earlier run, if there is one. Raises `UsageError` for a path that
    cannot become a file.
    """

    def __init__(self, path: Path, reference: Reference | None = None) -> None:
        if not path.parent.is_dir():
            raise UsageError(f"{path.parent}: no such directory", advice="Create it, or name another target archive.")
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is not a file")
        self.name = str(path)
        self._path = path
        self._reference = reference
        self._blobs: dict[Digest, _Blob] = {}
        self._tags: dict[str, Descriptor] = {}
        self._reader: ArchiveRepository | None = None
        self._lock = threading.RLock()

    def resolve(self, tag_or_digest: str) -> Descriptor:
        return self._written().resolve(tag_or_digest)

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        return self._written().read_manifest(descriptor)

    def open_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        return self._written().open_blob(descriptor)

    def read_blob_range(self, descriptor: Descriptor, offset: int, length: int) -> bytes:
        return self._written().read_blob_range(descriptor, offset, length)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob will be in the new archive; what only an older one holds does not count."""
        with self._lock:
            noted = self._blobs.get(descriptor.digest)
        return noted is not None and noted.descriptor.size == descriptor.size

    def write_blob(self, descriptor: Descriptor, content: Path | bytes, mount_from: str | None = None) -> int:
        if self.has_blob(descriptor):
            return 0
        try:
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
        except OSError as error:
            raise StoreError(f"{content!s}: {error.strerror or error}") from error
        if size != descriptor.size:
            raise DigestMismatch(f"{descriptor.digest}: {size} bytes, {descriptor.size} were promised")
        if isinstance(content, bytes):
            content = b"".join(descriptor.digest.verify([content], descriptor.size))
        with self._lock:
            self._blobs[descriptor.digest] = _Blob(descriptor, content)
        return size

    def write_manifest(self, descriptor: Descriptor, content: bytes, tag: str | None = None) -> None:
        self.write_blob(descriptor, content)
        if tag is None:
            return
        with self._lock:
            check_complete(self, descriptor, self._noted)
            self._tags[tag] = self._with_platform(descriptor)
            with replacing(self._path) as file:
                self._write(file)
            self.close()

    def close(self) -> None:
        with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _written(self) -> ArchiveRepository:
        with self._lock:
            if self._reader is None:
                try:
                    self._reader = ArchiveRepository(self._path, self._reference)
                except FormatError as error:
                    raise NotFound(f"{self.name}: not an image archive yet ({error})") from error
            return self._reader

    def _noted(self, descriptor: Descriptor) -> bytes:
        """A manifest or config that is to be in the archive."""
        noted = self._blobs.get(descriptor.digest)
        if noted is None:
            raise FormatError(f"{self.name}: {descriptor.digest} was not written")
        return b"".join(iter_content(noted.content))

    def _document(self, descriptor: Descriptor) -> Manifest | Index:
        return parse_manifest(self._noted(descriptor), descriptor.media_type)

    def _with_platform(self, descriptor: Descriptor) -> Descriptor:
        """A single image says in ``index.json`` for which platform it is, if its config tells."""
        document = self._document(descriptor)
        if descriptor.platform is not None or isinstance(document, Index):
            return descriptor
        try:
            config = ImageConfig.parse(self._noted(document.config))
        except FormatError:  # an artifact, whose config is something else
            return descriptor
        return replace(descriptor, platform=config.platform)

    def _write(self, file: BinaryIO) -> None:
        """Everything that decides about the bytes is an argument of the run: names sorted, times and owners zero."""
        algorithms = sorted({digest.algorithm for digest in self._blobs})
        for directory in ("blobs/", *(f"blobs/{algorithm}/" for algorithm in algorithms)):
            _write_header(file, directory, 0, 0o755, tarfile.DIRTYPE)
        for _, blob in sorted((str(digest), blob) for digest, blob in self._blobs.items()):
            digest, size = blob.descriptor.digest, blob.descriptor.size
            content = digest.verify(iter_content(blob.content), size)
            _write_member(file, f"blobs/{digest.algorithm}/{digest.hex}", size, content, 0o444)
        entries = tuple(named_entry(item, tag, self._reference) for tag, item in sorted(self._tags.items()))
        for name, data, mode in (
            ("index.json", Index(entries).to_bytes(), 0o644),
            ("manifest.json", dump_json(self._docker_manifest(entries)), 0o644),
            ("oci-layout", LAYOUT_VERSION, 0o444),
        ):
            _write_member(file, name, len(data), [data], mode)
        file.write(bytes(2 * _BLOCK))

    def _docker_manifest(self, entries: Iterable[Descriptor]) -> list[dict[str, Any]]:
        """What ``docker load`` reads: one platform an image, the first plain one of an index."""
        listed: list[dict[str, Any]] = []
        for entry in entries:
            document = self._document(entry)
            if isinstance(document, Index):
                images = [item for item in document.manifests if media.is_manifest(item.media_type)]
                images = [item for item in images if not is_attestation(item)]
                images.sort(key=is_nydus)
                document = self._document(images[0]) if images else document
            if isinstance(document, Manifest):
                name = entry.annotations.get(media.ANNOTATION_IMAGE_NAME)
                listed.append(
                    {
                        "Config": _blob_path(document.config.digest),
                        "RepoTags": [name] if name else None,
                        "Layers": [_blob_path(layer.digest) for layer in document.layers],
                    }
                )
        return listed


def _blob_path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _write_header(file: BinaryIO, name: str, size: int, mode: int, kind: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.type = size, mode, kind
    header = bytearray(info.tobuf(tarfile.PAX_FORMAT))
    # Python versions differ in the device fields of a file; the reference writes zeros.
    for start in {0, len(header) - _BLOCK}:
        block = memoryview(header)[start : start + _BLOCK]
        block[329:345] = b"0000000\0" * 2
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    file.write(header)


def _write_member(file: BinaryIO, name: str, size: int, content: Iterable[bytes], mode: int) -> None:
    _write_header(file, name, size, mode, tarfile.REGTYPE)
    for piece in content:
        file.write(piece)
    file.write(bytes(-size % _BLOCK))
