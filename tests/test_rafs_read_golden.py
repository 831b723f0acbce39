"""Bootstraps of the reference builder, read: their trees are the truth but for the reference's known defects."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nydusify.rafs.reader import read_bootstrap
from nydusify.rafs.spec import CHUNK, BlobFeature, Compressor
from nydusify.rafs.tree import Bootstrap
from nydusify.rafs.writer import write_bootstrap
from tests.golden import golden_dir
from tests.layers import CORE, DATA, expected
from tests.trees import ABOUT_THE_LAYER, BlobContent, differences, tree_of

ROOT = re.compile(r"/: (gid|uid|mode|mtime_s): truth \S+, ours \S+")
WITHOUT_CONTENT = {*ABOUT_THE_LAYER, "sha256"}
DEFECTS = {
    "v6-whiteout-lowest": [
        "/.wh.y: not in the truth",
        "/d/.wh..wh..opq: not in the truth",
        "/d/.wh.x: not in the truth",
    ],
    "v6-implicit-parent": [
        "/etc: gid: truth 80000, ours 0",
        "/etc: mtime_s: truth 1700000000, ours 0",
        "/etc: uid: truth 70000, ours 0",
    ],
}
DEFECTS["v5-whiteout-lowest"] = DEFECTS["v6-whiteout-lowest"]
"""Beside the attributes of the root: see "Known defects of the reference" in the golden set's README."""
CASES = [
    "v6-zstd-full",
    "v5-zstd-full",
    "v6-zstd",
    "v6-lz4_block",
    "v6-none",
    "v6-zstd-sha256",
    "v5-zstd",
    "v5-lz4_block",
    "v5-none-sha256",
    "v6-chunk-4k",
    "v5-chunk-4k",
    "v6-chunk-4m",
    "v6-batch-1m",
    "v6-batch-64k",
    "v6-zran",
    "v6-zran-big",
    "v6-encrypt",
    "v5-aligned",
    "v6-no-toc",
    "v6-whiteout-lowest",
    "v5-whiteout-lowest",
    "v6-implicit-parent",
    "v6-tarfs",
    "v6-dict",
    "v5-dict",
    "v6-dir-pack",
    "v6-dir-prefetch-fs",
    "v6-dir-prefetch-blob",
    "v6-parent",
    "v5-dir-pack",
    "v5-dir-prefetch-fs",
    "v5-dir-prefetch-blob",
    "v5-parent",
    "v5-optimize",
]
ROOT_IS_WRONG = {"merged-full", "merged-small", "merged-small-upper", "merged-hardlink-lower", "merged-implicit-parent"}
"""Merged images whose top layer has no entry for the root: the reference forgets its attributes."""
DIRECTORY_SOURCE = {"04-small"}
SPECIAL = {"v6-batch-1m", "v6-batch-64k", "v6-zran", "v6-zran-big", "v6-tarfs", "v6-encrypt"}
"""Their stored bytes are not found by the bootstrap's records alone."""


@cache
def index() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((golden_dir() / "built/index.json").read_text())
    return found


def rows(case: str) -> list[dict[str, Any]]:
    """What the set's own, independent reader found in each bootstrap of a case that is a file of its own."""
    return [row for row in index()[case]["bootstraps"] if row["bootstrap"]]


def read_golden(row: dict[str, Any]) -> Bootstrap:
    return read_bootstrap((golden_dir() / row["bootstrap"]).read_bytes())


def test_every_case_of_the_golden_set_is_listed_here() -> None:
    cases = {path.parent.name for path in (golden_dir() / "built").glob("*/*.boot")}

    assert cases == set(CASES)
    assert all((golden_dir() / row["bootstrap"]).is_file() for case in CASES for row in rows(case))


@pytest.mark.parametrize("case", CASES)
def test_a_golden_tree_is_the_truth_but_for_known_defects(case: str) -> None:
    for row in rows(case):
        bootstrap = read_golden(row)
        if not row.get("expected"):
            assert len(tree_of(bootstrap)) > 1
            continue
        name = Path(row["expected"]).name.partition(".json")[0]
        lines = differences(expected(name), tree_of(bootstrap), WITHOUT_CONTENT)
        if name in ROOT_IS_WRONG or (name in DIRECTORY_SOURCE and "dict" not in case and "tarfs" not in case):
            assert [line for line in lines if ROOT.fullmatch(line)]
            lines = [line for line in lines if not ROOT.fullmatch(line)]
        assert lines == DEFECTS.get(case, [])


@pytest.mark.parametrize("case", CASES)
def test_a_golden_blob_table_is_what_an_independent_reader_found(case: str) -> None:
    for row in rows(case):
        bootstrap = read_golden(row)
        wanted = [(blob["id"], blob["chunks"], blob["compressed"], blob["uncompressed"]) for blob in row["blobs"]]

        ours = [(blob.id, blob.chunk_count, blob.compressed_size, blob.uncompressed_size) for blob in bootstrap.blobs]
        assert ours == wanted
        assert hex(bootstrap.flags) == row["flags"]
        assert bool(bootstrap.prefetch) == bool(row["prefetch"])
        features = [set(blob["features"].split("|")) - {""} for blob in row["blobs"]]
        assert [{str(f.name) for f in BlobFeature if f in blob.features} for blob in bootstrap.blobs] == features


@cache
def blob_files() -> dict[str, Path]:
    return {path.name: path for path in (golden_dir() / "built").glob("*/blobs/*")}


@pytest.mark.parametrize("case", [case for case in CASES if case not in SPECIAL])
def test_the_chunks_of_golden_blobs_have_their_digests_and_make_the_files(case: str) -> None:
    for row in rows(case):
        bootstrap = read_golden(row)
        blobs = {blob.id: blob_files()[blob.id].read_bytes() for blob in bootstrap.blobs}
        tree = tree_of(bootstrap, BlobContent(bootstrap, blobs))

        assert bootstrap.blobs
        if row.get("expected"):
            truth = expected(Path(row["expected"]).name.partition(".json")[0])
            assert not [line for line in differences(truth, tree) if ": sha256: " in line]


@pytest.mark.parametrize("case", [case for case in CASES if "tarfs" not in case and "encrypt" not in case])
def test_a_golden_tree_survives_our_writer(case: str) -> None:
    for row in rows(case):
        bootstrap = read_golden(row)
        again = read_bootstrap(write_bootstrap(bootstrap))

        assert differences(tree_of(bootstrap), tree_of(again)) == []
        assert (again.blobs, again.prefetch) == (bootstrap.blobs, bootstrap.prefetch)
        # A v6 chunk record keeps the place in the file of one of its users only, whichever was written last.
        fields = [name for name in CHUNK.names if name != "file_offset" or bootstrap.version == 5]
        assert all(np.array_equal(again.chunks[name], bootstrap.chunks[name]) for name in fields)


@pytest.mark.parametrize("version", [5, 6])
def test_a_committed_reference_bootstrap_has_the_tree_of_its_image(version: int) -> None:
    bootstrap = read_bootstrap((DATA / "bootstraps" / f"v{version}-zstd.boot").read_bytes())

    lines = differences(expected("merged-small"), tree_of(bootstrap), WITHOUT_CONTENT)
    assert [line.partition(":")[0] for line in lines] == ["/"] * 4
    assert (bootstrap.version, bootstrap.compressor, bootstrap.chunk_size) == (version, Compressor.ZSTD, 1 << 20)
    assert bootstrap.prefetch == [b"/"]


@pytest.mark.parametrize("name", [*CORE, "merged-small", "merged-small-upper"])
def test_the_committed_truth_is_that_of_the_golden_set(name: str) -> None:
    assert (DATA / "expected" / f"{name}.json").read_bytes() == (golden_dir() / f"expected/{name}.json").read_bytes()
