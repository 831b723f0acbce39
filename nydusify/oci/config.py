"""Image configs. Source: OCI image-spec, config.md; Docker's container image JSON is the same, with more fields."""

from dataclasses import dataclass
from typing import Any, Self

from nydusify.digest import Digest
from nydusify.errors import FormatError
from nydusify.oci.descriptor import Descriptor, Platform
from nydusify.oci.descriptor_json import digest_field, platform_from_json
from nydusify.oci.jsontext import MAX_CONFIG_SIZE, dump_json, parse_object


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How an image runs, and the digests of its unpacked layers, lowest first."""

    raw: dict[str, Any]
    """The whole document, in the order it was written. Not to be changed; `with_layers` makes a new one."""
    platform: Platform | None
    """None if the config does not say, as with configs of artifacts."""
    diff_ids: tuple[Digest, ...]
    history: tuple[dict[str, Any], ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a config of at most 8 MiB; raise `FormatError` if it is not one of an image."""
        return cls._checked(parse_object(data, "image config", MAX_CONFIG_SIZE))

    @classmethod
    def _checked(cls, raw: dict[str, Any]) -> Self:
        what = "image config"
        rootfs = raw.get("rootfs")
        if not isinstance(rootfs, dict):
            raise FormatError(f"{what}: there is no rootfs")
        if rootfs.get("type") != "layers":
            raise FormatError(f"{what}: rootfs type {str(rootfs.get('type'))[:40]!r} is not 'layers'")
        diff_ids = rootfs.get("diff_ids")
        if diff_ids is None:  # what Go writes for an image without layers
            diff_ids = []
        history = raw.get("history")
        if history is None:
            history = []
        if not isinstance(diff_ids, list):
            raise FormatError(f"{what}: diff_ids is not a list")
        if not isinstance(history, list) or not all(isinstance(item, dict) for item in history):
            raise FormatError(f"{what}: history is not a list of objects")
        platform = platform_from_json(raw, what)
        return cls(
            raw=raw,
            platform=platform if platform.os and platform.architecture else None,
            diff_ids=tuple(digest_field(item, f"{what}: diff_ids[{number}]") for number, item in enumerate(diff_ids)),
            history=tuple(history),
        )

    def with_layers(self, diff_ids: tuple[Digest, ...], history: tuple[dict[str, Any], ...], **fields: Any) -> Self:
        """The same image over other layers; ``fields`` replaces whole top-level values. All else stays as it was."""
        rootfs = {**self.raw["rootfs"], "type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]}
        return self._checked({**self.raw, **fields, "rootfs": rootfs, "history": list(history)})

    def to_bytes(self) -> bytes:
        """Compact JSON, fields in the order in which they were read."""
        return dump_json(self.raw)

    def descriptor(self, media_type: str) -> Descriptor:
        """What a manifest says of these bytes."""
        data = self.to_bytes()
        return Descriptor(media_type, Digest.of(data), len(data))
