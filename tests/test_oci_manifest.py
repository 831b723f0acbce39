"""Manifests, indexes and configs from strangers are read whole or refused; what is written is always the same."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nydusify.digest import Digest
from nydusify.errors import FormatError, NotFound, UnsupportedError
from nydusify.oci import media
from nydusify.oci.archive import ArchiveRepository
from nydusify.oci.manifest import ImageConfig, Index, Manifest, parse_manifest
from nydusify.oci.nydus import check_nydus_config, check_nydus_manifest
from tests.golden import golden_dir

DIGEST = "sha256:" + "ab" * 32
CONFIG = {"mediaType": media.OCI_CONFIG, "digest": DIGEST, "size": 2}
LAYER = {"mediaType": media.OCI_LAYER_GZIP, "digest": DIGEST, "size": 3}
GOOD: dict[str, Any] = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}
NEEDS_CONTENT = ("manifest-bootstrap-size.json", "manifest-digest-wrong.json", "manifest-config-digest.json")


def should_fail(kind: str) -> list[str]:
    index = Path(golden_dir()) / "should-fail" / "index.json"
    return [Path(entry["file"]).name for entry in json.loads(index.read_text()) if entry["kind"] == kind]


def read(name: str) -> bytes:
    return (golden_dir() / "should-fail" / name).read_bytes()


def check_image(manifest: bytes, config: ImageConfig) -> None:
    parsed = Manifest.parse(manifest)
    check_nydus_manifest(parsed)
    check_nydus_config(parsed, config, config.diff_ids[-1])


def read_whole(manifest: Manifest, repository: ArchiveRepository) -> None:
    for blob in (manifest.config, *manifest.layers):
        for _ in repository.open_blob(blob):
            pass


def test_every_damaged_golden_manifest_is_refused() -> None:
    config = ImageConfig.parse(read("good/config.json"))
    check_image(read("good/manifest.json"), config)
    names = [name for name in should_fail("manifest") if name not in NEEDS_CONTENT]
    assert len(names) > 20
    for name in names:
        with pytest.raises(FormatError) as caught:
            check_image(read(name), config)
        assert len(str(caught.value)) < 400, name


@pytest.mark.parametrize("name", NEEDS_CONTENT)
def test_a_manifest_that_promises_other_content_fails_when_it_is_read(name: str) -> None:
    repository = ArchiveRepository(golden_dir() / "images" / "v6-zstd.oci.tar")
    read_whole(Manifest.parse(read("good/manifest.json")), repository)

    with pytest.raises((FormatError, NotFound)):
        read_whole(Manifest.parse(read(name)), repository)


def test_every_damaged_golden_config_is_refused() -> None:
    manifest = Manifest.parse(read("good/manifest.json"))
    last = ImageConfig.parse(read("good/config.json")).diff_ids[-1]
    names = should_fail("config")
    assert len(names) >= 5
    for name in names:
        with pytest.raises(FormatError):
            check_nydus_config(manifest, ImageConfig.parse(read(name)), last)


def test_a_manifest_is_written_in_one_order_and_keeps_unknown_fields() -> None:
    scrambled = {
        "zzz": {"a": [1, 2.5, None]},
        "annotations": {"b": "<&>", "a": "é"},
        "subject": {**LAYER, "mediaType": media.OCI_MANIFEST},
        "layers": [{"annotations": {"k": "v"}, "urls": ["https://x.test"], **LAYER, "new": 1, "data": "e30="}],
        "config": CONFIG,
        "artifactType": "application/x",
        "mediaType": media.OCI_MANIFEST,
        "schemaVersion": 2,
    }
    written = Manifest.parse(json.dumps(scrambled).encode()).to_bytes()

    assert json.loads(written) == scrambled
    assert list(json.loads(written)) == [
        *("schemaVersion", "mediaType", "artifactType", "config", "layers", "subject", "annotations", "zzz"),
    ]
    assert list(json.loads(written)["layers"][0]) == [
        "mediaType",
        "digest",
        "size",
        "urls",
        "annotations",
        "data",
        "new",
    ]
    assert b'{"a":"\xc3\xa9","b":"<&>"}' in written
    assert Manifest.parse(written).to_bytes() == written


def test_an_index_keeps_platforms_and_its_descriptor_is_that_of_its_bytes() -> None:
    platform = {"architecture": "arm", "os": "linux", "os.version": "1", "os.features": ["f"], "variant": "v7"}
    entry = {"mediaType": media.OCI_MANIFEST, "digest": DIGEST, "size": 5, "platform": platform, "artifactType": "a/b"}
    source = {"schemaVersion": 2, "mediaType": media.DOCKER_INDEX, "manifests": [entry]}
    data = json.dumps(source, separators=(",", ":")).encode()
    index = Index.parse(data)

    assert index.to_bytes() == data
    assert index.descriptor().digest == Digest.of(data)
    assert index.descriptor().size == len(data)
    assert index.descriptor().media_type == media.DOCKER_INDEX
    assert str(index.manifests[0].platform) == "linux/arm/v7"


@pytest.mark.parametrize(
    "change",
    [
        {"schemaVersion": True},
        {"schemaVersion": "2"},
        {"schemaVersion": None},
        {"mediaType": 5},
        {"mediaType": media.OCI_INDEX},
        {"mediaType": "nonsense"},
        {"config": None},
        {"config": []},
        {"config": {**CONFIG, "size": True}},
        {"config": {**CONFIG, "size": 2.0}},
        {"config": {**CONFIG, "size": 1 << 62}},
        {"config": {**CONFIG, "mediaType": ""}},
        {"layers": {}},
        {"layers": [LAYER, 7]},
        {"layers": [{**LAYER, "digest": "sha256:../../x"}]},
        {"layers": [{**LAYER, "annotations": {"a": 1}}]},
        {"layers": [{**LAYER, "platform": "linux"}]},
        {"layers": [{**LAYER, "platform": {"os": 1}}]},
        {"annotations": ["a"]},
        {"subject": "x"},
        {"artifactType": 1},
        {"manifests": []},
        {"extra": "\ud800"},
    ],
)
def test_a_manifest_with_one_wrong_field_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        Manifest.parse(json.dumps({**GOOD, **change}).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"\xff\xfe",
        b'{"schemaVersion":2,"schemaVersion":2}',
        b'{"schemaVersion":NaN}',
        b'{"schemaVersion":1e999}',
        b'{"schemaVersion":' + b"9" * 5000 + b"}",
        b"[" * 200_000,
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b" " * (4 << 20) + b"{}",
    ],
)
def test_bytes_that_are_no_sound_json_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Manifest.parse(data)


@pytest.mark.parametrize(
    "document",
    [
        {"schemaVersion": 1, "name": "app", "fsLayers": []},
        {"schemaVersion": 2, "mediaType": media.DOCKER_SCHEMA1_SIGNED},
    ],
)
def test_a_docker_schema_1_manifest_gets_advice(document: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="schema 1") as caught:
        parse_manifest(json.dumps(document).encode(), str(document.get("mediaType", "")))

    assert "push it again" in str(caught.value.advice)


def test_a_manifest_that_came_under_another_type_is_refused() -> None:
    with pytest.raises(FormatError, match="came as"):
        Manifest.parse(json.dumps(GOOD).encode(), media.DOCKER_MANIFEST)


def test_a_manifest_without_a_type_takes_the_one_it_came_under() -> None:
    bare = {key: value for key, value in GOOD.items() if key != "mediaType"}

    assert parse_manifest(json.dumps(bare).encode(), media.DOCKER_MANIFEST).media_type == media.DOCKER_MANIFEST
    assert parse_manifest(json.dumps(bare).encode()).media_type == media.OCI_MANIFEST
    assert isinstance(parse_manifest(b'{"schemaVersion":2,"manifests":[]}'), Index)


def test_a_config_keeps_everything_it_is_not_asked_to_change() -> None:
    source = {
        "os": "linux",
        "future": {"x": [1, None, 1.5]},
        "architecture": "arm64",
        "variant": "v8",
        "config": {"Cmd": ["a"], "ExposedPorts": {"80/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": [DIGEST], "more": 1},
        "history": [{"created_by": "x", "weird": True}],
    }
    config = ImageConfig.parse(json.dumps(source).encode())

    assert str(config.platform) == "linux/arm64/v8"
    assert json.loads(config.to_bytes()) == source
    assert list(json.loads(config.to_bytes())) == list(source)
    changed = json.loads(config.with_layers((), ()).to_bytes())
    assert changed == {**source, "rootfs": {"type": "layers", "diff_ids": [], "more": 1}, "history": []}


def test_layer_types_tell_their_compression_and_others_are_refused() -> None:
    assert media.compression_of(media.DOCKER_FOREIGN_GZIP) == "gzip"
    assert media.compression_of(media.OCI_NONDISTRIBUTABLE_ZSTD) == "zstd"
    assert media.compression_of(media.OCI_LAYER) == "none"
    with pytest.raises(UnsupportedError, match="nydus"):
        media.compression_of(media.NYDUS_BLOB)
    with pytest.raises(UnsupportedError) as caught:
        media.compression_of(media.OCI_LAYER_GZIP + "+encrypted")
    assert "decrypt" in str(caught.value.advice)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.sampled_from([DIGEST, LAYER]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, *LAYER, "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "manifests", "subject", "annotations", "artifactType"]), json_values))
def test_any_json_is_a_manifest_or_a_format_error(changes: dict[str, Any]) -> None:
    data = json.dumps({**GOOD, **changes}).encode()
    try:
        manifest = parse_manifest(data)
    except FormatError:
        return
    assert type(manifest).parse(manifest.to_bytes()) == manifest


@given(st.binary(max_size=60) | st.binary(max_size=20).map(lambda tail: json.dumps(GOOD).encode()[:-20] + tail))
def test_any_bytes_are_a_manifest_or_a_format_error(data: bytes) -> None:
    for parse in (Manifest.parse, Index.parse, ImageConfig.parse, parse_manifest):
        try:
            parse(data)
        except FormatError:
            continue
