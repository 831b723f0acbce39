"""Read OCI layout directories. As a program: print one line on each, with layers, bytes and tar entries."""

import json
import sys
import tarfile
from pathlib import Path
from typing import Any


def first_image(layout: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first descriptor of the layout's index, and the manifest it names."""
    descriptor = json.loads((layout / "index.json").read_bytes())["manifests"][0]
    return descriptor, json.loads(blob_path(layout, descriptor["digest"]).read_bytes())


def blob_path(layout: Path, digest: str) -> Path:
    """Where the layout keeps ``digest``."""
    return layout / "blobs" / digest.replace(":", "/")


def describe(layout: Path) -> str:
    """Figures of the first image; ``compressed`` and ``raw`` (content of regular files) are bytes."""
    _, manifest = first_image(layout)
    raw = entries = whiteouts = 0
    for layer in manifest["layers"]:
        with tarfile.open(blob_path(layout, layer["digest"]), mode="r|*", errors="surrogateescape") as tar:
            for member in tar:
                raw += member.size
                entries += 1
                whiteouts += member.name.rpartition("/")[2].startswith(".wh.")
    compressed = sum(layer["size"] for layer in manifest["layers"])
    return (
        f"{layout.name} {layout} layers={len(manifest['layers'])} compressed={compressed} raw={raw}"
        f" entries={entries} whiteouts={whiteouts}"
    )


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(describe(Path(argument).resolve()))
