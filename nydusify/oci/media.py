"""Media types and annotation keys. Sources: OCI image-spec, media-types.md; Docker's manifest v2 schema 2; and what
containerd's nydus snapshotter reads (these are spelled exactly as it spells them)."""

from typing import Final, Literal

from nydusify.errors import UnsupportedError

Compression = Literal["gzip", "zstd", "none"]

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_NONDISTRIBUTABLE: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
OCI_NONDISTRIBUTABLE_GZIP: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
OCI_NONDISTRIBUTABLE_ZSTD: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"

DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD: Final = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_FOREIGN: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_FOREIGN_GZIP: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
DOCKER_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"

NYDUS_BLOB: Final = "application/vnd.oci.image.layer.nydus.blob.v1"
NYDUS_CONFIG: Final = "application/vnd.nydus.image.config.v1+json"
"""Config type of the Nydus manifest in a merged index: one that plain containerd leaves alone."""
NYDUS_ARTIFACT: Final = "application/vnd.nydus.image.manifest.v1+json"
"""``artifactType`` of the Nydus entry in a merged index."""
NYDUS_OS_FEATURE: Final = "nydus.remoteimage.v1"
"""Older mark of a Nydus entry, in ``platform.os.features``."""

ANNOTATION_BLOB: Final = "containerd.io/snapshot/nydus-blob"
ANNOTATION_BOOTSTRAP: Final = "containerd.io/snapshot/nydus-bootstrap"
ANNOTATION_FS_VERSION: Final = "containerd.io/snapshot/nydus-fs-version"
ANNOTATION_REF: Final = "containerd.io/snapshot/nydus-ref"
ANNOTATION_SOURCE_DIGEST: Final = "containerd.io/snapshot/nydus-source-digest"
ANNOTATION_SOURCE_REFERENCE: Final = "containerd.io/snapshot/nydus-source-reference"
ANNOTATION_BUILDER_VERSION: Final = "containerd.io/snapshot/nydus-builder-version"
ANNOTATION_EMPTY_LAYER: Final = "containerd.io/snapshot/nydus-empty-layer"
ANNOTATION_CACHE_VERSION: Final = "containerd.io/snapshot/nydus-cache-version"
ANNOTATION_COMMIT_BLOBS: Final = "containerd.io/snapshot/nydus-commit-blobs"
ANNOTATION_PREFETCH_BLOB: Final = "containerd.io/snapshot/nydus-separated-blob-with-prefetch-files"
ANNOTATION_REFERENCE_BLOB_IDS: Final = "containerd.io/snapshot/nydus-reference-blob-ids"
ANNOTATION_OPTIONS_KEY: Final = "containerd.io/snapshot/nydus-options-key"
"""Ours: with which options a blob or a whole image was built, so that a later run knows whether it still fits."""
ANNOTATION_UNCOMPRESSED: Final = "containerd.io/uncompressed"
"""Diff id of a layer while it is being converted; never written into a manifest that lists its blobs."""

ANNOTATION_REF_NAME: Final = "org.opencontainers.image.ref.name"
ANNOTATION_IMAGE_NAME: Final = "io.containerd.image.name"
ANNOTATION_REFERENCE_TYPE: Final = "vnd.docker.reference.type"
"""On BuildKit's attestation entries; `ANNOTATION_REFERENCE_DIGEST` names the manifest that they attest."""
ANNOTATION_REFERENCE_DIGEST: Final = "vnd.docker.reference.digest"

_LAYERS: dict[str, Compression] = {
    OCI_LAYER: "none",
    OCI_LAYER_GZIP: "gzip",
    OCI_LAYER_ZSTD: "zstd",
    OCI_NONDISTRIBUTABLE: "none",
    OCI_NONDISTRIBUTABLE_GZIP: "gzip",
    OCI_NONDISTRIBUTABLE_ZSTD: "zstd",
    DOCKER_LAYER: "none",
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER_ZSTD: "zstd",
    DOCKER_FOREIGN: "none",
    DOCKER_FOREIGN_GZIP: "gzip",
}
_INDEXES = frozenset((OCI_INDEX, DOCKER_INDEX))
_MANIFESTS = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
_SCHEMA1 = frozenset((DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED))


def is_index(media_type: str) -> bool:
    return media_type in _INDEXES


def is_manifest(media_type: str) -> bool:
    """Whether it is an image manifest of a kind that this package reads (not Docker schema 1)."""
    return media_type in _MANIFESTS


def is_schema1(media_type: str) -> bool:
    return media_type in _SCHEMA1


def is_docker(media_type: str) -> bool:
    """Whether a manifest, index, config or layer type is one of Docker's own."""
    return media_type.startswith("application/vnd.docker.")


def is_layer(media_type: str) -> bool:
    """Whether it is a layer tar of a known kind. A Nydus blob is not: it is no tar of files."""
    return media_type in _LAYERS


def is_nondistributable(media_type: str) -> bool:
    """Whether a layer may be missing from a registry or archive, because only its ``urls`` hold it."""
    return media_type.startswith(OCI_NONDISTRIBUTABLE) or media_type.startswith(DOCKER_FOREIGN)


def compression_of(media_type: str) -> Compression:
    """How a layer tar is compressed, by its type; raise `UnsupportedError` if it is no known layer type."""
    try:
        return _LAYERS[media_type]
    except KeyError:
        advice = "The layer is encrypted; decrypt the image first." if media_type.endswith("+encrypted") else None
        raise UnsupportedError(f"a layer of type {media_type[:200]!r} is not a layer tar", advice=advice) from None
