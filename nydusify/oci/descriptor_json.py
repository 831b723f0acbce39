"""Descriptors and platforms as JSON. Source: OCI image-spec, descriptor.md and image-index.md."""

import re
from typing import Any

from nydusify.digest import Digest
from nydusify.errors import FormatError
from nydusify.oci.descriptor import MAX_SIZE, Descriptor, Platform

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_DESCRIPTOR_FIELDS = frozenset(("mediaType", "digest", "size", "annotations", "platform", "artifactType"))


def descriptor_from_json(value: Any, what: str) -> Descriptor:
    """Read one descriptor out of parsed JSON; raise `FormatError` naming ``what`` and the field that is wrong."""
    if not isinstance(value, dict):
        raise FormatError(f"{what}: a descriptor is not a JSON object")
    size = value.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < MAX_SIZE:
        raise FormatError(f"{what}: size {str(size)[:40]} is not a possible number of bytes")
    platform = value.get("platform")
    return Descriptor(
        media_type=media_type_field(value, "mediaType", what),
        digest=digest_field(value.get("digest"), what),
        size=size,
        annotations=annotations_field(value, what),
        platform=None if platform is None else platform_from_json(platform, what),
        artifact_type=text_field(value, "artifactType", what),
        extra={key: item for key, item in value.items() if key not in _DESCRIPTOR_FIELDS},
    )


def descriptor_to_json(descriptor: Descriptor) -> dict[str, Any]:
    """The JSON object of a descriptor, fields in the order of image-spec's Go type, empty ones left out."""
    extra = dict(sorted(descriptor.extra.items()))
    optional = {
        "urls": extra.pop("urls", None),
        "annotations": dict(sorted(descriptor.annotations.items())),
        "data": extra.pop("data", None),
        "platform": platform_to_json(descriptor.platform) if descriptor.platform else None,
        "artifactType": descriptor.artifact_type,
        **extra,
    }
    fixed = {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}
    return fixed | {key: item for key, item in optional.items() if item or key in extra}


def platform_from_json(value: Any, what: str) -> Platform:
    """Read ``platform`` of an index entry, or the same fields of an image config."""
    if not isinstance(value, dict):
        raise FormatError(f"{what}: platform is not a JSON object")
    features = value.get("os.features")
    if features is None:
        features = []
    if not isinstance(features, list) or not all(isinstance(item, str) for item in features):
        raise FormatError(f"{what}: os.features is not a list of texts")
    return Platform(
        os=text_field(value, "os", what),
        architecture=text_field(value, "architecture", what),
        variant=text_field(value, "variant", what),
        os_version=text_field(value, "os.version", what),
        os_features=tuple(features),
    )


def platform_to_json(platform: Platform) -> dict[str, Any]:
    optional = {
        "os.version": platform.os_version,
        "os.features": list(platform.os_features),
        "variant": platform.variant,
    }
    fixed = {"architecture": platform.architecture, "os": platform.os}
    return fixed | {key: item for key, item in optional.items() if item}


def digest_field(value: Any, what: str) -> Digest:
    if not isinstance(value, str):
        raise FormatError(f"{what}: a digest is missing")
    try:
        return Digest.parse(value)
    except FormatError as error:
        raise FormatError(f"{what}: {error}") from None


def text_field(value: dict[str, Any], key: str, what: str) -> str:
    """An optional text; missing and null read as empty."""
    text = value.get(key)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise FormatError(f"{what}: {key} is not a text")
    return text


def media_type_field(value: dict[str, Any], key: str, what: str) -> str:
    text = text_field(value, key, what)
    if not _MEDIA_TYPE.fullmatch(text):
        raise FormatError(f"{what}: {key} {text[:100]!r} is not a media type")
    return text


def annotations_field(value: dict[str, Any], what: str) -> dict[str, str]:
    annotations = value.get("annotations")
    if annotations is None:
        return {}
    if not isinstance(annotations, dict) or not all(isinstance(item, str) for item in annotations.values()):
        raise FormatError(f"{what}: annotations are not texts by name")
    return annotations


def descriptors_field(value: dict[str, Any], key: str, what: str) -> tuple[Descriptor, ...]:
    items = value.get(key)
    if not isinstance(items, list):
        raise FormatError(f"{what}: {key} is not a list")
    return tuple(descriptor_from_json(item, f"{what}: {key}[{number}]") for number, item in enumerate(items))
