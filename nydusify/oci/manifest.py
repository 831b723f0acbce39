"""Image manifests and indexes, OCI and Docker v2. Sources: OCI image-spec, manifest.md and image-index.md; Docker's
manifest v2 schema 2."""

from dataclasses import dataclass, field
from typing import Any, Self

from nydusify.digest import Digest
from nydusify.errors import FormatError, UnsupportedError
from nydusify.oci import media
from nydusify.oci.config import ImageConfig
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.descriptor_json import (
    annotations_field,
    descriptor_from_json,
    descriptor_to_json,
    descriptors_field,
    media_type_field,
    text_field,
)
from nydusify.oci.jsontext import dump_json, parse_object

__all__ = [
    "ImageConfig",
    "Index",
    "Manifest",
    "check_layer_count",
    "descriptor_from_json",
    "descriptor_to_json",
    "parse_manifest",
]

_COMMON = frozenset(("schemaVersion", "mediaType", "artifactType", "subject", "annotations"))


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform: a config and its layers, lowest first. Always schema version 2."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = media.OCI_MANIFEST
    annotations: dict[str, str] = field(default_factory=dict)
    subject: Descriptor | None = None
    artifact_type: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    """Top-level fields that this package does not know, kept as they were."""

    @classmethod
    def parse(cls, data: bytes, media_type: str = "") -> Self:
        """Read a manifest of at most 4 MiB that came with ``media_type`` (empty: unknown).

        Raises `FormatError`, and `UnsupportedError` for Docker schema 1.
        """
        what = "image manifest"
        value = _parse_document(data, what, forbidden=("manifests", "fsLayers"))
        kind = _media_type(value, media_type, media.OCI_MANIFEST, what)
        if not media.is_manifest(kind):
            raise FormatError(f"{what}: {kind!r} is not the media type of an image manifest")
        return cls(
            config=descriptor_from_json(value.get("config"), f"{what}: config"),
            layers=descriptors_field(value, "layers", what),
            media_type=kind,
            annotations=annotations_field(value, what),
            subject=_subject(value, what),
            artifact_type=text_field(value, "artifactType", what),
            extra={key: item for key, item in value.items() if key not in _COMMON | {"config", "layers"}},
        )

    def to_bytes(self) -> bytes:
        """Compact JSON, fields in the order of image-spec's Go type: equal manifests give equal bytes."""
        content = {
            "config": descriptor_to_json(self.config),
            "layers": [descriptor_to_json(layer) for layer in self.layers],
        }
        return _document(self, content)

    def descriptor(self) -> Descriptor:
        """What an index or a tag says of these bytes."""
        return _describe(self.media_type, self.to_bytes(), self.artifact_type)


@dataclass(frozen=True, slots=True)
class Index:
    """Several manifests under one name, usually one a platform."""

    manifests: tuple[Descriptor, ...]
    media_type: str = media.OCI_INDEX
    annotations: dict[str, str] = field(default_factory=dict)
    subject: Descriptor | None = None
    artifact_type: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    """Top-level fields that this package does not know, kept as they were."""

    @classmethod
    def parse(cls, data: bytes, media_type: str = "") -> Self:
        """Read an index of at most 4 MiB that came with ``media_type`` (empty: unknown). Raises `FormatError`."""
        what = "image index"
        value = _parse_document(data, what, forbidden=("layers", "config", "fsLayers"))
        kind = _media_type(value, media_type, media.OCI_INDEX, what)
        if not media.is_index(kind):
            raise FormatError(f"{what}: {kind!r} is not the media type of an index")
        return cls(
            manifests=descriptors_field(value, "manifests", what),
            media_type=kind,
            annotations=annotations_field(value, what),
            subject=_subject(value, what),
            artifact_type=text_field(value, "artifactType", what),
            extra={key: item for key, item in value.items() if key not in _COMMON | {"manifests"}},
        )

    def to_bytes(self) -> bytes:
        """Compact JSON, fields in the order of image-spec's Go type: equal indexes give equal bytes."""
        return _document(self, {"manifests": [descriptor_to_json(entry) for entry in self.manifests]})

    def descriptor(self) -> Descriptor:
        """What a tag says of these bytes."""
        return _describe(self.media_type, self.to_bytes(), self.artifact_type)


def parse_manifest(data: bytes, media_type: str = "") -> Manifest | Index:
    """Read a manifest or an index, whichever it is by ``media_type``, else by its own words. Raises `FormatError`."""
    kind = media_type
    if not media.is_index(kind) and not media.is_manifest(kind):
        value = parse_object(data, "manifest")
        kind = media_type_field(value, "mediaType", "manifest") if value.get("mediaType") else ""
        if not kind and "manifests" in value:
            kind = media.OCI_INDEX
    return Index.parse(data, kind) if media.is_index(kind) else Manifest.parse(data, kind)


def check_layer_count(manifest: Manifest, config: ImageConfig) -> None:
    """Raise `FormatError` unless the config has one diff id for each layer of the manifest."""
    if len(manifest.layers) != len(config.diff_ids):
        raise FormatError(
            f"unmatched layers between manifest and config: {len(manifest.layers)} layers, "
            f"{len(config.diff_ids)} diff ids"
        )


def _parse_document(data: bytes, what: str, forbidden: tuple[str, ...]) -> dict[str, Any]:
    value = parse_object(data, what)
    version = value.get("schemaVersion")
    if version == 1 or media.is_schema1(text_field(value, "mediaType", what)):
        raise UnsupportedError(
            "the image has a Docker schema 1 manifest, which is not supported",
            advice="Pull and push it again with a current Docker, or `skopeo copy --format v2s2` it.",
        )
    if version != 2 or not isinstance(version, int):
        raise FormatError(f"{what}: schemaVersion is {str(version)[:40]}, not 2")
    # A document that reads as a manifest and as an index means one thing to us and another to the next reader.
    wrong = next((key for key in forbidden if value.get(key) is not None), None)
    if wrong:
        raise FormatError(f"{what}: it also has {wrong!r}, so it is not clear what it is")
    return value


def _media_type(value: dict[str, Any], told: str, default: str, what: str) -> str:
    own = media_type_field(value, "mediaType", what) if value.get("mediaType") is not None else ""
    if own and told and own != told:
        raise FormatError(f"{what}: it calls itself {own!r}, but came as {told[:200]!r}")
    return own or told or default


def _subject(value: dict[str, Any], what: str) -> Descriptor | None:
    subject = value.get("subject")
    return None if subject is None else descriptor_from_json(subject, f"{what}: subject")


def _document(document: Manifest | Index, content: dict[str, Any]) -> bytes:
    fields: dict[str, Any] = {"schemaVersion": 2, "mediaType": document.media_type}
    if document.artifact_type:
        fields["artifactType"] = document.artifact_type
    fields |= content
    if document.subject is not None:
        fields["subject"] = descriptor_to_json(document.subject)
    if document.annotations:
        fields["annotations"] = dict(sorted(document.annotations.items()))
    return dump_json(fields | dict(sorted(document.extra.items())))


def _describe(media_type: str, data: bytes, artifact_type: str) -> Descriptor:
    return Descriptor(media_type, Digest.of(data), len(data), artifact_type=artifact_type)
