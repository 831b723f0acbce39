"""Where the golden files are: made by the reference implementation, shared by all who work on the project."""

import os
from pathlib import Path

import pytest


def golden_dir() -> Path:
    """The directory of the golden files; skips the test if this machine has none."""
    path = Path(os.environ.get("NYDUSIFY_GOLDEN") or Path(__file__).parents[2] / "shared" / "golden")
    if not (path / "images" / "index.json").is_file():
        pytest.skip(f"no golden files at {path}; name them with NYDUSIFY_GOLDEN")
    return path
