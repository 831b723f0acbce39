"""Start-up, help, the documents, and values as they are typed."""

import io
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from nydusify import __version__
from nydusify.build import BUILDER_VERSION
from nydusify.cli import logs, values
from nydusify.cli.main import app
from nydusify.errors import UsageError
from nydusify.rafs.spec import DEFAULT_CHUNK_SIZE
from tests.commands import ROOT, nydusify
from tests.oci_images import layout_files, small_image, write

GROUP: Any = typer.main.get_command(app)
COMMANDS = {"nydusify": GROUP, **{f"nydusify {name}": command for name, command in GROUP.commands.items()}}
LATER = ("backend", "cache", "chunk-dict", "oci-ref", "reverse", "batch", "referrer")
"""Beginnings and parts of options that are not there before what they do is."""


def options(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.param_type_name == "option"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name: str) -> None:
    assert COMMANDS[name].help
    assert [option.opts for option in options(COMMANDS[name]) if not option.help] == []


def test_options_of_later_work_are_absent() -> None:
    names = {name for option in options(COMMANDS["nydusify convert"]) for name in option.opts}

    assert [name for name in names for part in LATER if part in name] == ["--backend-aligned-chunk"]


@pytest.mark.parametrize("arguments", [("--help",), ("convert", "--help"), ("run", "-h")])
def test_help_goes_to_standard_output_with_the_exit_codes(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    outcome = nydusify(tmp_path, *arguments)

    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("Usage: nydusify")
    assert "143 terminated" in outcome.stdout
    assert "--docker-v2-format" not in outcome.stdout


def rows(text: str, heading: str) -> list[tuple[str, str, str]]:
    """The table below a heading: options, environment variables and defaults."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.split(" | ")] for line in section.splitlines() if line.startswith("| `-")]
    return [(row[0].strip("| "), row[1], row[2].strip("| ")) for row in cells]


def documented(option: Any) -> tuple[str, str, str]:
    names = [option.envvar] if isinstance(option.envvar, str) else option.envvar or []
    spellings = [*option.opts, *option.secondary_opts]
    return ", ".join(f"`{name}`" for name in spellings), ", ".join(f"`{name}`" for name in names), option.help


@pytest.mark.parametrize("name", COMMANDS)
def test_the_document_has_every_option_with_its_variables_and_help(name: str) -> None:
    text = (ROOT / "docs/cli.md").read_text()
    wanted = [documented(option) for option in options(COMMANDS[name]) if not option.hidden]

    assert rows(text, name) == wanted


def test_the_examples_of_the_document_can_be_parsed() -> None:
    text = (ROOT / "docs/cli.md").read_text().replace("\\\n", " ")
    examples = [line.split()[1:] for line in re.findall(r"^nydusify .*$", text, re.MULTILINE)]

    assert len(examples) >= 4
    for words in examples:
        name, *arguments = words[: words.index("<")] if "<" in words else words
        GROUP.commands[name].make_context(name, arguments, parent=GROUP.make_context("nydusify", [name]))


def test_the_version_names_package_builder_and_python(tmp_path: Path) -> None:
    outcome = nydusify(tmp_path, "--version")
    python = ".".join(map(str, sys.version_info[:3]))

    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout == f"Version: {__version__}\nBuilder: {BUILDER_VERSION}\nPython:  {python}\n"
    assert nydusify(tmp_path, "-v").stdout == outcome.stdout


def loaded_by(home: Path, *arguments: str) -> set[str]:
    script = (
        "import sys\nfrom nydusify.cli.main import main\nsys.argv[0] = 'nydusify'\n"
        "try: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=home, capture_output=True, text=True, check=True,
        env={"PATH": "/usr/bin", "HOME": str(home), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return {name.split(".")[0] for name in done.stderr.splitlines()[-1].split()}


def test_parsing_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded = loaded_by(tmp_path, "convert", "--help")

    assert "typer" in loaded
    assert loaded & {"rich", "numpy", "pyarrow", "httpx", "prefect", "flows", "fsspec", "cryptography"} == set()


def test_converting_archives_loads_neither_prefect_nor_rich_nor_httpx(tmp_path: Path) -> None:
    write(tmp_path / "source.tar", layout_files(small_image("text")))
    source = ("--source", "a.test/app:1", "--source-archive", "source.tar")
    loaded = loaded_by(tmp_path, "convert", *source, "--target", "a.test/app:2", "--target-archive", "target.tar")

    assert (tmp_path / "target.tar").is_file()
    assert {"numpy", "pyarrow"} <= loaded
    assert loaded & {"prefect", "flows", "tasks", "rich", "httpx", "pandas"} == set()


def test_the_default_chunk_size_is_the_builders() -> None:
    option = next(option for option in options(COMMANDS["nydusify convert"]) if "--chunk-size" in option.opts)

    assert values.parse_number("--chunk-size", option.default) == DEFAULT_CHUNK_SIZE


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("500ms", 0.5), ("1m30s", 90), ("0", 0), ("1.5h", 5400), (".5s", 0.5), ("100us", 1e-4), ("2µs", 2e-6)],
)
def test_durations_are_those_of_go(text: str, seconds: float) -> None:
    assert values.parse_duration("--delay", text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5s ", "5 s", "1e3s", "9" * 400 + "s", "1d", "nan", "infs"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--delay"):
        values.parse_duration("--delay", text)


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("1000", 1000), ("20GiB", 20 << 30), ("20G", 20 << 30), ("4kb", 4096), ("1T", 1 << 40)]
)
def test_sizes(text: str, size: int) -> None:
    assert values.parse_size("--limit", text) == size


@pytest.mark.parametrize("text", ["", "-1", "1.5G", "1X", "9" * 30, "0x10", "GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--limit"):
        values.parse_size("--limit", text)


@pytest.mark.parametrize("text", ["", "0x", "12k", "9" * 5000, "1.0", "ten"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--size"):
        values.parse_number("--size", text)


def test_patterns_are_bytes_and_bounded() -> None:
    assert values.read_patterns("-p", io.BytesIO(b"/a b \n\n/\xff\r\n/last")) == (b"/a b ", b"/\xff\r", b"/last")
    with pytest.raises(UsageError, match="16 MiB"):
        values.read_patterns("-p", io.BytesIO(b"/a\n" * (6 << 20)))


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (12_345_678, "12.3 MB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert values.human_size(size) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, "0.0 s"), (3_240_000_000, "3.2 s"), (59_960_000_000, "1 min 0 s"), (125 * 10**9, "2 min 5 s")],
)
def test_times_for_people(nanoseconds: int, text: str) -> None:
    assert values.human_time(nanoseconds) == text


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The library's logger; logging is as it was afterwards."""
    root, own = logging.getLogger(), logging.getLogger("nydusify")
    before = root.handlers[:], root.level, own.level
    root.handlers[:] = []
    yield own
    for handler in root.handlers:
        handler.close()
    root.handlers[:], root.level, own.level = before


@pytest.mark.parametrize(
    ("level", "debug", "shown"),
    [
        ("panic", False, []),
        ("fatal", False, []),
        ("error", False, ["error"]),
        ("warn", False, ["error", "warning"]),
        ("INFO", False, ["error", "warning", "info"]),
        ("error", True, ["error", "warning", "info", "debug"]),
        ("trace", False, ["error", "warning", "info", "debug", "library"]),
    ],
)
def test_levels(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str], level: str, debug: bool, shown: list[str]
) -> None:
    logs.set_up(level, debug, None)
    for word in ("error", "warning", "info", "debug"):
        getattr(logger, word)(word)
    logging.getLogger("some.library").info("library")

    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("msg=")[2] for line in lines] == shown
    assert all(re.match(r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ level=[a-z]+ msg=", line) for line in lines)


def test_log_lines_are_pairs_without_secrets(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", False, None)
    logger.warning("cannot reach https://user:%s@registry.test/\n\x1b[31m", "hunter2")

    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.endswith('level=warning msg="cannot reach https://***@registry.test/\\n\\u001b[31m"\n')


def test_an_unknown_level_is_info_and_a_log_file_takes_lines_and_errors(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    outcome = nydusify(tmp_path, "--log-file", "log", "convert", LOG_LEVEL="loud", SOURCE="a.test/x:1")

    lines = (tmp_path / "log").read_text().splitlines()
    assert outcome.code == 2
    assert "error: missing: --target" in outcome.stderr
    assert "time=" not in outcome.stderr
    assert lines[0] == "before"
    assert [re.sub(r"time=\S+ ", "", line) for line in lines[2:]] == [
        'level=info msg="--source a.test/x:1 comes from the environment variable SOURCE"',
        'level=error msg="missing: --target (or --target-suffix)"',
    ]
    assert "unknown log level 'loud', using info" in lines[1]


def test_a_log_file_that_cannot_be_opened_does_not_stop_the_run(tmp_path: Path) -> None:
    outcome = nydusify(tmp_path, "--log-file", "no/such/log", "convert")

    assert outcome.code == 2
    assert "cannot open the log file no/such/log" in outcome.stderr
