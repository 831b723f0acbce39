"""`nydusify.convert` from one OCI layout to another: what the target image is, and what is refused."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from nydusify.build.options import BuildOptions
from nydusify.conversion.publish import ImageOptions
from nydusify.conversion.result import ConvertResult
from nydusify.convert import ConvertOptions, convert
from nydusify.digest import Digest
from nydusify.errors import DigestMismatch, FormatError, NotFound, NydusifyError, PlatformError, UnsupportedError
from nydusify.oci import media
from nydusify.oci.descriptor import Platform
from nydusify.oci.layout import LayoutRepository
from nydusify.oci.manifest import Index, Manifest
from nydusify.reports.dataset import read
from tests.archives import END, header
from tests.conversions import golden_image, image_of, layer, layout, plain_tar, read_image, store_index, stored
from tests.golden import golden_dir
from tests.layers import MERGED, SUFFIXES, expected
from tests.oci_images import SmallImage, contents
from tests.trees import ABOUT_THE_LAYER, differences

AMD64, ARM64, RISCV64 = (Platform("linux", name) for name in ("amd64", "arm64", "riscv64"))
VERSIONS = [6, 5]


def options(tmp_path: Path, version: int = 6, store: str = "store", **changes: object) -> ConvertOptions:
    """Options for an own store; ``changes`` are of `ConvertOptions` or `ImageOptions`."""
    known = ImageOptions.__dataclass_fields__
    image = {name: value for name, value in changes.items() if name in known}
    rest = {name: value for name, value in changes.items() if name not in known}
    made = ImageOptions(BuildOptions(version), **image)  # type: ignore[arg-type]
    return ConvertOptions(made, store=tmp_path / store, **rest)  # type: ignore[arg-type]


def origins(result: ConvertResult) -> list[str]:
    return [one.built.origin for one in result.layers]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MERGED)
def test_the_target_has_the_tree_that_unpackers_make_of_the_source(tmp_path: Path, name: str, version: int) -> None:
    source = stored(tmp_path / "source", golden_image(*MERGED[name]))
    result = convert(source, layout(tmp_path / "target"), options(tmp_path, version))
    target = LayoutRepository(tmp_path / "target")
    image = read_image(target, target.resolve("1"))

    assert differences(expected(name), image.tree, ABOUT_THE_LAYER) == []
    assert (image.manifest.descriptor().digest, result.verdict) == (result.target_digest, "verified")
    with_data = [blob.id for blob in image.bootstrap.blobs] if version == 6 else []
    assert list(image.members) == ["image", "image/image.boot", *(f"image/{blob}.blob.meta" for blob in with_data)]
    assert image.config.diff_ids == (*(blob.digest for blob in image.manifest.layers[:-1]), image.bootstrap_diff_id)
    assert len(image.blobs) == len(MERGED[name])


def test_one_image_gives_one_digest_whatever_the_jobs_the_store_or_the_kind_of_target(tmp_path: Path) -> None:
    source = stored(tmp_path / "source", golden_image(*MERGED["merged-small"]))
    digests = {
        convert(
            source, layout(tmp_path / f"target-{jobs}"), options(tmp_path, store=f"{jobs}", jobs=jobs)
        ).target_digest
        for jobs in (1, 2, 4)
    }
    archive = replace(layout(tmp_path / "target"), archive=str(tmp_path / "target.tar"))
    again = convert(source, archive, options(tmp_path, store="4"))

    assert digests == {again.target_digest}
    assert origins(again) == ["store"] * 3


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_of_the_target_are_used_without_the_source_or_a_store(tmp_path: Path, version: int) -> None:
    convert(
        stored(tmp_path / "source", golden_image("04-small", "07-tiny", "05-nodata")),
        layout(tmp_path / "target"),
        options(tmp_path, version),
    )
    changed = golden_image("04-small", "07-tiny", "06-upper")
    source = stored(tmp_path / "source", changed)
    whole = convert(source, layout(tmp_path / "whole"), options(tmp_path, version, store="fresh"))
    for lower in changed.manifest.layers[:2]:
        (tmp_path / "source/blobs/sha256" / lower.digest.hex).unlink()
    result = convert(source, layout(tmp_path / "target"), options(tmp_path, version, store="empty"))

    assert origins(whole) == ["built"] * 3
    assert origins(result) == ["target", "target", "built"]
    assert [one.built.pulled_size for one in result.layers] == [0, 0, changed.manifest.layers[2].size]
    assert result.target_digest == whole.target_digest


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_layer_that_the_target_only_claims_to_have_is_built(tmp_path: Path, damage: str) -> None:
    source = stored(tmp_path / "source", golden_image("07-tiny", "05-nodata"))
    first = convert(source, layout(tmp_path / "target"), options(tmp_path))
    blob = tmp_path / "target/blobs/sha256" / first.layers[0].built.facts.blob.hex
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(blob.read_bytes()[:-600])
    changed = stored(tmp_path / "source", golden_image("07-tiny", "06-upper"))
    result = convert(changed, layout(tmp_path / "target"), options(tmp_path, store="empty"))
    target = LayoutRepository(tmp_path / "target")

    assert origins(result) == ["built", "built"]
    found = contents(target, target.resolve("1"))
    assert all(digest == f"sha256:{actual}" for digest, actual in found.items())
    assert str(first.layers[0].built.facts.blob) in found


def test_other_options_do_not_use_the_layers_that_are_there(tmp_path: Path) -> None:
    source = stored(tmp_path / "source", golden_image("07-tiny"))
    six = convert(source, layout(tmp_path / "target"), options(tmp_path))
    five = convert(source, layout(tmp_path / "target"), options(tmp_path, 5))

    assert (origins(six), origins(five)) == (["built"], ["built"])
    assert six.target_digest != five.target_digest


def test_all_platforms_are_converted_and_attestations_are_left_out(tmp_path: Path) -> None:
    index = store_index(LayoutRepository(tmp_path / "source"), "1", "amd64", "arm64")
    result = convert(
        layout(tmp_path / "source"), layout(tmp_path / "target"), options(tmp_path, all_platforms=True, jobs=2)
    )
    target = LayoutRepository(tmp_path / "target")
    made = Index.parse(target.read_manifest(target.resolve("1")))

    assert result.target_media_type == made.media_type == media.OCI_INDEX
    assert [entry.platform for entry in made.manifests] == [AMD64, ARM64]
    assert len(index.manifests) == 4
    for entry, names in zip(made.manifests, [("07-tiny", "05-nodata"), ("07-tiny", "06-upper")], strict=True):
        image = read_image(target, entry)
        assert image.config.platform == entry.platform
        sources = [blob.annotations[media.ANNOTATION_SOURCE_DIGEST] for blob in image.manifest.layers[:-1]]
        assert sources == [str(Digest.of(layer(name)[0])) for name in names]


def test_platforms_are_taken_in_the_order_that_is_asked_for_and_one_is_a_single_manifest(tmp_path: Path) -> None:
    source = layout(tmp_path / "source")
    index = store_index(LayoutRepository(tmp_path / "source"), "1", "amd64", "arm64", "riscv64")
    two = convert(source, layout(tmp_path / "target"), options(tmp_path, platforms=(RISCV64, AMD64)))
    one = convert(source, layout(tmp_path / "target", "one"), options(tmp_path, platforms=(ARM64,)))
    target = LayoutRepository(tmp_path / "target")

    made = Index.parse(target.read_manifest(target.resolve("1")))
    assert [entry.platform for entry in made.manifests] == [RISCV64, AMD64]
    assert [image.entry.digest for image in two.images] == [entry.digest for entry in made.manifests]
    assert (one.target_media_type, one.source_digest) == (media.OCI_MANIFEST, index.descriptor().digest)
    assert read_image(target, target.resolve("one")).config.platform == ARM64


def test_a_missing_platform_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    store_index(LayoutRepository(tmp_path / "source"), "1", "amd64", "arm64")
    single = stored(tmp_path / "single", golden_image("07-tiny"))
    for source in (layout(tmp_path / "source"), single):
        with pytest.raises(PlatformError, match="linux/riscv64"):
            convert(source, layout(tmp_path / "target"), options(tmp_path, platforms=(AMD64, RISCV64)))

    assert not (tmp_path / "target").exists()


def test_a_merged_index_has_the_plain_images_beside_the_nydus_ones(tmp_path: Path) -> None:
    source = store_index(LayoutRepository(tmp_path / "source"), "1", "amd64", "arm64")
    merged = options(tmp_path, all_platforms=True, merge_platform=True)
    result = convert(layout(tmp_path / "source"), layout(tmp_path / "target"), merged)
    again = convert(layout(tmp_path / "source"), layout(tmp_path / "target"), merged)
    target = LayoutRepository(tmp_path / "target")
    root = target.resolve("1")
    entries = Index.parse(target.read_manifest(root)).manifests

    assert [entry.platform for entry in entries] == [AMD64, ARM64] * 2
    assert [entry.artifact_type for entry in entries] == ["", "", media.NYDUS_ARTIFACT, media.NYDUS_ARTIFACT]
    marks = [entry.annotations[media.ANNOTATION_SOURCE_DIGEST] for entry in entries[:2]]
    assert marks == [str(entry.digest) for entry in source.manifests[:2]]
    kinds = {Manifest.parse(target.read_manifest(entry)).config.media_type for entry in entries[2:]}
    assert kinds == {media.NYDUS_CONFIG}
    found = contents(target, root)
    assert all(digest == f"sha256:{actual}" for digest, actual in found.items())
    layers = {str(Digest.of(layer(name)[0])) for name in ("07-tiny", "05-nodata", "06-upper")}
    assert found.keys() >= layers | {str(one.built.facts.blob) for one in result.layers}
    assert (again.unchanged, again.target_digest) == (True, root.digest)


@pytest.mark.parametrize("oci", [False, True])
def test_a_docker_image_stays_one_unless_told_otherwise(tmp_path: Path, oci: bool) -> None:
    repository = LayoutRepository(tmp_path / "source")
    store_index(repository, "index", "amd64", "arm64", docker=True)
    single = stored(tmp_path / "source", golden_image("07-tiny", docker=True))
    one = convert(single, layout(tmp_path / "target"), options(tmp_path, oci=oci))
    several = convert(
        layout(tmp_path / "source", "index"),
        layout(tmp_path / "target", "index"),
        options(tmp_path, oci=oci, all_platforms=True),
    )
    target = LayoutRepository(tmp_path / "target")
    manifest = read_image(target, target.resolve("1")).manifest

    types = (one.target_media_type, several.target_media_type, several.images[0].entry.media_type)
    parts = (manifest.config.media_type, *(part.media_type for part in manifest.layers))
    if oci:
        assert types == (media.OCI_MANIFEST, media.OCI_INDEX, media.OCI_MANIFEST)
        assert parts == (media.OCI_CONFIG, media.NYDUS_BLOB, media.OCI_LAYER_GZIP)
    else:
        assert types == (media.DOCKER_MANIFEST, media.DOCKER_INDEX, media.DOCKER_MANIFEST)
        assert parts == (media.DOCKER_CONFIG, media.NYDUS_BLOB, media.DOCKER_LAYER_GZIP)


def test_a_source_layer_in_the_store_is_not_pulled_again(tmp_path: Path) -> None:
    image = golden_image("07-tiny")
    source = stored(tmp_path / "source", image)
    convert(source, layout(tmp_path / "merged"), options(tmp_path, merge_platform=True))
    (tmp_path / "source/blobs/sha256" / image.manifest.layers[0].digest.hex).unlink()
    result = convert(source, layout(tmp_path / "target"), options(tmp_path, 5))

    assert [(one.built.origin, one.built.pulled_size) for one in result.layers] == [("built", 0)]


def test_a_blob_that_is_gone_from_the_store_is_looked_for_at_the_target_or_built(tmp_path: Path) -> None:
    source = stored(tmp_path / "source", golden_image("07-tiny"))
    first = convert(source, layout(tmp_path / "target"), options(tmp_path))
    (tmp_path / "store/blobs/sha256" / first.layers[0].built.facts.blob.hex).unlink()
    there = convert(source, layout(tmp_path / "target"), options(tmp_path, prefetch=()))
    elsewhere = convert(source, layout(tmp_path / "elsewhere"), options(tmp_path))

    assert (origins(there), there.layers[0].pushed_size) == (["store"], 0)
    assert (origins(elsewhere), elsewhere.target_digest) == (["built"], first.target_digest)


def refused(
    tmp_path: Path, image: SmallImage, error: type[NydusifyError], damage: bytes | None = None
) -> NydusifyError:
    """Convert ``image``, whose last layer lies there as ``damage``, onto a tag that exists and one that does not."""
    good = convert(stored(tmp_path / "good", golden_image("05-nodata")), layout(tmp_path / "target"), options(tmp_path))
    source = stored(tmp_path / "source", image)
    if damage is not None:
        (tmp_path / "source/blobs/sha256" / image.manifest.layers[-1].digest.hex).write_bytes(damage)
    target = LayoutRepository(tmp_path / "target")
    reports = str(tmp_path / "reports")
    for tag in ("1", "2"):
        with pytest.raises(error) as raised:
            convert(source, layout(tmp_path / "target", tag), options(tmp_path, reports=reports))
    assert target.resolve("1").digest == good.target_digest
    with pytest.raises(NotFound):
        target.resolve("2")
    rows = read("conversions", reports).to_pylist()
    assert [(row["verdict"], row["error_class"]) for row in rows] == [("failed", raised.type.__name__)] * 2
    assert {row["error_message"] for row in rows} == {str(raised.value)}
    assert {row["target_digest"] for row in rows} == {None}
    return raised.value


@pytest.mark.parametrize("known", [False, True])
def test_a_wrong_diff_id_is_found(tmp_path: Path, known: bool) -> None:
    layers = [layer("07-tiny"), layer("05-nodata")]
    if known:  # what is in the store from an image that told the truth is no excuse
        convert(stored(tmp_path / "right", image_of(*layers)), layout(tmp_path / "first"), options(tmp_path))
    wrong = [Digest.of(plain_tar(*layers[0])), Digest.of(b"another tar")]

    refused(tmp_path, image_of(*layers, diff_ids=wrong), DigestMismatch)


def test_a_wrong_diff_id_is_found_though_the_target_has_the_layers(tmp_path: Path) -> None:
    layers = [layer("07-tiny"), layer("05-nodata")]
    target = layout(tmp_path / "target")
    right = convert(stored(tmp_path / "right", image_of(*layers)), target, options(tmp_path, store=tmp_path / "one"))
    swapped = image_of(*layers, diff_ids=[Digest.of(plain_tar(*one)) for one in reversed(layers)])

    with pytest.raises(DigestMismatch):
        convert(stored(tmp_path / "wrong", swapped), target, options(tmp_path, store=tmp_path / "two"))

    assert LayoutRepository(tmp_path / "target").resolve("1").digest == right.target_digest


@pytest.mark.parametrize("damage", ["time stamp", "data", "cut", "longer"])
def test_a_layer_that_is_not_what_the_manifest_says_is_found(tmp_path: Path, damage: str) -> None:
    image = golden_image("07-tiny")
    content = image.blobs[image.manifest.layers[0].digest]
    changed = {
        "time stamp": content[:4] + bytes([content[4] ^ 1]) + content[5:],
        "data": content[:4000] + bytes([content[4000] ^ 1]) + content[4001:],
        "cut": content[:4000],
        "longer": content + gzip.compress(b"", mtime=0),
    }[damage]

    refused(tmp_path, image, DigestMismatch if damage == "time stamp" else FormatError, changed)


def test_a_layer_of_a_kind_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    image = golden_image("05-nodata", "07-tiny")
    odd = replace(image.manifest.layers[1], media_type="application/vnd.test.layer+lzip")
    manifest = replace(image.manifest, layers=(image.manifest.layers[0], odd))

    assert "lzip" in str(refused(tmp_path, SmallImage(manifest, image.blobs), UnsupportedError))


def test_a_nydus_image_is_not_converted_again(tmp_path: Path) -> None:
    source = stored(tmp_path / "source", golden_image("07-tiny"))
    convert(source, layout(tmp_path / "target"), options(tmp_path))

    with pytest.raises(UnsupportedError, match="is a Nydus image already"):
        convert(layout(tmp_path / "target"), layout(tmp_path / "twice"), options(tmp_path))
    assert not (tmp_path / "twice").exists()


def test_a_hostile_layer_above_a_good_one_leaves_nothing_under_the_tag(tmp_path: Path) -> None:
    link = header(b"passwd", b"1", mode=b"0000644", size=b"0", link=b"../../etc/passwd") + END

    refused(tmp_path, image_of(layer("07-tiny"), (link, "none")), FormatError)


@pytest.mark.parametrize("file", ["tar-name-nul.tar", "tar-pax-hdr-1g.tar", "gz-crc.tar.gz", "zst-window.tar.zst"])
def test_damaged_layers_of_the_golden_set_leave_nothing_under_the_tag(tmp_path: Path, file: str) -> None:
    path = golden_dir() / "should-fail" / file
    damaged = (path.read_bytes(), SUFFIXES[path.suffix])
    image = image_of(layer("05-nodata"), damaged, diff_ids=[Digest.of(plain_tar(*layer("05-nodata"))), Digest.of(b"")])

    refused(tmp_path, image, FormatError)


def test_rows_say_what_was_pulled_reused_built_and_pushed(tmp_path: Path) -> None:
    reports = str(tmp_path / "reports")
    image = golden_image("04-small", "07-tiny")
    source = stored(tmp_path / "source", image)
    first = convert(source, layout(tmp_path / "target"), options(tmp_path, reports=reports))
    convert(source, layout(tmp_path / "target"), options(tmp_path, reports=reports))
    convert(source, layout(tmp_path / "other"), options(tmp_path, reports=reports, verify=False))
    rows = sorted(read("conversions", reports).to_pylist(), key=lambda row: row["started_at"])
    layers = read("layers", reports).to_pylist()

    compressed = sum(one.size for one in image.manifest.layers)
    blobs = sum(one.built.facts.blob_size for one in first.layers)
    assert [row["verdict"] for row in rows] == ["verified", "unchanged", "unverified"]
    assert [row["source_bytes"] for row in rows] == [compressed] * 3
    assert [row["pulled_bytes"] for row in rows] == [compressed, 0, 0]
    assert [row["reused_bytes"] for row in rows] == [0, 0, compressed]
    assert [row["built_bytes"] for row in rows] == [blobs, 0, 0]
    manifest = first.images[0].entry.size
    assert [row["pushed_bytes"] for row in rows] == [first.target_size + manifest, 0, first.target_size + manifest]
    assert {row["target_digest"] for row in rows} == {str(first.target_digest)}
    assert [row["reused_layers"] for row in rows] == [0, 2, 2]
    for row in rows:
        mine = sorted((one for one in layers if one["run_id"] == row["run_id"]), key=lambda one: one["layer_index"])
        assert sum(one["pulled_bytes"] for one in mine) == row["pulled_bytes"]
        assert [one["layer_digest"] for one in mine] in ([], [str(one.digest) for one in image.manifest.layers])
        assert all(one["pushed_bytes"] == one["blob_bytes"] for one in mine)
