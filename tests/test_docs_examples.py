"""The examples under docs/ run as written."""

import subprocess
import sys
from pathlib import Path

from tests.commands import environment
from tests.oci_images import layout_files, small_image, write

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


def run(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(EXAMPLES / "convert.py"), *arguments]
    return subprocess.run(command, cwd=home, env=environment(home), capture_output=True, text=True)


def test_the_library_example_converts_and_tells_what_each_layer_became(tmp_path: Path) -> None:
    write(tmp_path / "app.tar", layout_files(small_image("hello " * 5000, "world " * 3000)))

    done = run(tmp_path, "--archives", "app.tar", "app-nydus.tar")

    assert done.returncode == 0, done.stderr
    *layers, digest = done.stdout.splitlines()
    assert [line.rpartition(", ")[2] for line in layers] == ["built", "built"]
    assert digest.startswith("sha256:")
    assert (tmp_path / "app-nydus.tar").stat().st_size > 0


def test_the_library_example_shows_what_to_do_about_an_error(tmp_path: Path) -> None:
    done = run(tmp_path, "--archives", "absent.tar", "app-nydus.tar")

    assert done.returncode == 2
    assert "absent.tar" in done.stderr
