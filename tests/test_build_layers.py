"""Layers of the golden set, built: the tree in memory and in the bootstrap is what unpackers make of them."""

import hashlib
import io
import tarfile

import numpy as np
import pytest

from nydusify.build.chunks import BATCH_BYTES
from nydusify.build.options import BuildOptions
from nydusify.digest import Digest
from nydusify.errors import DigestMismatch, FormatError, UsageError
from nydusify.rafs import blob as framing
from nydusify.rafs.codec import decompress
from nydusify.rafs.spec import BLOCK, BlobFeature, Compressor, Digester, align
from nydusify.rafs.tree import iter_tree
from tests.golden import golden_dir
from tests.layers import COMPRESSORS, CORE, Built, blobs_of, build, build_bytes, expected, layer_file, merge
from tests.trees import BlobContent, differences, tree_of

LAYERS = (
    *CORE,
    "01-base",
    "02-overlay",
    "03-top",
    "x-base256-size",
    "x-contiguous",
    "x-dup-entries",
    "x-dup-hardlink-target",
    "x-empty-tar",
    "x-fifo-null-dev",
    "x-hardlink-attrs",
    "x-hardlink-to-device",
    "x-hardlink-to-symlink",
    "x-hardlink-xattr",
    "x-implicit-parent-over-lower",
    "x-mid-dots",
    "x-missing-parents",
    "x-missing-parents-last",
    "x-no-trailer",
    "x-pax-global",
    "x-pax-size",
    "x-root-only",
    "x-sparse-gnu",
    "x-sparse-pax01",
    "x-sparse-pax10",
    "x-subsecond-mtime",
    "x-symlink-4095",
    "x-v7-header",
    "x-whiteout-lowest",
    "x-whiteout-odd",
    "x-with-parents",
    "x-xattr-libarchive",
    "x-xattr-newline",
    "x-xattr-on-symlink",
    "x-xattr-other-ns",
)
WITHOUT_A_TREE = {"x-hardlink-forward", "x-hardlink-lower", "dir-overlayfs-source"}
"""Two have hard links that only other layers or later entries resolve; the third is not a layer."""
V5_LIMITS = {
    "x-hardlink-to-device": ["/p2: nlink: truth 2, ours 1", "/p: nlink: truth 2, ours 1"],
    "x-hardlink-to-symlink": ["/s2: nlink: truth 2, ours 1", "/s: nlink: truth 2, ours 1"],
}
"""v5 has hard links of regular files only: other linked inodes become one inode a name."""


def layer_differences(name: str, built: Built, *, in_memory: bool) -> list[str]:
    bootstrap = built.bootstrap if in_memory else built.read()
    tree = tree_of(bootstrap, BlobContent(bootstrap, blobs_of([built])))
    return sorted(differences(expected(name), tree, {"whiteout"}))


def test_every_layer_of_the_golden_set_is_listed_here() -> None:
    names = {path.name.partition(".tar")[0] for path in (golden_dir() / "layers").glob("*.tar*")}

    assert names - set(LAYERS) == WITHOUT_A_TREE


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda value: value.name)
@pytest.mark.parametrize("version", [6, 5])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_what_unpackers_make_of_it(name: str, version: int, compressor: Compressor) -> None:
    built = build(name, BuildOptions(version, compressor))

    assert layer_differences(name, built, in_memory=True) == []
    assert layer_differences(name, built, in_memory=False) == (V5_LIMITS.get(name, []) if version == 5 else [])


@pytest.mark.parametrize("version", [6, 5])
@pytest.mark.parametrize("options", [{"digester": Digester.SHA256}, {"chunk_size": 4096}, {"chunk_size": 1 << 24}])
@pytest.mark.parametrize("name", [*CORE, "01-base"])
def test_digester_and_chunk_size_change_the_bytes_but_not_the_tree(
    name: str, version: int, options: dict[str, int]
) -> None:
    built = build(name, BuildOptions(version, **options))  # type: ignore[arg-type]

    assert layer_differences(name, built, in_memory=False) == []
    assert built.read().digester == options.get("digester", Digester.BLAKE3)
    assert built.read().chunk_size == options.get("chunk_size", 1 << 20)
    assert built.bootstrap_bytes != build(name, BuildOptions(version)).bootstrap_bytes


@pytest.mark.parametrize("name", ["04-small", "06-upper", "01-base"])
def test_chunks_of_an_aligned_v5_blob_begin_on_blocks_of_the_plain_data(name: str) -> None:
    packed, aligned = (build(name, BuildOptions(5, chunk_size=4096, aligned=value)) for value in (False, True))

    assert layer_differences(name, aligned, in_memory=False) == []
    assert not np.any(aligned.read().chunks["uoffset"] % BLOCK)
    assert aligned.facts.data_size == packed.facts.data_size
    assert packed.read().blobs[0].uncompressed_size == packed.facts.data_size
    assert aligned.read().blobs[0].uncompressed_size > packed.facts.data_size


@pytest.mark.parametrize("version", [6, 5])
@pytest.mark.parametrize("name", [*CORE, "01-base"])
def test_the_number_of_threads_does_not_change_a_byte(name: str, version: int) -> None:
    options = BuildOptions(version, chunk_size=4096)
    one, four = build(name, options, threads=1), build(name, options, threads=4)

    assert one.blob == four.blob
    assert (one.bootstrap_bytes, one.blob_meta, one.facts) == (four.bootstrap_bytes, four.blob_meta, four.facts)


@pytest.mark.parametrize("size", [1, 511, 1 << 20])
def test_the_size_of_the_pieces_does_not_change_a_byte(size: int) -> None:
    data = layer_file("07-tiny").read_bytes()
    pieces = (data[start : start + size] for start in range(0, len(data), size))

    assert build_bytes(pieces, compression="gzip").blob == build("07-tiny", BuildOptions()).blob


@pytest.mark.parametrize("version", [6, 5])
@pytest.mark.parametrize("name", ["04-small", "05-nodata", "01-base"])
def test_the_facts_of_a_layer_are_those_of_its_bytes(name: str, version: int) -> None:
    built = build(name, BuildOptions(version))
    with tarfile.open(layer_file(name)) as archive:
        members = archive.getmembers()
    facts, chunks = built.facts, built.read().chunks

    assert facts.blob == Digest.of(built.blob)
    assert facts.blob_size == len(built.blob)
    assert facts.entries == len(members)
    assert (facts.chunks, facts.data_size) == (len(chunks), chunks["usize"].sum())
    assert facts.data_size + facts.repeated_size == sum(member.size for member in members if member.isreg())
    assert (facts.repeated_chunks > 0) == (name != "05-nodata")
    assert len({record.tobytes() for record in chunks["digest"]}) == len(chunks)


def test_the_diff_id_is_checked() -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("empty"))
    digest = hashlib.sha256(plain.getvalue()).hexdigest()

    assert str(build_bytes(plain.getvalue()).facts.diff_id) == f"sha256:{digest}"
    assert build_bytes(plain.getvalue()).facts.tar_size == len(plain.getvalue())
    with pytest.raises(DigestMismatch, match="sha256:00"):
        build_bytes(plain.getvalue(), diff_id=Digest("sha256", "0" * 64))


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda value: value.name)
@pytest.mark.parametrize("name", [*CORE, "01-base"])
def test_the_sections_of_a_v6_blob_are_those_of_its_table_of_contents(name: str, compressor: Compressor) -> None:
    built = build(name, BuildOptions(6, compressor))
    blob = built.blob
    section, size = framing.parse_tar_header(blob[-512:])
    table = np.frombuffer(blob[-512 - size : -512], framing.TOC_ENTRY)
    by_flag = {flag: compressor for compressor, flag in framing.TOC_FLAG.items()}
    plain = {}
    for row in table:
        start, length = int(row["offset"]), int(row["csize"])
        stored = blob[start : start + length]
        section_name = row["name"].decode()
        if section_name == framing.SECTION_DATA:
            assert hashlib.sha256(blob[: length + 512]).digest() == row["digest"].tobytes()
        else:
            plain[section_name] = decompress(by_flag[int(row["flags"])], stored, int(row["usize"]))
            assert hashlib.sha256(plain[section_name]).digest() == row["digest"].tobytes()

    assert section == framing.SECTION_TOC
    assert plain[framing.SECTION_BOOTSTRAP] == built.bootstrap_bytes
    if built.facts.chunks:
        array, header = plain[framing.SECTION_CI], plain[framing.SECTION_CI_HEADER]
        assert plain[framing.SECTION_DIGESTS] == built.bootstrap.chunks["digest"].tobytes()
        assert built.blob_meta == array.ljust(align(len(array), BLOCK), b"\0") + header
        assert len(array) == 16 * built.facts.chunks
    else:
        assert built.blob_meta == b""


@pytest.mark.parametrize(("name", "chunk_size"), [("04-small", 4096), ("01-base", 1 << 20), ("01-base", 1 << 24)])
def test_the_chunk_information_of_a_blob_is_that_of_its_chunk_table(name: str, chunk_size: int) -> None:
    """Bits as in the Nydus format's version 1: offset and size less one, its upper 4 bits apart."""
    built = build(name, BuildOptions(chunk_size=chunk_size))
    chunks = built.bootstrap.chunks
    words = np.frombuffer(built.blob_meta, "<u8", 2 * len(chunks)).tolist()
    plain = [(u & 0xFFFFFFFF000, (u >> 44 | (u >> 8 & 0xF) << 20) + 1) for u in words[::2]]
    stored = [(c & 0xFFFFFFFFFF, (c >> 44 | (c >> 40 & 0xF) << 20) + 1) for c in words[1::2]]

    assert plain == list(zip(chunks["uoffset"].tolist(), chunks["usize"].tolist(), strict=True))
    assert stored == list(zip(chunks["coffset"].tolist(), chunks["csize"].tolist(), strict=True))
    assert (chunk_size < 1 << 24) == (max(size for _, size in plain) <= 1 << 20)


@pytest.mark.parametrize("name", [*CORE, "01-base"])
def test_the_bootstrap_in_a_v5_blob_is_in_front_of_its_last_tar_header(name: str) -> None:
    built = build(name, BuildOptions(5))
    section, size = framing.parse_tar_header(built.blob[-512:])

    assert section == framing.SECTION_BOOTSTRAP
    assert built.blob[-512 - size : -512] == built.bootstrap_bytes
    assert built.blob_meta == b""


@pytest.mark.parametrize("version", [6, 5])
@pytest.mark.parametrize("name", ["04-small", "06-upper", "01-base"])
def test_chunks_lie_in_the_blob_one_behind_the_other(name: str, version: int) -> None:
    built = build(name, BuildOptions(version, chunk_size=4096))
    chunks = built.bootstrap.chunks
    step = BLOCK if version == 6 else 1

    assert [int(c["coffset"] + c["csize"]) for c in chunks[:-1]] == chunks["coffset"][1:].tolist()
    assert [align(int(c["uoffset"] + c["usize"]), step) for c in chunks[:-1]] == chunks["uoffset"][1:].tolist()
    assert chunks["index"].tolist() == list(range(len(chunks)))
    assert (chunks["csize"] <= chunks["usize"]).all()


@pytest.mark.parametrize("version", [6, 5])
def test_a_layer_without_data_has_no_blob_in_its_table(version: int) -> None:
    bootstrap = build("05-nodata", BuildOptions(version)).read()

    assert (bootstrap.blobs, len(bootstrap.chunks)) == ([], 0)


@pytest.mark.parametrize("version", [6, 5])
def test_the_blob_table_of_a_layer_names_its_own_blob(version: int) -> None:
    built = build("04-small", BuildOptions(version))
    (ours,), (read,) = built.bootstrap.blobs, built.read().blobs

    assert ours.id == read.id == built.facts.blob.hex
    assert BlobFeature.INLINED_FS_META in read.features
    assert (BlobFeature.ALIGNED in read.features) == (version == 6)
    assert ours == read


def test_a_chunk_that_repeats_in_a_layer_is_stored_once_wherever_it_lies() -> None:
    block = bytes(range(256)) * 16
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for number in range(3 * BATCH_BYTES // len(block)):
            info = tarfile.TarInfo(f"file{number:04}")
            info.size = len(block)
            tar.addfile(info, io.BytesIO(block))
    built = build_bytes(archive.getvalue(), threads=4)

    assert built.facts.chunks == 1
    assert built.facts.repeated_chunks == 3 * BATCH_BYTES // len(block) - 1
    assert {tuple(inode.chunks) for _, inode in iter_tree(built.read().root)} == {(), (0,)}


def test_a_hard_link_in_front_of_its_target_is_one_file_with_it_once_merged() -> None:
    layer = build("x-hardlink-forward", BuildOptions())
    image = merge([layer])
    children = image.root.children
    assert children is not None

    assert children[b"a"] is children[b"b"]
    assert tree_of(image)["/a"]["nlink"] == 2


def test_a_hard_link_to_nothing_is_refused_when_the_image_is_merged() -> None:
    with pytest.raises(FormatError, match="/bin/tool"):
        merge([build("x-hardlink-lower", BuildOptions())])


@pytest.mark.parametrize(
    "wrong", [{"fs_version": 4}, {"compressor": Compressor.GZIP}, {"chunk_size": 5000}, {"chunk_size": 1 << 25}]
)
def test_options_that_rafs_does_not_know_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        BuildOptions(**wrong)  # type: ignore[arg-type]


def test_the_key_of_the_options_differs_when_the_bytes_may() -> None:
    variants = [BuildOptions(), BuildOptions(5), BuildOptions(5, aligned=True), BuildOptions(chunk_size=4096)]
    variants += [BuildOptions(compressor=Compressor.NONE), BuildOptions(digester=Digester.SHA256)]

    assert len({options.key for options in variants}) == len(variants)
    assert BuildOptions().key == BuildOptions(6, Compressor.ZSTD).key
