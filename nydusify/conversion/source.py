"""What a source image consists of: a manifest, a config and layers for every platform that is converted."""

from collections.abc import Sequence
from dataclasses import dataclass

from nydusify.digest import Digest
from nydusify.errors import FormatError, UnsupportedError
from nydusify.oci import media
from nydusify.oci.descriptor import Descriptor, Platform
from nydusify.oci.manifest import ImageConfig, Index, Manifest, check_layer_count, parse_manifest
from nydusify.oci.nydus import is_nydus_manifest
from nydusify.oci.platform import check_platform, host_platform, select
from nydusify.oci.repository import Repository
from nydusify.store import Store

MAX_CONFIG = 8 << 20


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image for one platform."""

    entry: Descriptor
    """The manifest's descriptor, with the platform when an index or the config names one."""
    manifest: Manifest
    config: ImageConfig

    @property
    def platform(self) -> Platform | None:
        return self.entry.platform or self.config.platform


@dataclass(frozen=True, slots=True)
class SourceLayer:
    """One layer of an image; ``diff_id`` is the digest of its plain tar."""

    descriptor: Descriptor
    diff_id: Digest
    compression: media.Compression


def read_config(repository: Repository, store: Store, descriptor: Descriptor) -> ImageConfig:
    """An image config, by way of the store. Raises `FormatError`, `TransportError`."""
    if descriptor.size > MAX_CONFIG:
        raise FormatError(f"image config {descriptor.digest} claims {descriptor.size} bytes")
    if not store.has(descriptor.digest, descriptor.size):
        store.put_pieces(descriptor.digest, descriptor.size, repository.open_blob(descriptor))
    return ImageConfig.parse(store.read(descriptor.digest))


def fetch_images(
    repository: Repository, store: Store, tag_or_digest: str, platforms: Sequence[Platform] | None, every: bool = False
) -> tuple[Descriptor, list[SourceImage]]:
    """What is under a tag: the descriptor there, and its image for each of ``platforms``.

    None means the host's platform of an index, or a single image whatever its platform; ``every`` means all. Raises
    `PlatformError` for a missing platform, `UnsupportedError` for a Nydus image.
    """
    root = repository.resolve(tag_or_digest)
    document = parse_manifest(repository.read_manifest(root), root.media_type)
    if isinstance(document, Index):
        wanted = None if every else list(platforms or [host_platform()])

        def platform_of(entry: Descriptor) -> Platform | None:
            manifest = Manifest.parse(repository.read_manifest(entry), entry.media_type)
            return read_config(repository, store, manifest.config).platform

        return root, [_image(repository, store, entry) for entry in select(document, wanted, platform_of)]
    image = _image(repository, store, root, document)
    if platforms and not every and image.platform is not None:
        check_platform(image.platform, list(platforms))
    return root, [image]


def _image(repository: Repository, store: Store, entry: Descriptor, manifest: Manifest | None = None) -> SourceImage:
    manifest = manifest or Manifest.parse(repository.read_manifest(entry), entry.media_type)
    if is_nydus_manifest(manifest):
        raise UnsupportedError(
            f"{repository.name}: {entry.digest} is a Nydus image already",
            advice="Name the OCI image that it was converted from.",
        )
    config = read_config(repository, store, manifest.config)
    check_layer_count(manifest, config)
    if not manifest.layers:
        raise UnsupportedError(f"{repository.name}: {entry.digest} has no layers; there is no file system to convert")
    return SourceImage(entry, manifest, config)


def source_layers(images: Sequence[SourceImage]) -> list[SourceLayer]:
    """Every layer of the images once, in their order. Raises `UnsupportedError` for unknown kinds of layers."""
    layers: dict[Digest, SourceLayer] = {}
    for image in images:
        for descriptor, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True):
            compression = media.compression_of(descriptor.media_type)
            known = layers.setdefault(descriptor.digest, SourceLayer(descriptor, diff_id, compression))
            if known.diff_id != diff_id:
                raise FormatError(f"layer {descriptor.digest} has two diff ids: {known.diff_id} and {diff_id}")
    return list(layers.values())
