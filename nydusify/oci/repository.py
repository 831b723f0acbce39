"""The interface of every place that holds images: a registry repository, an OCI layout, an archive."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from nydusify.oci.descriptor import Descriptor


class Repository(Protocol):
    """Blobs and manifests by digest, manifests also by tag.

    Methods may be called from several threads at once. They raise `NotFound` for what is not there, other
    `TransportError`s for a failing server, `FormatError` (`DigestMismatch`) for wrong content.
    """

    name: str
    """How messages call it, without credentials: ``registry.test/app`` or a path."""

    def resolve(self, tag_or_digest: str) -> Descriptor:
        """The descriptor of the manifest or index under a tag (``latest``) or digest (``sha256:…``)."""

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        """The verified bytes of a manifest or index (at most 4 MiB)."""

    def open_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Stream a blob in pieces. Digest and size are verified; the error comes at the latest with the last piece."""

    def read_blob_range(self, descriptor: Descriptor, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset`` (unverified: the caller checks what it takes from them)."""

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there with the right size."""

    def write_blob(self, descriptor: Descriptor, content: Path | bytes, mount_from: str | None = None) -> int:
        """Store a blob that is not there yet; return the bytes sent, 0 when it was there or could be mounted.

        ``mount_from`` names another repository of the same registry that may hold the blob.
        """

    def write_manifest(self, descriptor: Descriptor, content: bytes, tag: str | None = None) -> None:
        """Store a manifest or index whose blobs are all there; with ``tag``, also under that tag, last of all."""

    def close(self) -> None:
        """Release connections; an archive that was written is completed by `write_manifest` with a tag, not by this."""
