"""What layouts and archives have in common: reading images out of local files, everything verified."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from nydusify.digest import Digest
from nydusify.errors import DigestMismatch, FormatError, NotFound
from nydusify.oci import media
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.files import iter_at, read_at
from nydusify.oci.imagelist import NamedImage, find_image
from nydusify.oci.jsontext import MAX_MANIFEST_SIZE, parse_object
from nydusify.oci.manifest import Index, parse_manifest
from nydusify.oci.reference import Reference
from nydusify.oci.repository import Repository


@dataclass(frozen=True, slots=True)
class Place:
    """Where content lies: ``size`` bytes from ``offset`` of an open file."""

    fd: int
    offset: int
    size: int


class LocalContent(Protocol):
    """A set of files by digest, and the images that they make up."""

    def place(self, digest: Digest) -> AbstractContextManager[Place]:
        """Open the content of a digest; `NotFound` if it is not there."""

    def images(self) -> list[NamedImage]:
        """The images of ``index.json``."""


class LocalReader:
    """The reading half of `Repository` over local content. Safe for threads: every read names its position."""

    def __init__(
        self, name: str, content: LocalContent, reference: Reference | None = None, *, any_name: bool = False
    ) -> None:
        self.name = name
        self._content = content
        self._reference = reference
        self._any_name = any_name

    def resolve(self, tag_or_digest: str) -> Descriptor:
        images = self._content.images()
        if ":" not in tag_or_digest:
            found = find_image(images, tag_or_digest, self.name, self._reference, any_name=self._any_name)
            return found.descriptor
        digest = Digest.parse(tag_or_digest)
        named = [image.descriptor for image in images if image.descriptor.digest == digest]
        return named[0] if named else self._describe(digest)

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        if descriptor.size > MAX_MANIFEST_SIZE:
            raise FormatError(f"{self.name}: manifest {descriptor.digest} claims {descriptor.size} bytes")
        for image in self._content.images():
            if image.content is not None and image.descriptor.digest == descriptor.digest:
                return image.content
        return b"".join(self.open_blob(descriptor))

    def open_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        with self._content.place(descriptor.digest) as place:
            if place.size != descriptor.size:
                raise DigestMismatch(
                    f"{self.name}: {descriptor.digest} has {place.size} bytes, {descriptor.size} were promised"
                )
            yield from descriptor.digest.verify(iter_at(place.fd, place.offset, place.size), descriptor.size)

    def read_blob_range(self, descriptor: Descriptor, offset: int, length: int) -> bytes:
        with self._content.place(descriptor.digest) as place:
            if offset < 0 or length < 0 or offset + length > min(place.size, descriptor.size):
                raise FormatError(f"{self.name}: {descriptor.digest} has no bytes {offset}+{length}")
            return read_at(place.fd, place.offset + offset, length)

    def has_blob(self, descriptor: Descriptor) -> bool:
        try:
            with self._content.place(descriptor.digest) as place:
                return place.size == descriptor.size
        except NotFound:
            return False

    def _describe(self, digest: Digest) -> Descriptor:
        """The descriptor of a manifest that only another manifest names; its own bytes say what it is."""
        with self._content.place(digest) as place:
            size = place.size
        data = self.read_manifest(Descriptor("", digest, size))
        kind = parse_manifest(data).media_type
        return Descriptor(kind, digest, size)


def check_complete(repository: Repository, descriptor: Descriptor, read: Callable[[Descriptor], bytes]) -> None:
    """No tag before its content: raise `FormatError` if something that a manifest reaches is not in ``repository``.

    ``read`` gives the bytes of a manifest; layers that only their URLs hold may be missing.
    """
    document = parse_manifest(read(descriptor), descriptor.media_type)
    blobs: list[Descriptor] = []
    if isinstance(document, Index):
        for entry in document.manifests:
            if media.is_index(entry.media_type) or media.is_manifest(entry.media_type):
                check_complete(repository, entry, read)
            else:
                blobs.append(entry)
    else:
        blobs = [document.config, *document.layers]
    for blob in blobs:
        if not repository.has_blob(blob) and not media.is_nondistributable(blob.media_type):
            raise FormatError(
                f"{repository.name}: manifest {descriptor.digest} needs {blob.digest}, which is not there"
            )


def check_layout_version(data: bytes, where: str) -> None:
    """Raise `FormatError` unless ``data`` is the ``oci-layout`` file of a known version."""
    version = parse_object(data, f"{where}: oci-layout").get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise FormatError(f"{where}: OCI layout version {str(version)[:40]!r} is not supported")
