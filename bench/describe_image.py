"""Print one line on each OCI layout directory: layers, compressed bytes, raw bytes, tar entries, whiteouts."""

import json
import sys
import tarfile
from pathlib import Path
from typing import Any


def read_json(layout: Path, digest: str) -> Any:
    """The JSON blob ``digest`` of the layout."""
    return json.loads(blob_path(layout, digest).read_bytes())


def blob_path(layout: Path, digest: str) -> Path:
    """Where the layout keeps ``digest``."""
    return layout / "blobs" / digest.replace(":", "/")


def describe(layout: Path) -> str:
    """Figures of the first manifest of ``layout``; raw bytes are those of regular files."""
    index = json.loads((layout / "index.json").read_bytes())
    layers = read_json(layout, index["manifests"][0]["digest"])["layers"]
    raw = entries = whiteouts = 0
    for layer in layers:
        with tarfile.open(blob_path(layout, layer["digest"]), mode="r|*", errors="surrogateescape") as tar:
            for member in tar:
                raw += member.size
                entries += 1
                whiteouts += member.name.rpartition("/")[2].startswith(".wh.")
    compressed = sum(layer["size"] for layer in layers)
    return (
        f"{layout.name} {layout} layers={len(layers)} compressed={compressed} raw={raw} entries={entries}"
        f" whiteouts={whiteouts}"
    )


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(describe(Path(argument).resolve()))
