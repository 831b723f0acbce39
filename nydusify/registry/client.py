"""A repository in a registry, as the rest of the package sees it."""

from collections.abc import Iterator
from pathlib import Path

from nydusify.oci.descriptor import Descriptor
from nydusify.registry.endpoint import Endpoint
from nydusify.registry.manifests import Manifests
from nydusify.registry.options import RegistryOptions, Stats
from nydusify.registry.pull import open_blob, read_blob_range
from nydusify.registry.push import has_blob, push_blob


class RegistryRepository:
    """Implements `nydusify.oci.repository.Repository` on the distribution API; methods may run in many threads.

    All repositories of one registry with equal options share connections, credentials and tokens. Besides what the
    protocol names, methods raise `AuthError`, `RetryLater` when a busy server did not recover in time, and
    `UsageError` for a broken Docker config or CA file.
    """

    def __init__(self, registry: str, repository: str, options: RegistryOptions | None = None) -> None:
        """``registry`` and ``repository`` as `Reference` has them: ``docker.io`` and ``library/alpine``.

        Opens no connection. Raises `UsageError` if ``registry`` cannot be a host.
        """
        self._endpoint = Endpoint(registry, repository, options or RegistryOptions())
        self._manifests = Manifests(self._endpoint)
        self.name = self._endpoint.name

    @property
    def stats(self) -> Stats:
        """What this repository's methods have sent and received so far."""
        return self._endpoint.stats

    def resolve(self, tag_or_digest: str) -> Descriptor:
        return self._manifests.resolve(tag_or_digest)

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        return self._manifests.read(descriptor)

    def open_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        return open_blob(self._endpoint, descriptor)

    def read_blob_range(self, descriptor: Descriptor, offset: int, length: int) -> bytes:
        return read_blob_range(self._endpoint, descriptor, offset, length)

    def has_blob(self, descriptor: Descriptor) -> bool:
        return has_blob(self._endpoint, descriptor)

    def write_blob(self, descriptor: Descriptor, content: Path | bytes, mount_from: str | None = None) -> int:
        return push_blob(self._endpoint, descriptor, content, mount_from)

    def write_manifest(self, descriptor: Descriptor, content: bytes, tag: str | None = None) -> None:
        self._manifests.write(descriptor, content, tag)

    def close(self) -> None:
        self._endpoint.close()
