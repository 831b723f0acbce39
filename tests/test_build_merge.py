"""Layers on top of each other: the image's tree, chunk table and prefetch table."""

import copy

import numpy as np
import pytest

from nydusify.build.merge import merge_layers
from nydusify.build.options import BuildOptions
from nydusify.errors import FormatError
from nydusify.rafs.reader import read_bootstrap
from nydusify.rafs.spec import BlobFeature, Compressor, Digester
from nydusify.rafs.writer import write_bootstrap
from tests.archives import make_tar
from tests.layers import COMPRESSORS, MERGED, Built, blobs_of, build, build_bytes, expected, merge
from tests.trees import ABOUT_THE_LAYER, BlobContent, Tree, differences, tree_of

VERSIONS = [6, 5]


def layers_of(image: str, version: int, compressor: Compressor = Compressor.ZSTD, **options: int) -> list[Built]:
    return [build(name, BuildOptions(version, compressor, **options)) for name in MERGED[image]]  # type: ignore[arg-type]


def image_tree(*layers: bytes, version: int = 6) -> Tree:
    """The tree of the image whose layers are these plain archives, read back from the image's bootstrap."""
    built = [build_bytes(layer, BuildOptions(version)) for layer in layers]
    image = read_bootstrap(write_bootstrap(merge(built)))
    return tree_of(image, BlobContent(image, blobs_of(built)))


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda value: value.name)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("image", MERGED)
def test_a_merged_image_is_what_unpackers_make_of_its_layers(image: str, version: int, compressor: Compressor) -> None:
    layers = layers_of(image, version, compressor)
    merged = merge(layers)
    read = read_bootstrap(write_bootstrap(merged))

    for bootstrap in (merged, read):
        tree = tree_of(bootstrap, BlobContent(bootstrap, blobs_of(layers)))
        assert differences(expected(image), tree, ABOUT_THE_LAYER) == []
    assert all(inode.get("lower_link") is None for inode in tree_of(read).values())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "options", [{"chunk_size": 4096}, {"digester": Digester.SHA256}, {"chunk_size": 1 << 16, "aligned": True}]
)
@pytest.mark.parametrize("image", ["merged-small", "merged-full"])
def test_a_merged_image_is_right_with_other_options_too(image: str, version: int, options: dict[str, int]) -> None:
    layers = layers_of(image, version, **options)
    read = read_bootstrap(write_bootstrap(merge(layers)))

    assert differences(expected(image), tree_of(read, BlobContent(read, blobs_of(layers))), ABOUT_THE_LAYER) == []
    assert (read.chunk_size, read.digester) == (options.get("chunk_size", 1 << 20), options.get("digester", 0))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("image", MERGED)
def test_bootstraps_that_were_read_merge_to_the_same_bytes_as_those_in_memory(image: str, version: int) -> None:
    layers = layers_of(image, version, chunk_size=4096)
    in_memory = merge_layers([copy.deepcopy(layer.bootstrap) for layer in layers], [b"/"])

    assert write_bootstrap(merge(layers, [b"/"])) == write_bootstrap(in_memory)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("image", MERGED)
def test_a_bootstrap_that_is_read_and_written_again_keeps_its_tree_and_tables(image: str, version: int) -> None:
    merged = merge(layers_of(image, version), [b"/"])
    first = read_bootstrap(write_bootstrap(merged))
    second = read_bootstrap(write_bootstrap(first))

    assert differences(tree_of(merged), tree_of(first)) == []
    assert first.blobs == second.blobs == merged.blobs
    assert (first.prefetch, first.flags) == (second.prefetch, second.flags)
    assert first.prefetch == ([b"/"] if merged.blobs or version == 5 else [])
    assert np.array_equal(first.chunks, second.chunks)
    assert write_bootstrap(first) == write_bootstrap(second)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_chunk_that_two_layers_hold_is_taken_from_the_lower_one(version: int) -> None:
    same, other = bytes(range(256)) * 40, b"other" * 999
    lower = build_bytes(make_tar(("file", "a", same)), BuildOptions(version))
    upper = build_bytes(make_tar(("file", "b", same), ("file", "c", other)), BuildOptions(version))
    read = read_bootstrap(write_bootstrap(merge([lower, upper])))
    children = read.root.children
    assert children is not None

    assert list(children[b"a"].chunks) == list(children[b"b"].chunks)
    assert [int(blob) for blob in read.chunks["blob"]] == [0, 1]
    assert [blob.id for blob in read.blobs] == [lower.facts.blob.hex, upper.facts.blob.hex]


@pytest.mark.parametrize("version", VERSIONS)
def test_no_chunk_of_an_image_is_in_its_table_twice(version: int) -> None:
    layers = layers_of("merged-small", version, chunk_size=4096)
    chunks = read_bootstrap(write_bootstrap(merge(layers))).chunks
    separate = [row["digest"].tobytes() for layer in layers for row in layer.read().chunks]

    assert len(set(separate)) < len(separate)
    assert len({row["digest"].tobytes() for row in chunks}) == len(chunks)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_blob_that_no_file_needs_is_not_in_the_table(version: int) -> None:
    hidden = build_bytes(make_tar(("file", "a", b"old")), BuildOptions(version))
    upper = build_bytes(make_tar(("file", "a", b"new")), BuildOptions(version))
    image = merge([hidden, upper])

    assert [blob.id for blob in image.blobs] == [upper.facts.blob.hex]
    assert BlobFeature.INLINED_FS_META not in image.blobs[0].features
    assert tree_of(read_bootstrap(write_bootstrap(image)), None)["/a"]["size"] == 3


def test_v6_layers_of_different_compressors_merge() -> None:
    layers = [build("04-small", BuildOptions(6, Compressor.LZ4_BLOCK)), build("06-upper", BuildOptions(6))]
    read = read_bootstrap(write_bootstrap(merge(layers)))

    tree = tree_of(read, BlobContent(read, blobs_of(layers)))
    assert differences(expected("merged-small-upper"), tree, ABOUT_THE_LAYER) == []
    assert [blob.compressor for blob in read.blobs] == [Compressor.LZ4_BLOCK, Compressor.ZSTD]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (BuildOptions(6), BuildOptions(5)),
        (BuildOptions(6), BuildOptions(6, chunk_size=4096)),
        (BuildOptions(5), BuildOptions(5, digester=Digester.SHA256)),
    ],
)
def test_layers_that_do_not_fit_together_are_refused(first: BuildOptions, second: BuildOptions) -> None:
    with pytest.raises(FormatError, match="cannot be merged"):
        merge([build("07-tiny", first), build("05-nodata", second)])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ([b"/"], [b"/"]),
        ([b"/", b"/bin"], [b"/"]),
        ([b"/etc", b"/bin/tool", b"/etc/below"], [b"/etc", b"/bin/tool"]),
        ([b"/bin/tool", b"/bin"], [b"/bin/tool", b"/bin"]),
        ([b"/etcetera", b"/no/such", b"/bin/"], [b"/bin"]),
        ([], []),
    ],
)
def test_the_prefetch_table_has_the_paths_that_exist(version: int, wanted: list[bytes], found: list[bytes]) -> None:
    image = merge(layers_of("merged-small", version), wanted)

    assert read_bootstrap(write_bootstrap(image)).prefetch == found


@pytest.mark.parametrize("version", VERSIONS)
def test_a_path_that_is_named_twice_is_prefetched_once(version: int) -> None:
    once, twice = (merge(layers_of("merged-small", version), [b"/bin"] * count) for count in (1, 2))

    assert write_bootstrap(once) == write_bootstrap(twice)


@pytest.mark.parametrize("version", VERSIONS)
def test_whiteouts_remove_what_lower_layers_have_and_nothing_of_their_own(version: int) -> None:
    lower = make_tar(("dir", "d", ""), ("file", "d/old", b"1"), ("file", "gone", b"2"), ("file", ".wh.odd", b""))
    upper = make_tar(
        ("file", "d/new", b"3"), ("file", "d/.wh..wh..opq", b""), ("file", ".wh.gone", b""), ("file", ".wh.never", b"")
    )

    assert set(image_tree(lower, upper, version=version)) == {"/", "/d", "/d/new"}


def test_a_file_and_its_whiteout_in_one_layer_replace_the_lower_file() -> None:
    lower, upper = (
        make_tar(("dir", "a", ""), ("file", "a/x", b"1")),
        make_tar(("file", "a", b"2"), ("file", ".wh.a", b"")),
    )

    assert image_tree(lower, upper)["/a"]["type"] == "file"
    assert set(image_tree(lower, upper)) == {"/", "/a"}


@pytest.mark.parametrize("version", VERSIONS)
def test_whiteouts_below_what_the_layer_itself_puts_in_place_of_a_directory_do_nothing(version: int) -> None:
    """umoci writes one for every child of a directory that was replaced by a symlink or a file."""
    lower = make_tar(
        ("dir", "srv", ""), ("dir", "srv/link", ""), ("file", "srv/link/file", b"1"), ("dir", "srv/file", ""),
        ("file", "srv/file/file", b"2"), ("dir", "deep", ""), ("file", "deep/file", b"3"),
    )  # fmt: skip
    upper = make_tar(
        ("file", "srv/file", b"plain"),
        ("file", "srv/file/.wh.file", b"with data"),
        ("symlink", "srv/link", "/deep"),
        ("file", "srv/link/.wh.file", b""),
        ("file", "srv/link/deeper/.wh..wh..opq", b""),
        ("hardlink", "srv/link/.wh.hard", "srv/file"),
    )
    tree = image_tree(lower, upper, version=version)

    assert set(tree) == {"/", "/deep", "/deep/file", "/srv", "/srv/file", "/srv/link"}
    assert (tree["/srv/file"]["type"], tree["/srv/file"]["size"]) == ("file", 5)
    assert (tree["/srv/link"]["type"], tree["/srv/link"]["link"]) == ("symlink", "/deep")


@pytest.mark.parametrize("kind", ["file", "symlink", "fifo"])
def test_other_entries_below_something_that_is_not_a_directory_are_refused(kind: str) -> None:
    content = b"" if kind == "file" else "target"

    with pytest.raises(FormatError, match="below"):
        image_tree(make_tar((kind, "a", content), ("file", "a/b", b"1")))


def test_a_layer_that_fills_a_directory_through_a_lower_symlink_fills_its_target() -> None:
    lower = make_tar(("dir", "usr", ""), ("dir", "usr/lib", ""), ("symlink", "lib", "usr/lib"))
    tree = image_tree(lower, make_tar(("file", "lib/new", b"1")))

    assert tree["/lib"]["type"] == "symlink"
    assert tree["/usr/lib/new"]["size"] == 1


def test_a_lower_symlink_does_not_lead_out_of_the_image() -> None:
    tree = image_tree(make_tar(("symlink", "up", "../../..")), make_tar(("file", "up/new", b"1")))

    assert set(tree) == {"/", "/new", "/up"}


def test_symlinks_in_a_circle_end_in_a_directory_of_the_upper_layer() -> None:
    tree = image_tree(make_tar(("symlink", "a", "b"), ("symlink", "b", "a")), make_tar(("file", "a/new", b"1")))

    assert tree["/a"]["type"] == "dir"
    assert tree["/a/new"]["size"] == 1


def test_a_hard_link_to_a_lower_file_joins_it_even_when_its_old_name_is_removed() -> None:
    lower = make_tar(("file", "a", b"12345"), uid=7)
    upper = make_tar(("hardlink", "b", "a"), ("file", ".wh.a", b""))
    tree = image_tree(lower, upper)

    assert (tree["/b"]["type"], tree["/b"]["size"], tree["/b"]["uid"], tree["/b"]["nlink"]) == ("file", 5, 7, 1)
    assert "/a" not in tree


def test_a_hard_link_to_a_lower_directory_is_refused() -> None:
    with pytest.raises(FormatError, match="directory"):
        image_tree(make_tar(("dir", "d", "")), make_tar(("hardlink", "b", "d")))
