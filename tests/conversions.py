"""Source images of given layers, and what a conversion left at its target, for the tests of `nydusify.convert`."""

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import zstandard

from nydusify.conversion.location import Location
from nydusify.digest import Digest
from nydusify.oci import media
from nydusify.oci.descriptor import Descriptor, Platform
from nydusify.oci.layout import LayoutRepository
from nydusify.oci.manifest import ImageConfig, Index, Manifest
from nydusify.oci.repository import Repository
from nydusify.rafs.reader import read_bootstrap
from nydusify.rafs.tree import Bootstrap
from nydusify.registry.options import RegistryOptions
from tests.layers import SUFFIXES, layer_file
from tests.oci_images import SmallImage, store
from tests.registry_helpers import FAST, repository
from tests.servers import unique_name
from tests.trees import BlobContent, Tree, tree_of

OCI_TYPES = {"gzip": media.OCI_LAYER_GZIP, "zstd": media.OCI_LAYER_ZSTD, "none": media.OCI_LAYER}
DOCKER_TYPES = {"gzip": media.DOCKER_LAYER_GZIP, "zstd": media.DOCKER_LAYER_ZSTD, "none": media.DOCKER_LAYER}


def plain_tar(data: bytes, compression: str) -> bytes:
    if compression == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return gzip.decompress(data) if compression == "gzip" else data


def image_of(
    *layers: tuple[bytes, str],
    docker: bool = False,
    architecture: str = "amd64",
    diff_ids: Sequence[Digest] | None = None,
) -> SmallImage:
    """An image of layers and their compression; ``diff_ids`` instead of the right ones."""
    diff_ids = diff_ids or [Digest.of(plain_tar(*layer)) for layer in layers]
    rootfs = {"type": "layers", "diff_ids": [str(digest) for digest in diff_ids]}
    config = json.dumps({"architecture": architecture, "os": "linux", "rootfs": rootfs}).encode()
    types = DOCKER_TYPES if docker else OCI_TYPES
    described = [Descriptor(types[kind], Digest.of(data), len(data)) for data, kind in layers]
    config_entry = Descriptor(media.DOCKER_CONFIG if docker else media.OCI_CONFIG, Digest.of(config), len(config))
    kind = media.DOCKER_MANIFEST if docker else media.OCI_MANIFEST
    blobs = {Digest.of(data): data for data in (config, *(data for data, _ in layers))}
    return SmallImage(Manifest(config_entry, tuple(described), kind), blobs)


def layer(name: str) -> tuple[bytes, str]:
    """A golden layer and its compression."""
    path = layer_file(name)
    return path.read_bytes(), SUFFIXES[path.suffix]


def golden_image(*names: str, docker: bool = False, architecture: str = "amd64") -> SmallImage:
    return image_of(*(layer(name) for name in names), docker=docker, architecture=architecture)


def attestation(image: SmallImage) -> SmallImage:
    """What BuildKit adds for ``image``: not an image, though its media type says so."""
    statement, config = b'{"_type":"https://in-toto.io/Statement/v0.1"}', b"{}"
    described = Descriptor("application/vnd.in-toto+json", Digest.of(statement), len(statement))
    entry = Descriptor(media.OCI_CONFIG, Digest.of(config), len(config))
    return SmallImage(Manifest(entry, (described,)), {Digest.of(data): data for data in (statement, config)})


def store_index(repository: Repository, tag: str, *architectures: str, docker: bool = False) -> Index:
    """Store an index as BuildKit makes it: for each architecture an image of its own, then their attestations."""
    entries, attested = [], []
    for number, architecture in enumerate(architectures):
        image = golden_image("07-tiny", ("05-nodata", "06-upper")[number % 2], docker=docker, architecture=architecture)
        described = store(image, repository, None)
        entries.append(replace(described, platform=Platform("linux", architecture)))
        marks = {
            media.ANNOTATION_REFERENCE_TYPE: "attestation-manifest",
            media.ANNOTATION_REFERENCE_DIGEST: str(described.digest),
        }
        statement = store(attestation(image), repository, None)
        attested.append(replace(statement, platform=Platform("unknown", "unknown"), annotations=marks))
    index = Index((*entries, *attested), media.DOCKER_INDEX if docker else media.OCI_INDEX)
    repository.write_manifest(index.descriptor(), index.to_bytes(), tag)
    return index


def layout(path: Path, tag: str = "1") -> Location:
    """The OCI layout directory ``path``, which need not exist yet."""
    return Location(f"registry.test/app:{tag}", f"{path}/")


def stored(path: Path, image: SmallImage, tag: str = "1") -> Location:
    """A layout with ``image``."""
    store(image, LayoutRepository(path), tag)
    return layout(path, tag)


@dataclass(frozen=True)
class Place:
    """A source repository and a target repository of their own, in one registry; the tags are ``1`` and ``nydus``."""

    host: str
    options: RegistryOptions
    source_name: str
    target_name: str

    @property
    def source(self) -> Location:
        return Location(f"{self.host}/{self.source_name}:1", registry=self.options)

    @property
    def target(self) -> Location:
        return Location(f"{self.host}/{self.target_name}:nydus", registry=self.options)

    def store(self, image: SmallImage) -> None:
        with repository(self.host, self.source_name, self.options) as opened:
            store(image, opened, "1")

    def tagged(self) -> Descriptor:
        with repository(self.host, self.target_name, self.options) as opened:
            return opened.resolve("nydus")


def place_at(host: str, options: RegistryOptions = FAST) -> Place:
    return Place(host, options, unique_name("source"), unique_name("target"))


@dataclass(frozen=True)
class NydusImage:
    """A Nydus image as it lies at a target, all in memory."""

    manifest: Manifest
    config: ImageConfig
    bootstrap: Bootstrap
    members: dict[str, bytes]
    """Of the bootstrap layer, in their order."""
    bootstrap_diff_id: Digest
    blobs: dict[str, bytes]
    """By blob id."""

    @property
    def tree(self) -> Tree:
        """With the content of every file, read out of the blobs."""
        return tree_of(self.bootstrap, BlobContent(self.bootstrap, self.blobs))


def read_image(repository: Repository, descriptor: Descriptor) -> NydusImage:
    manifest = Manifest.parse(repository.read_manifest(descriptor), descriptor.media_type)
    config = ImageConfig.parse(b"".join(repository.open_blob(manifest.config)))
    tar = gzip.decompress(b"".join(repository.open_blob(manifest.layers[-1])))
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        members = {name: file.read() if file else b"" for name, file in files.items()}
    blobs = {blob.digest.hex: b"".join(repository.open_blob(blob)) for blob in manifest.layers[:-1]}
    bootstrap = read_bootstrap(members["image/image.boot"])
    return NydusImage(manifest, config, bootstrap, members, Digest.of(tar), blobs)
