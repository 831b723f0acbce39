"""Small images made by hand, and copying between places that hold images, for the tests of `nydusify.oci`."""

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nydusify.digest import Digest
from nydusify.oci import media
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.manifest import Index, Manifest, parse_manifest
from nydusify.oci.repository import Repository


@dataclass
class SmallImage:
    """An image of one gzip layer a given text, for linux/amd64."""

    manifest: Manifest
    blobs: dict[Digest, bytes]

    @property
    def descriptor(self) -> Descriptor:
        return self.manifest.descriptor()


def small_image(*texts: str, architecture: str = "amd64") -> SmallImage:
    plain = [make_tar({f"file{number}": text.encode()}) for number, text in enumerate(texts)]
    layers = [gzip.compress(tar, mtime=0) for tar in plain]
    config = {
        "architecture": architecture,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar in plain]},
    }
    contents = [json.dumps(config).encode(), *layers]
    types = [media.OCI_CONFIG, *[media.OCI_LAYER_GZIP] * len(layers)]
    described = [Descriptor(kind, Digest.of(data), len(data)) for kind, data in zip(types, contents, strict=True)]
    manifest = Manifest(described[0], tuple(described[1:]))
    return SmallImage(manifest, {Digest.of(data): data for data in contents})


def make_tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def layout_files(image: SmallImage, *entries: dict[str, Any]) -> dict[str, bytes]:
    data = image.manifest.to_bytes()
    plain = {"mediaType": media.OCI_MANIFEST, "digest": str(image.descriptor.digest), "size": len(data)}
    index = {"schemaVersion": 2, "manifests": [{**plain, **entry} for entry in entries or [{}]]}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    return files | {f"blobs/sha256/{Digest.of(blob).hex}": blob for blob in (data, *image.blobs.values())}


def write(path: Path, files: dict[str, bytes]) -> Path:
    path.write_bytes(make_tar(files))
    return path


def docker_files(*images: tuple[list[str], SmallImage], compressed: bool = False) -> dict[str, bytes]:
    listed, files = [], {}
    for number, (tags, image) in enumerate(images):
        config = image.blobs[image.manifest.config.digest]
        names = []
        for position, layer in enumerate(image.manifest.layers):
            names.append(f"{number}-{position}/layer.tar")
            blob = image.blobs[layer.digest]
            files[names[-1]] = blob if compressed else gzip.decompress(blob)
        files[f"{number}.json"] = config
        listed.append({"Config": f"{number}.json", "RepoTags": tags or None, "Layers": names})
    return files | {"manifest.json": json.dumps(listed).encode()}


def store(image: SmallImage, repository: Repository, tag: str | None) -> Descriptor:
    for blob in (image.manifest.config, *image.manifest.layers):
        repository.write_blob(blob, image.blobs[blob.digest])
    repository.write_manifest(image.descriptor, image.manifest.to_bytes(), tag)
    return image.descriptor


def copy_image(source: Repository, descriptor: Descriptor, target: Repository, tag: str | None, work: Path) -> None:
    """Copy an image or index with all it names; blobs go through files, so that none is in memory whole."""
    data = source.read_manifest(descriptor)
    document = parse_manifest(data, descriptor.media_type)
    if isinstance(document, Index):
        for entry in document.manifests:
            copy_image(source, entry, target, None, work)
    else:
        for blob in (document.config, *document.layers):
            path = work / blob.digest.hex
            with path.open("wb") as file:
                file.writelines(source.open_blob(blob))
            target.write_blob(blob, path)
    target.write_manifest(descriptor, data, tag)


def contents(source: Repository, descriptor: Descriptor) -> dict[str, str]:
    """The sha256 of everything an image reaches, by digest, as it is read."""
    data = source.read_manifest(descriptor)
    found = {str(descriptor.digest): hashlib.sha256(data).hexdigest()}
    document = parse_manifest(data, descriptor.media_type)
    if isinstance(document, Index):
        for entry in document.manifests:
            found |= contents(source, entry)
        return found
    for blob in (document.config, *document.layers):
        found[str(blob.digest)] = hashlib.sha256(b"".join(source.open_blob(blob))).hexdigest()
    return found
