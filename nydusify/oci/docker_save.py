"""What ``docker save`` writes, read as images: its ``manifest.json`` names a config and layer tars, without digests.

Source: Docker's image spec v1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

import hashlib
from dataclasses import replace
from typing import Any

from nydusify.digest import Digest
from nydusify.errors import FormatError
from nydusify.oci import media
from nydusify.oci.config import ImageConfig
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.files import iter_at, read_at
from nydusify.oci.imagelist import NamedImage
from nydusify.oci.jsontext import MAX_CONFIG_SIZE, MAX_MANIFEST_SIZE, parse_json
from nydusify.oci.manifest import Manifest
from nydusify.oci.tarindex import Member, TarIndex, clean

_MAGIC = {b"\x1f\x8b": media.DOCKER_LAYER_GZIP, b"\x28\xb5\x2f\xfd": media.DOCKER_LAYER_ZSTD}


class DockerSave:
    """Images of a docker-save tar under Docker v2 manifests that are made here; deterministic, like their digests."""

    def __init__(self, tar: TarIndex) -> None:
        self._tar = tar
        self.members: dict[Digest, Member] = {}
        self._layers: dict[Member, Descriptor] = {}
        listed = parse_json(tar.read("manifest.json", MAX_MANIFEST_SIZE) or b"null", "manifest.json")
        if not isinstance(listed, list) or not listed:
            raise FormatError("archive: neither an OCI layout nor a docker-save tar (no usable manifest.json)")
        self.images = [self._image(item) for item in listed]

    def _image(self, item: Any) -> NamedImage:
        if not isinstance(item, dict):
            raise FormatError("manifest.json: an image is not a JSON object")
        tags = _texts(item, "RepoTags")
        member = self._member(item.get("Config"), "config")
        if member.size > MAX_CONFIG_SIZE:
            raise FormatError(f"manifest.json: a config of {member.size} bytes")
        data = read_at(self._tar.fd, member.offset, member.size)
        config = ImageConfig.parse(data)
        paths = _texts(item, "Layers")
        if len(paths) != len(config.diff_ids):
            raise FormatError(f"manifest.json: {len(paths)} layers, but the config has {len(config.diff_ids)} diff ids")
        layers = tuple(
            self._layer(self._member(path, "layer"), diff_id)
            for path, diff_id in zip(paths, config.diff_ids, strict=True)
        )
        described = Descriptor(media.DOCKER_CONFIG, Digest.of(data), len(data))
        self.members[described.digest] = member
        manifest = Manifest(described, layers, media.DOCKER_MANIFEST)
        descriptor = replace(manifest.descriptor(), platform=config.platform)
        return NamedImage(frozenset(tags), descriptor, manifest.to_bytes())

    def _member(self, path: Any, what: str) -> Member:
        member = self._tar.find(clean(path)) if isinstance(path, str) else None
        if member is None:
            raise FormatError(f"manifest.json: the archive has no {what} {str(path)[:200]!r}")
        return member

    def _layer(self, member: Member, diff_id: Digest) -> Descriptor:
        """A layer tar is stored as it was unpacked, so its diff id is its digest, which every reader verifies.

        Only a layer that some tool compressed is read here, once, for its digest.
        """
        if member in self._layers:
            return self._layers[member]
        fd, head = self._tar.fd, read_at(self._tar.fd, member.offset, min(4, member.size))
        kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), media.DOCKER_LAYER)
        if kind == media.DOCKER_LAYER:
            digest = diff_id
        else:
            state = hashlib.sha256()
            for piece in iter_at(fd, member.offset, member.size):
                state.update(piece)
            digest = Digest("sha256", state.hexdigest())
        self.members[digest] = member
        self._layers[member] = Descriptor(kind, digest, member.size)
        return self._layers[member]


def _texts(item: dict[str, Any], key: str) -> list[str]:
    """A list of texts; Go writes null for an empty one."""
    value = item.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise FormatError(f"manifest.json: {key} is not a list of texts")
    return value
