"""Config, manifest and index of the target, and what the target held before."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from nydusify import __version__
from nydusify.build import BUILDER_VERSION
from nydusify.build.options import BuildOptions
from nydusify.conversion.bootstrap import MergedBootstrap
from nydusify.conversion.built import BuiltLayer
from nydusify.conversion.source import SourceImage
from nydusify.digest import Digest
from nydusify.errors import FormatError, NotFound
from nydusify.oci import media
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.manifest import Index, Manifest, parse_manifest
from nydusify.oci.nydus import (
    EMPTY_LAYER,
    is_nydus_manifest,
    isolate,
    isolated_entry,
    merged_index,
    nydus_config,
    nydus_manifest,
    provenance,
)
from nydusify.oci.repository import Repository
from nydusify.store import Store

BUILDER = f"nydusify {__version__} (builder {BUILDER_VERSION})"


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """What determines a target image, besides its source."""

    build: BuildOptions = field(default_factory=BuildOptions)
    prefetch: tuple[bytes, ...] = (b"/",)
    """Paths that a runtime should read first; ``/`` means everything."""
    oci: bool = False
    """Turn Docker media types into OCI's."""
    merge_platform: bool = False
    """Put the source's manifests beside the Nydus ones into one index."""

    def key(self, source_reference: str) -> str:
        """16 hex digits that differ when the target of equal sources may differ."""
        state = hashlib.sha256(
            f"{self.build.key} {self.oci} {self.merge_platform} {source_reference} {BUILDER}".encode()
        )
        for path in self.prefetch:
            state.update(b"\0" + path)
        return state.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Present:
    """What is under the target's tag already."""

    descriptor: Descriptor | None = None
    images: dict[tuple[Digest, str], Descriptor] = field(default_factory=dict)
    """Nydus manifests by the source manifest and the `ImageOptions.key` that they were made from."""
    sizes: dict[Digest, int] = field(default_factory=dict)
    """Bytes of config and layers, by the digest of the manifest."""
    layers: dict[Digest, Descriptor] = field(default_factory=dict)
    """Blobs by source layer, of those that were built with the same `BuildOptions.key`."""


def look_at_target(target: Repository, tag: str, build_key: str) -> Present:
    """Read what the tag holds; anything that is not a Nydus image of ours counts as nothing."""
    with suppress(NotFound, FormatError):
        root = target.resolve(tag)
        document = parse_manifest(target.read_manifest(root), root.media_type)
        present = Present(root)
        for entry in document.manifests if isinstance(document, Index) else [root]:
            with suppress(NotFound, FormatError):
                manifest = (
                    document
                    if isinstance(document, Manifest)
                    else Manifest.parse(target.read_manifest(entry), entry.media_type)
                )
                _note_image(present, entry, manifest, build_key)
        return present
    return Present()


def reusable_layers(target: Repository, present: Present) -> dict[Digest, Descriptor]:
    """Blobs by source layer that need not be built again. An archive is written anew, so none that it holds count."""
    from nydusify.oci.archive_writer import ArchiveWriter

    return {} if isinstance(target, ArchiveWriter) else present.layers


def _note_image(present: Present, entry: Descriptor, manifest: Manifest, build_key: str) -> None:
    if not is_nydus_manifest(manifest):
        return
    marks = manifest.annotations
    if media.ANNOTATION_SOURCE_DIGEST in marks and media.ANNOTATION_OPTIONS_KEY in marks:
        source = Digest.parse(marks[media.ANNOTATION_SOURCE_DIGEST])
        present.images[source, marks[media.ANNOTATION_OPTIONS_KEY]] = entry
        present.sizes[entry.digest] = manifest.config.size + sum(layer.size for layer in manifest.layers)
    for blob in manifest.layers:
        if blob.annotations.get(media.ANNOTATION_OPTIONS_KEY, "").partition("-")[0] == build_key:
            present.layers[Digest.parse(blob.annotations.get(media.ANNOTATION_SOURCE_DIGEST, ""))] = blob


@dataclass(frozen=True, slots=True)
class PublishedImage:
    """One Nydus manifest at the target, not tagged yet."""

    entry: Descriptor
    """With the platform that an index needs."""
    size: int
    """Bytes of config and layers."""
    pushed_size: int


def publish_image(
    target: Repository,
    store: Store,
    image: SourceImage,
    layers: Sequence[BuiltLayer],
    bootstrap: MergedBootstrap,
    options: ImageOptions,
    source_reference: str,
) -> tuple[PublishedImage, bytes]:
    """Push the bootstrap layer and the config; return the manifest, whose blobs are then all at the target."""
    blobs = [built.layer for built in layers]
    config = nydus_config(image.config, [blob.digest for blob in blobs], bootstrap.diff_id).to_bytes()
    config_entry = Descriptor(media.OCI_CONFIG, store.put(config), len(config))
    marks = provenance(image.entry.digest, source_reference, str(options.build.fs_version), BUILDER)
    marks[media.ANNOTATION_OPTIONS_KEY] = options.key(source_reference)
    manifest = nydus_manifest(
        image.manifest,
        config_entry,
        blobs,
        bootstrap.layer,
        marks,
        oci=options.oci or options.merge_platform,
        merged=options.merge_platform,
    )
    pushed = target.write_blob(manifest.layers[-1], store.path(bootstrap.layer.digest))
    pushed += target.write_blob(manifest.config, config)
    content = manifest.to_bytes()
    described = manifest.descriptor()
    entry = Descriptor(described.media_type, described.digest, described.size, image.entry.annotations, image.platform)
    size = manifest.config.size + sum(layer.size for layer in manifest.layers)
    return PublishedImage(entry, size, pushed + len(content)), content


def publish_plain(
    source: Repository, target: Repository, store: Store, image: SourceImage, mount_from: str | None
) -> tuple[Descriptor, int]:
    """Bring the source image itself to the target, for a merged index; return its index entry there, and bytes sent.

    ``mount_from`` is the source's repository when both are of one registry.
    """
    manifest, config = isolate(image.manifest, image.config, image.entry.digest)
    sent = 0
    for layer in manifest.layers:
        if media.ANNOTATION_EMPTY_LAYER in layer.annotations:
            sent += target.write_blob(layer, EMPTY_LAYER)
        elif not target.has_blob(layer):
            if not store.has(layer.digest, layer.size):
                store.put_pieces(layer.digest, layer.size, source.open_blob(layer))
            sent += target.write_blob(layer, store.path(layer.digest), mount_from)
    sent += target.write_blob(manifest.config, config.to_bytes())
    target.write_manifest(manifest.descriptor(), manifest.to_bytes())
    entry = Descriptor(
        image.entry.media_type, image.entry.digest, image.entry.size, image.entry.annotations, image.platform
    )
    return isolated_entry(entry, manifest), sent + manifest.descriptor().size


def target_index(entries: Sequence[Descriptor], plain: Sequence[Descriptor], docker: bool) -> Index:
    """The index over several platforms; with ``plain`` entries a merged one."""
    if plain:
        return merged_index(plain, entries)
    return Index(tuple(entries), media.DOCKER_INDEX if docker else media.OCI_INDEX)
