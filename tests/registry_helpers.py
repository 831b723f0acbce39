"""Small content and repositories for the tests of the registry client."""

import dataclasses
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nydusify.digest import Digest
from nydusify.oci.descriptor import Descriptor
from nydusify.registry.client import RegistryRepository
from nydusify.registry.options import RegistryOptions

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
FAST = RegistryOptions(plain_http=True, retry_delay=0.01, connect_timeout=5, read_timeout=20)
"""Options for plain registries and proxies before them, with waits that do not slow the tests down."""


def blob(size: int, seed: object = 0) -> tuple[bytes, Descriptor]:
    content = random.Random(f"{size} {seed}").randbytes(size)
    return content, Descriptor("application/octet-stream", Digest.of(content), size)


def manifest_of(config: Descriptor) -> tuple[bytes, Descriptor]:
    """An image without layers."""
    content = (
        f'{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"{config.media_type}",'
        f'"digest":"{config.digest}","size":{config.size}}},"layers":[]}}'
    ).encode()
    return content, Descriptor(MANIFEST, Digest.of(content), len(content))


@contextmanager
def repository(
    host: str, name: str, options: RegistryOptions = FAST, **changes: object
) -> Iterator[RegistryRepository]:
    opened = RegistryRepository(host, name, dataclasses.replace(options, **changes))  # type: ignore[arg-type]
    try:
        yield opened
    finally:
        opened.close()


def stored_blob(storage: Path, digest: Digest) -> Path:
    """Where docker-registry has a blob on disk."""
    return storage / "docker/registry/v2/blobs" / digest.algorithm / digest.hex[:2] / digest.hex / "data"
