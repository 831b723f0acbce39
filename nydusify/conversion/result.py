"""What a conversion did, for the caller."""

from dataclasses import dataclass

from nydusify.conversion.bootstrap import MergedBootstrap
from nydusify.conversion.built import BuiltLayer
from nydusify.conversion.source import SourceImage, SourceLayer
from nydusify.digest import Digest
from nydusify.oci.descriptor import Descriptor
from nydusify.reports.rows import Verdict


@dataclass(frozen=True, slots=True)
class LayerResult:
    """One source layer and its blob. Sizes in bytes, times in nanoseconds."""

    source: SourceLayer
    built: BuiltLayer
    pushed_size: int
    push_ns: int


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One platform."""

    source: SourceImage
    entry: Descriptor
    """The Nydus manifest."""
    target_size: int
    """Bytes of config and layers."""
    pushed_size: int
    """Bytes of bootstrap, config and manifest that were sent."""
    bootstrap: MergedBootstrap | None
    """None when the image was unchanged."""
    layers: tuple[LayerResult, ...]
    """Lowest first; empty when the image was unchanged."""

    @property
    def source_size(self) -> int:
        """Bytes of the source's config and layers."""
        manifest = self.source.manifest
        return manifest.config.size + sum(layer.size for layer in manifest.layers)


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """The outcome of `nydusify.convert`."""

    source: str
    target: str
    source_digest: Digest
    """Of the manifest or index that the source reference named."""
    target_digest: Digest
    """Of what is under the target's tag now."""
    target_media_type: str
    images: tuple[ImageResult, ...]
    unchanged: bool
    """The target was what this run would have made; nothing was pulled, built or pushed."""
    verified: bool
    elapsed_ns: int = 0
    pull_ns: int = 0
    build_ns: int = 0
    push_ns: int = 0
    report: str = ""
    """Path or URL of the Parquet file with the rows of this run; empty if none was written."""

    @property
    def verdict(self) -> Verdict:
        return "unchanged" if self.unchanged else "verified" if self.verified else "unverified"

    @property
    def source_size(self) -> int:
        return sum(image.source_size for image in self.images)

    @property
    def target_size(self) -> int:
        return sum(image.target_size for image in self.images)

    @property
    def layers(self) -> tuple[LayerResult, ...]:
        """Every layer of all platforms, each once."""
        return tuple(
            {layer.source.descriptor.digest: layer for image in self.images for layer in image.layers}.values()
        )
