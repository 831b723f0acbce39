"""The manifests, configs and indexes that we assemble are those of the reference, where it is right."""

import json
import zlib
from dataclasses import replace
from typing import Any

import pytest

from nydusify.digest import Digest
from nydusify.errors import FormatError
from nydusify.oci import media
from nydusify.oci.archive import ArchiveRepository
from nydusify.oci.descriptor import Descriptor, Platform
from nydusify.oci.manifest import ImageConfig, Index, Manifest
from nydusify.oci.nydus import (
    EMPTY_LAYER,
    EMPTY_LAYER_DIFF_ID,
    blob_layer,
    bootstrap_layer,
    check_nydus_manifest,
    is_nydus_manifest,
    isolate,
    isolated_entry,
    merged_index,
    nydus_config,
    nydus_manifest,
    nydus_platform,
    provenance,
)
from nydusify.oci.platform import is_nydus
from tests.golden import golden_dir


class Image:
    """One golden image: its parsed documents and the JSON of its manifest and config."""

    def __init__(self, name: str, tag: str, entry: int | None = None) -> None:
        repository = ArchiveRepository(golden_dir() / "images" / f"{name}.oci.tar")
        self.descriptor = repository.resolve(tag)
        if entry is not None:
            self.index = Index.parse(repository.read_manifest(self.descriptor), self.descriptor.media_type)
            self.descriptor = self.index.manifests[entry]
        data = repository.read_manifest(self.descriptor)
        self.manifest = Manifest.parse(data, self.descriptor.media_type)
        content = b"".join(repository.open_blob(self.manifest.config))
        self.config = ImageConfig.parse(content)
        self.manifest_json: dict[str, Any] = json.loads(data)
        self.config_json: dict[str, Any] = json.loads(content)


def rebuild(source: Image, golden: Image, **options: Any) -> tuple[Manifest, ImageConfig]:
    """Assemble the golden image anew from the source and what the builder would have delivered."""
    *blobs, bootstrap = golden.manifest.layers
    config = nydus_config(source.config, [blob.digest for blob in blobs], golden.config.diff_ids[-1])
    marks = golden.manifest.annotations
    manifest = nydus_manifest(
        source.manifest,
        replace(golden.manifest.config, media_type="any/thing"),
        [
            replace(
                blob_layer(blob.digest, blob.size, _ref(blob)),
                annotations=blob.annotations | {media.ANNOTATION_UNCOMPRESSED: str(blob.digest)},
            )
            for blob in blobs
        ],
        bootstrap_layer(bootstrap.digest, bootstrap.size, marks[media.ANNOTATION_FS_VERSION]),
        provenance(
            source.descriptor.digest,
            marks[media.ANNOTATION_SOURCE_REFERENCE],
            marks[media.ANNOTATION_FS_VERSION],
            marks[media.ANNOTATION_BUILDER_VERSION],
        ),
        **options,
    )
    return manifest, config


def _ref(blob: Descriptor) -> Digest | None:
    text = blob.annotations.get(media.ANNOTATION_REF)
    return Digest.parse(text) if text else None


@pytest.mark.parametrize(("name", "tag"), [("v6-archive", "arch"), ("v5", "v5"), ("v6-zran", "v6-zran")])
def test_manifest_and_config_are_those_of_the_reference(name: str, tag: str) -> None:
    source, golden = Image("source", "latest"), Image(name, tag)
    manifest, config = rebuild(source, golden)

    assert json.loads(manifest.to_bytes()) == golden.manifest_json
    assert json.loads(config.to_bytes()) == golden.config_json
    assert is_nydus_manifest(manifest)
    assert not is_nydus_manifest(source.manifest)


def test_the_subject_is_that_of_the_reference() -> None:
    source, golden = Image("source", "latest"), Image("v6-with-referrer", "v6-with-referrer")
    subject = replace(source.descriptor, platform=Platform("linux", "amd64"), annotations={"a": "b"})
    manifest, _ = rebuild(source, golden, subject=subject)

    assert json.loads(manifest.to_bytes()) == golden.manifest_json


def test_a_docker_image_stays_a_docker_image_unless_oci_is_asked_for() -> None:
    source, golden = Image("source", "latest"), Image("v6-docker-source", "v6-docker-source")
    source.manifest = replace(source.manifest, media_type=media.DOCKER_MANIFEST, annotations={})
    source.descriptor = replace(
        source.descriptor, digest=Digest.parse(golden.manifest.annotations[media.ANNOTATION_SOURCE_DIGEST])
    )

    assert json.loads(rebuild(source, golden)[0].to_bytes()) == golden.manifest_json
    converted = rebuild(source, golden, oci=True)[0]
    assert converted.media_type == media.OCI_MANIFEST
    assert converted.config.media_type == media.OCI_CONFIG
    assert converted.layers[-1].media_type == media.OCI_LAYER_GZIP


def test_a_merged_index_is_that_of_the_reference() -> None:
    source = Image("source", "latest")
    plain, nydus = (Image("v6-merge-platform", "v6-merge-platform", entry) for entry in (0, 1))
    isolated, config = isolate(source.manifest, source.config, source.descriptor.digest)
    assert json.loads(config.to_bytes()) == plain.config_json
    # The reference reorders the config's fields, so its digest is another; all else is the same.
    expected = {**plain.manifest_json["config"], "digest": str(isolated.config.digest), "size": isolated.config.size}
    assert json.loads(isolated.to_bytes()) == {**plain.manifest_json, "config": expected}
    manifest, _ = rebuild(source, nydus, merged=True)
    assert json.loads(manifest.to_bytes()) == nydus.manifest_json

    platform = Platform("linux", "amd64")
    entry = isolated_entry(replace(source.descriptor, platform=platform), isolated)
    index = merged_index([entry], [replace(nydus.descriptor, artifact_type="", platform=platform)])

    assert index.manifests[1] == nydus.descriptor
    assert index.manifests[0].annotations == plain.descriptor.annotations
    assert index.media_type == media.OCI_INDEX
    assert index.manifests[0].digest == isolated.descriptor().digest


def test_the_empty_layer_is_an_empty_tar() -> None:
    plain = zlib.decompress(EMPTY_LAYER, wbits=31)

    assert plain == bytes(1024)
    assert Digest.of(plain) == EMPTY_LAYER_DIFF_ID
    assert str(Digest.of(EMPTY_LAYER)) == "sha256:4f4fb700ef54461cfa02571ae0db9a0dc1e0cdb5577484a6d75e68dc38e8acc1"


def test_an_isolated_image_is_not_isolated_again() -> None:
    source = Image("source", "latest")
    once = isolate(source.manifest, source.config, source.descriptor.digest)

    assert isolate(*once, once[0].descriptor().digest) == once


def test_entries_of_a_merged_index_must_have_a_platform() -> None:
    source = Image("source", "latest").descriptor
    plain = replace(source, platform=Platform("linux", "amd64"))
    bare = replace(source, platform=None)

    for entries in (([bare], [plain]), ([plain], [bare])):
        with pytest.raises(FormatError, match="no platform"):
            merged_index(*entries)
    with pytest.raises(FormatError, match="among the plain"):
        merged_index([replace(plain, artifact_type=media.NYDUS_ARTIFACT)], [plain])
    marked = merged_index([plain], [plain], os_feature=True).manifests[1]
    assert is_nydus(replace(marked, artifact_type=""))
    assert nydus_platform(nydus_platform(Platform("linux", "amd64"))).os_features == (media.NYDUS_OS_FEATURE,)


def test_without_blob_layers_the_history_stays_and_agrees_with_the_layers() -> None:
    source = Image("source", "latest")
    bootstrap = Digest.of(b"bootstrap")
    config = nydus_config(source.config, [], bootstrap)

    assert config.diff_ids == (bootstrap,)
    assert [item["created_by"] for item in config.history[:-1]] == [
        item["created_by"] for item in source.config.history
    ]
    assert [not item.get("empty_layer") for item in config.history].count(True) == 1


def test_ids_of_docker_parents_are_cleared() -> None:
    raw = Image("source", "latest").config_json
    raw |= {
        "config": {"Image": "sha256:1", "Cmd": ["x"]},
        "container_config": {"Image": "sha256:2"},
        "container": "abc",
    }
    config = nydus_config(ImageConfig.parse(json.dumps(raw).encode()), [], Digest.of(b""))

    assert config.raw["config"] == {"Image": "", "Cmd": ["x"]}
    assert config.raw["container_config"] == {"Image": ""}
    assert config.raw["container"] == "abc"


def test_a_bootstrap_of_an_unknown_version_is_not_assembled() -> None:
    source = Image("source", "latest")
    bootstrap = bootstrap_layer(Digest.of(b"x"), 1, "7")

    with pytest.raises(FormatError, match="fs-version"):
        nydus_manifest(source.manifest, source.manifest.config, [], bootstrap, {})


@pytest.mark.parametrize("name", ["v5", "v6-zstd", "v6-zran", "v6-docker-source", "v6-with-referrer", "v6-lz4-batch"])
def test_every_golden_image_passes_the_check(name: str) -> None:
    check_nydus_manifest(Image(name, name).manifest)
