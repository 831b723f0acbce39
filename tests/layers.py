"""Layers of the golden set built once a session, and merged, for the tests that look at the outcome."""

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nydusify.build.layer import LayerFacts, build_layer
from nydusify.build.merge import merge_layers
from nydusify.build.options import BuildOptions
from nydusify.digest import Digest
from nydusify.rafs.reader import read_bootstrap
from nydusify.rafs.spec import Compressor
from nydusify.rafs.tree import Bootstrap
from tests.golden import golden_dir
from tests.trees import Tree, expected_tree

DATA = Path(__file__).parent / "data"
CORE = ("04-small", "05-nodata", "06-upper", "07-tiny")
"""Layers that lie in tests/data: the tests of these run without the golden set."""
COMPRESSORS = (Compressor.ZSTD, Compressor.LZ4_BLOCK, Compressor.NONE)
MERGED = {
    "merged-small": ("04-small", "06-upper", "05-nodata"),
    "merged-small-upper": ("04-small", "06-upper"),
    "merged-full": ("01-base", "02-overlay", "03-top", "05-nodata"),
    "merged-hardlink-lower": ("04-small", "x-hardlink-lower"),
    "merged-implicit-parent": ("04-small", "x-implicit-parent-over-lower"),
    "merged-whiteout-lowest": ("x-whiteout-lowest", "05-nodata"),
}
SUFFIXES = {".gz": "gzip", ".zst": "zstd", ".tar": "none"}


@dataclass(frozen=True)
class Built:
    """A built layer, all in memory. ``bootstrap`` must not be merged: that would use it up."""

    facts: LayerFacts
    bootstrap: Bootstrap
    bootstrap_bytes: bytes
    blob_meta: bytes
    blob: bytes

    def read(self) -> Bootstrap:
        """Its bootstrap, read from the bytes; a new object at every call."""
        return read_bootstrap(self.bootstrap_bytes, blob_id=self.facts.blob.hex)


def layer_file(name: str) -> Path:
    """The layer's file, from tests/data or the golden set; skips the test if this machine has none."""
    root = DATA if name in CORE else golden_dir()
    return next((root / "layers").glob(f"{name}.tar*"))


def expected(name: str) -> Tree:
    """The truth about a layer or a merged image, likewise."""
    path = DATA / "expected" / f"{name}.json"
    return expected_tree(path if path.exists() else golden_dir() / "expected" / f"{name}.json")


def pieces(data: bytes, size: int = 1 << 16) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def build_bytes(
    data: bytes | Iterable[bytes],
    options: BuildOptions | None = None,
    compression: str = "none",
    threads: int = 2,
    diff_id: Digest | None = None,
) -> Built:
    """Build the layer ``data``, an archive or its pieces."""
    blob = io.BytesIO()
    with ThreadPoolExecutor(threads) as pool:
        parts = pieces(data) if isinstance(data, bytes) else data
        built = build_layer(parts, compression, blob, options or BuildOptions(), pool, diff_id)
    return Built(built.facts, built.bootstrap, built.bootstrap_bytes, built.blob_meta, blob.getvalue())


@cache
def build(name: str, options: BuildOptions, threads: int = 2) -> Built:
    path = layer_file(name)
    return build_bytes(path.read_bytes(), options, SUFFIXES[path.suffix], threads)


def merge(layers: Sequence[Built], prefetch: Sequence[bytes] = ()) -> Bootstrap:
    return merge_layers([layer.read() for layer in layers], prefetch)


def blobs_of(layers: Sequence[Built]) -> dict[str, bytes]:
    """Blobs by id."""
    return {layer.facts.blob.hex: layer.blob for layer in layers}
