"""Platforms are compared in normal form, and a missing one is an error that names those there are."""

from dataclasses import replace

import pytest

from nydusify.digest import Digest
from nydusify.errors import PlatformError, UsageError
from nydusify.oci import media
from nydusify.oci.descriptor import Descriptor, Platform
from nydusify.oci.manifest import Index
from nydusify.oci.platform import (
    check_platform,
    host_platform,
    is_attestation,
    is_nydus,
    parse_platform,
    parse_platforms,
    select,
)


def entry(name: str, platform: str | None, **fields: object) -> Descriptor:
    parts = platform.split("/") if platform else []
    made = Descriptor(media.OCI_MANIFEST, Digest.of(name.encode()), 1, platform=Platform(*parts) if parts else None)
    return replace(made, **fields)  # type: ignore[arg-type]


AMD64 = entry("amd64", "linux/amd64")
ARM64 = entry("arm64", "linux/arm64/v8")
ARMV7 = entry("armv7", "linux/arm/v7")
ATTESTATION = entry("sbom", "unknown/unknown", annotations={media.ANNOTATION_REFERENCE_TYPE: "attestation-manifest"})
NYDUS = entry("nydus", "linux/amd64", artifact_type=media.NYDUS_ARTIFACT)
BARE = entry("bare", None)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AMD64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/9", "linux/arm64/v9"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
        ("linux/s390x", "linux/s390x"),
        ("macos/arm64", "darwin/arm64"),
    ],
)
def test_a_platform_has_one_normal_form(text: str, normal: str) -> None:
    assert str(parse_platform(text)) == normal


@pytest.mark.parametrize(
    "text", ["", "linux", "linux/", "/amd64", "linux/amd64/v1/x", "li nux/amd64", "linux/*", "a,b"]
)
def test_a_malformed_platform_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid platform"):
        parse_platform(text)


def test_a_list_of_platforms_names_each_once() -> None:
    assert [str(item) for item in parse_platforms("linux/amd64, linux/arm64/v8,linux/x86_64")] == [
        "linux/amd64",
        "linux/arm64",
    ]
    assert parse_platform("windows(10.0.1)/amd64").os_version == "10.0.1"


def test_the_host_is_linux_of_a_known_processor() -> None:
    assert host_platform() == parse_platform(str(host_platform()))
    assert host_platform().os == "linux"


def test_wanted_platforms_are_found_in_the_order_of_the_wish() -> None:
    index = Index((AMD64, ARM64, ARMV7, ATTESTATION))

    assert select(index, parse_platforms("linux/arm64,linux/amd64")) == [ARM64, AMD64]
    assert select(index, [Platform("linux", "arm")]) == [ARMV7]


def test_a_missing_platform_is_an_error_that_names_what_there_is() -> None:
    with pytest.raises(PlatformError, match=r"no platform linux/s390x; it has linux/amd64, linux/arm64/v8") as caught:
        select(Index((AMD64, ARM64, ATTESTATION)), parse_platforms("linux/amd64,linux/s390x"))
    assert "unknown" not in str(caught.value)
    with pytest.raises(PlatformError, match="it has none"):
        select(Index(()), [Platform("linux", "amd64")])


def test_a_variant_is_not_exchanged_for_another() -> None:
    with pytest.raises(PlatformError):
        select(Index((ARMV7,)), [Platform("linux", "arm", "v6")])


def test_all_platforms_leaves_attestations_out_and_keeps_entries_without_platform() -> None:
    assert select(Index((AMD64, ATTESTATION, BARE)), None) == [AMD64, BARE]
    with pytest.raises(PlatformError, match="no image"):
        select(Index((ATTESTATION,)), None)


def test_an_entry_without_platform_is_looked_up() -> None:
    found = select(Index((BARE,)), [Platform("linux", "amd64")], lambda _: Platform("linux", "amd64"))

    assert [item.digest for item in found] == [BARE.digest]
    assert str(found[0].platform) == "linux/amd64"
    with pytest.raises(PlatformError, match="one without a platform"):
        select(Index((BARE,)), [Platform("linux", "amd64")], lambda _: None)


def test_a_merged_index_is_a_source_for_its_plain_images() -> None:
    assert select(Index((AMD64, NYDUS)), None) == [AMD64]
    assert select(Index((NYDUS, AMD64)), [Platform("linux", "amd64")]) == [AMD64]
    assert select(Index((ARM64, NYDUS)), None) == [ARM64, NYDUS]


def test_marks_of_nydus_and_attestation_entries() -> None:
    feature = Platform("linux", "amd64", os_features=(media.NYDUS_OS_FEATURE,))

    assert is_nydus(NYDUS)
    assert is_nydus(replace(AMD64, platform=feature))
    assert not is_nydus(AMD64)
    assert is_attestation(ATTESTATION)
    assert is_attestation(entry("x", "unknown/unknown"))
    assert not is_attestation(AMD64)


def test_a_single_image_must_be_of_every_wanted_platform() -> None:
    check_platform(Platform("linux", "arm64", "v8"), [Platform("linux", "arm64")])
    check_platform(Platform("linux", "arm64"), None)
    with pytest.raises(PlatformError, match="no platform linux/amd64"):
        check_platform(Platform("linux", "arm64"), [Platform("linux", "amd64")])
