"""Progress: a line a step, and bars on a terminal (a real one, of the pty kind)."""

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

from nydusify.cli.output import Lines, listener
from tests.commands import command, environment
from tests.oci_images import layout_files, small_image, write

LAYER = "sha256:" + "0123456789abcdef" * 4


def test_a_line_says_what_was_done_or_found(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.begin(LAYER, "build", 12_345_678)
    lines.advance(LAYER, "build", 5)
    lines.end(LAYER, "build")
    lines.end(LAYER, "build", "found in the store")
    lines.begin(LAYER, "push", 999)
    lines.end(LAYER, "push", "already there")

    assert capsys.readouterr().err.splitlines() == [
        "built layer sha256:0123456789ab 12.3 MB",
        "layer sha256:0123456789ab found in the store",
        "blob sha256:0123456789ab 999 B already there",
    ]


def test_a_quiet_listener_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with listener(bars=True, quiet=True) as progress:
        progress.begin(LAYER, "build", 1)
        progress.advance(LAYER, "build", 1)
        progress.end(LAYER, "build", "x")

    assert capsys.readouterr() == ("", "")


def on_terminal(home: Path, *arguments: str) -> str:
    """What the command prints when its standard error is a terminal."""
    ours, theirs = pty.openpty()
    variables = environment(home, TERM="xterm", COLUMNS="100")
    process = subprocess.Popen(command(*arguments), cwd=home, env=variables, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    pieces = []
    try:
        while piece := os.read(ours, 65536):
            pieces.append(piece)
    except OSError:
        pass  # how Linux says that nobody has the other end open
    os.close(ours)
    assert process.wait() == 0
    return b"".join(pieces).decode()


@pytest.mark.parametrize("json", [False, True])
def test_a_terminal_gets_bars_and_lines(tmp_path: Path, json: bool) -> None:
    write(tmp_path / "source.tar", layout_files(small_image("hello " * 1000)))
    source = ("--source", "a.test/app:1", "--source-archive", "source.tar")
    target = ("--target", "a.test/app:2", "--target-archive", "target.tar")
    text = on_terminal(tmp_path, "convert", *source, *target, *["--json"] * json)

    assert re.search(r"built layer sha256:[0-9a-f]{12} [0-9.]+ k?B", text)
    assert ("━" in text) is not json
