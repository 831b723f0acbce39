"""Content descriptors and platforms. Source: OCI image-spec, descriptor.md and image-index.md."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

from nydusify.digest import Digest

MAX_SIZE = 1 << 62


@dataclass(frozen=True, slots=True)
class Platform:
    """Where an image runs, such as ``linux/arm64/v8``."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of one piece of content: media type, digest, size in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: dict[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    artifact_type: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields that this package does not use (``urls``, ``data``…), kept as they were."""

    def with_annotations(self, **changes: str) -> Self:
        return replace(self, annotations={**self.annotations, **changes})
