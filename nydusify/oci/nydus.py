"""What a Nydus image looks like as manifest, config and index. Sources: rafs-format.md 4.6; nydusify-behaviour.md 3, 4.

A merged index holds plain and Nydus manifests. Its plain manifests must get an empty first layer (`isolate`): a
snapshotter that finds a Nydus alternative in the index skips the plain layers and commits *empty* snapshots under their
chain ids. Another image on that node that shares its lowest layers would be unpacked on top of those empty snapshots
(nydus-snapshotter, snapshot/process.go, ``CheckIndexAlternative``; pull request 669). The empty layer makes every chain
id of the merged image its own. The digest of the plain manifest changes by it; the old one is kept as annotation.
"""

from collections.abc import Sequence
from dataclasses import replace

from nydusify.digest import Digest
from nydusify.errors import FormatError
from nydusify.oci import media
from nydusify.oci.config import ImageConfig
from nydusify.oci.descriptor import Descriptor, Platform
from nydusify.oci.manifest import Index, Manifest, check_layer_count
from nydusify.oci.platform import is_nydus

FS_VERSIONS = ("5", "6")
BOOTSTRAP_TYPES = (media.OCI_LAYER_GZIP, media.DOCKER_LAYER_GZIP)
CREATED_BY = "Nydus Converter"

EMPTY_LAYER = bytes.fromhex("1f8b08000000000000ff621805a360148c5800080000ffff2eafb5ef00040000")
"""A gzip of two zero tar blocks; the very bytes that the reference writes, so that registries hold them once."""
EMPTY_LAYER_DIFF_ID = Digest("sha256", "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef")


def is_nydus_manifest(manifest: Manifest) -> bool:
    """Whether a manifest claims to be a Nydus image: its last layer is marked as bootstrap."""
    return bool(manifest.layers) and media.ANNOTATION_BOOTSTRAP in manifest.layers[-1].annotations


def check_nydus_manifest(manifest: Manifest) -> None:
    """Raise `FormatError` unless the layers are Nydus blobs and, last, one bootstrap of a known RAFS version."""
    if not manifest.layers:
        raise FormatError("Nydus manifest: it has no layers")
    *blobs, bootstrap = manifest.layers
    if bootstrap.annotations.get(media.ANNOTATION_BOOTSTRAP) != "true":
        raise FormatError("Nydus manifest: the last layer is not marked as the bootstrap")
    if bootstrap.media_type not in BOOTSTRAP_TYPES:
        raise FormatError(f"Nydus manifest: the bootstrap layer has the type {bootstrap.media_type!r}")
    # Old images leave the version out; their bootstrap tells it.
    version = bootstrap.annotations.get(media.ANNOTATION_FS_VERSION, FS_VERSIONS[0])
    if version not in FS_VERSIONS:
        raise FormatError(f"Nydus manifest: fs-version {version[:20]!r} is neither 5 nor 6")
    for number, blob in enumerate(blobs):
        if media.ANNOTATION_BOOTSTRAP in blob.annotations:
            raise FormatError(f"Nydus manifest: layer {number} is a bootstrap, but not the last layer")
        if blob.media_type != media.NYDUS_BLOB or blob.annotations.get(media.ANNOTATION_BLOB) != "true":
            raise FormatError(f"Nydus manifest: layer {number} is not a Nydus blob (type {blob.media_type!r})")


def check_nydus_config(manifest: Manifest, config: ImageConfig, bootstrap_diff_id: Digest | None = None) -> None:
    """Raise `FormatError` unless the config fits a checked Nydus manifest.

    ``bootstrap_diff_id`` is the sha256 of the unpacked bootstrap layer, if the caller has read it.
    """
    check_layer_count(manifest, config)
    if bootstrap_diff_id is not None and config.diff_ids[-1] != bootstrap_diff_id:
        raise FormatError(
            f"Nydus config: the last diff id is {config.diff_ids[-1]}, the bootstrap is {bootstrap_diff_id}"
        )


def blob_layer(digest: Digest, size: int, source: Digest | None = None) -> Descriptor:
    """The layer of a data blob of ``size`` bytes; ``source`` is the original gzip layer that a zran blob refers to."""
    annotations = {media.ANNOTATION_BLOB: "true"}
    if source is not None:
        annotations[media.ANNOTATION_REF] = str(source)
    return Descriptor(media.NYDUS_BLOB, digest, size, annotations)


def bootstrap_layer(digest: Digest, size: int, fs_version: str) -> Descriptor:
    """The layer of a gzipped bootstrap tar of ``size`` bytes; `nydus_manifest` gives it Docker's type if need be."""
    annotations = {media.ANNOTATION_BOOTSTRAP: "true", media.ANNOTATION_FS_VERSION: fs_version}
    return Descriptor(media.OCI_LAYER_GZIP, digest, size, annotations)


def provenance(source: Digest, reference: str, fs_version: str, builder: str) -> dict[str, str]:
    """The manifest annotations that say what was converted, and by which builder."""
    return {
        media.ANNOTATION_SOURCE_DIGEST: str(source),
        media.ANNOTATION_SOURCE_REFERENCE: reference,
        media.ANNOTATION_FS_VERSION: fs_version,
        media.ANNOTATION_BUILDER_VERSION: builder,
    }


def nydus_manifest(
    source_manifest: Manifest,
    config_descriptor: Descriptor,
    blob_layers: Sequence[Descriptor],
    bootstrap_layer: Descriptor,
    annotations: dict[str, str],
    *,
    oci: bool = False,
    merged: bool = False,
    subject: Descriptor | None = None,
) -> Manifest:
    """The target manifest: Docker's kind stays Docker's unless ``oci``, the source's own annotations are kept.

    ``merged``: for a merged index, with a config type that plain containerd does not try to unpack.
    ``subject``: the source manifest (``--with-referrer``). Blobs kept at a storage back-end are not among
    ``blob_layers``. The result passes `check_nydus_manifest`.
    """
    docker = media.is_docker(source_manifest.media_type) and not oci
    config_type = media.NYDUS_CONFIG if merged else media.DOCKER_CONFIG if docker else media.OCI_CONFIG
    bootstrap = replace(bootstrap_layer, media_type=media.DOCKER_LAYER_GZIP if docker else media.OCI_LAYER_GZIP)
    if subject is not None:
        # Some registries refuse a subject that has more than the three fields of a plain descriptor.
        subject = Descriptor(subject.media_type, subject.digest, subject.size)
    manifest = replace(
        source_manifest,
        media_type=media.DOCKER_MANIFEST if docker else media.OCI_MANIFEST,
        config=replace(config_descriptor, media_type=config_type),
        layers=tuple(_published(layer) for layer in (*blob_layers, bootstrap)),
        annotations={**source_manifest.annotations, **annotations},
        subject=subject or source_manifest.subject,
    )
    check_nydus_manifest(manifest)
    return manifest


def nydus_config(source_config: ImageConfig, blob_diff_ids: Sequence[Digest], bootstrap_diff_id: Digest) -> ImageConfig:
    """The target config: diff ids are the blobs' digests, then the sha256 of the unpacked bootstrap tar.

    Without blobs (they are kept at a storage back-end) the source's history stays, each item marked as an empty layer,
    so that history and layers agree. The ids of legacy Docker parents are cleared, because they name no image here.
    """
    history = source_config.history
    if not blob_diff_ids:
        history = tuple({**item, "empty_layer": True} for item in history)
    history = (*history, {"created_by": CREATED_BY, "comment": "Nydus Bootstrap Layer"})
    legacy = {
        key: {**source_config.raw[key], "Image": ""}
        for key in ("config", "container_config")
        if isinstance(source_config.raw.get(key), dict) and "Image" in source_config.raw[key]
    }
    return source_config.with_layers((*blob_diff_ids, bootstrap_diff_id), history, **legacy)


def isolate(manifest: Manifest, config: ImageConfig, source: Digest) -> tuple[Manifest, ImageConfig]:
    """A plain image with `EMPTY_LAYER` put first, for a merged index; why is said at the top of this module.

    ``source`` is the digest under which ``manifest`` was read. The caller stores the layer, the config and the
    manifest. An image that begins with that layer already stays as it is.
    """
    if manifest.layers and media.ANNOTATION_EMPTY_LAYER in manifest.layers[0].annotations:
        return manifest, config
    empty = Descriptor(
        media.DOCKER_LAYER_GZIP if media.is_docker(manifest.media_type) else media.OCI_LAYER_GZIP,
        Digest.of(EMPTY_LAYER),
        len(EMPTY_LAYER),
        {media.ANNOTATION_EMPTY_LAYER: "true"},
    )
    item = {"created_by": CREATED_BY, "comment": "Nydus Empty Layer"}
    changed = config.with_layers((EMPTY_LAYER_DIFF_ID, *config.diff_ids), (item, *config.history))
    isolated = replace(
        manifest,
        config=changed.descriptor(manifest.config.media_type),
        layers=(empty, *manifest.layers),
        annotations={**manifest.annotations, media.ANNOTATION_SOURCE_DIGEST: str(source)},
    )
    return isolated, changed


def isolated_entry(entry: Descriptor, isolated: Manifest) -> Descriptor:
    """The index entry of an isolated manifest, which keeps what the source index said of the original one."""
    annotations = {**entry.annotations, media.ANNOTATION_SOURCE_DIGEST: str(entry.digest)}
    new = isolated.descriptor()
    return replace(entry, digest=new.digest, size=new.size, media_type=new.media_type, annotations=annotations)


def merged_index(plain: Sequence[Descriptor], nydus: Sequence[Descriptor], *, os_feature: bool = False) -> Index:
    """The index of ``--merge-platform``: plain manifests first, since runtimes take the first that matches.

    Every entry must have a platform: the snapshotter dereferences it unasked. ``os_feature`` adds the older mark, for
    readers that know only that one; some registries refuse it. Raises `FormatError`.
    """
    if any(entry.platform is None for entry in (*plain, *nydus)):
        raise FormatError("an entry of a merged index has no platform")
    if any(is_nydus(entry) for entry in plain):
        raise FormatError("a Nydus manifest stands among the plain ones of a merged index")
    marked = tuple(
        replace(
            entry,
            artifact_type=media.NYDUS_ARTIFACT,
            platform=nydus_platform(entry.platform) if os_feature and entry.platform else entry.platform,
        )
        for entry in nydus
    )
    return Index((*plain, *marked))


def nydus_platform(platform: Platform) -> Platform:
    """The platform with the older mark of a Nydus image in its ``os.features``."""
    if media.NYDUS_OS_FEATURE in platform.os_features:
        return platform
    return replace(platform, os_features=(*platform.os_features, media.NYDUS_OS_FEATURE))


def _published(layer: Descriptor) -> Descriptor:
    annotations = {key: item for key, item in layer.annotations.items() if key != media.ANNOTATION_UNCOMPRESSED}
    return replace(layer, annotations=annotations)
