"""What a user sees when something goes wrong: one line, advice, an exit code; never a trace or a secret."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nydusify import errors
from nydusify.cli.errors import EXIT_CODES, describe
from tests.commands import ROOT, Outcome, command, environment, nydusify
from tests.oci_images import layout_files, small_image, write
from tests.servers import QuietHandler, Registry, http_server

CONVERT = ("convert", "--source", "a.test/app:1", "--source-archive", "source.tar", "--target", "a.test/app:2")
ARCHIVE = ("--target-archive", "target.tar")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write(tmp_path / "source.tar", layout_files(small_image("text")))
    return tmp_path


def failed(outcome: Outcome, code: int, *words: str) -> None:
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.stderr
    lines = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert [word for word in words if word not in outcome.stderr] == []


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    failed(nydusify(tmp_path, "convert"), 2, "missing: --source and --target (or --target-suffix)", "advice: ")
    failed(nydusify(tmp_path, "convert", "--source", "a.test/app:1"), 2, "missing: --target (or --target-suffix)")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target-suffix=-n",), "exclude each other"),
        (("--compressor", "xz"), "none, lz4_block, zstd"),
        (("--compressor", "gzip"), "none, lz4_block, zstd"),
        (("--digester", "md5"), "blake3, sha256"),
        (("--fs-version", "7"), "fs-version is 5 or 6"),
        (("--fs-chunk-size", "1000"), "power of two"),
        (("--fs-chunk-size", "1e6"), "not a number"),
        (("--push-retry-delay", "5"), "not a duration"),
        (("--push-retry-delay", "1s-"), "not a duration"),
        (("--store-limit", "20 pounds"), "not a size"),
        (("--platform", "linux"), "linux/amd64"),
        (("--prefetch-dir", "etc"), "not an absolute path"),
        (("--prefetch-dir", "/etc", "--prefetch-patterns"), "exclude each other"),
        (("--source", "a.test/UPPER"), "capital letters"),
        (("--source-archive", "gone.tar"), "not accessible"),
        (("--ca-file", "gone.pem"), "not a file"),
        (("--output-json", "no/such/facts.json"), "not a directory"),
    ],
)
def test_bad_values_are_refused_with_advice(home: Path, options: tuple[str, ...], words: str) -> None:
    failed(nydusify(home, *CONVERT, *ARCHIVE, *options), 2, words)
    assert not (home / "target.tar").exists()


@pytest.mark.parametrize(
    "arguments", [("convert", "--nope"), ("nope",), ("convert", "--jobs", "x"), ("convert", "--push-retry-count", "-1")]
)
def test_unknown_options_and_words_are_usage_errors(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    outcome = nydusify(tmp_path, *arguments)

    assert outcome.code == 2
    assert "Error: " in outcome.stderr
    assert outcome.stdout == ""


def test_relative_prefetch_patterns_are_refused(home: Path) -> None:
    failed(nydusify(home, *CONVERT, *ARCHIVE, "--prefetch-patterns", stdin=b"/a\n\xffb\n"), 2, r"\xffb")


def test_bytes_that_are_no_image(home: Path) -> None:
    (home / "source.tar").write_bytes(os.urandom(4096))

    failed(nydusify(home, *CONVERT, *ARCHIVE, "--output-json", "facts.json"), 3)
    facts = json.loads((home / "facts.json").read_text())
    assert facts["Error"]["ExitCode"] == 3
    assert facts["Error"]["Class"] == "FormatError"
    assert facts["Error"]["Message"]


def test_a_registry_that_has_no_such_image(home: Path, registry: Registry, repository_name: str) -> None:
    source = f"{registry.host}/{repository_name}:1"

    failed(nydusify(home, "convert", "--source", source, "--target-suffix=-n"), 4, repository_name)


def test_a_platform_that_is_not_there(home: Path) -> None:
    outcome = nydusify(home, *CONVERT, *ARCHIVE, "--platform", "linux/s390x", "--json")

    failed(outcome, 5, "linux/s390x", "linux/amd64")
    assert json.loads(outcome.stdout)["Error"]["Class"] == "PlatformError"
    assert not (home / "target.tar").exists()


def test_a_work_directory_that_is_a_file(home: Path) -> None:
    failed(nydusify(home, *CONVERT, *ARCHIVE, "--work-dir", "source.tar", "--reports", "r"), 6, "--work-dir")


def test_credentials_that_are_missing(home: Path, tls_registry: Registry, repository_name: str) -> None:
    target = f"{tls_registry.host}/{repository_name}:1"
    outcome = nydusify(home, *CONVERT, "--target", target, "--ca-file", str(tls_registry.ca_file))

    failed(outcome, 7, "docker login")


def test_a_failure_leaves_a_row_for_the_data_team(home: Path) -> None:
    from nydusify.reports.dataset import read

    nydusify(home, *CONVERT, *ARCHIVE, "--platform", "linux/s390x", "--reports", home / "rows")

    row = read("conversions", str(home / "rows")).to_pylist()[0]
    assert (row["verdict"], row["error_class"]) == ("failed", "PlatformError")


def run_python(script: str) -> Outcome:
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


UNEXPECTED = """
from nydusify.cli import errors, logs
logs.set_up("info", {debug}, None)
with errors.reported():
    raise RuntimeError("no luck at https://user:hunter2@registry.test/x")
"""


def test_a_defect_is_one_line_without_secrets(tmp_path: Path) -> None:
    outcome = run_python(UNEXPECTED.format(debug=False))

    failed(outcome, 70, "unexpected RuntimeError: no luck at https://***@registry.test/x", "--debug")


def test_debugging_shows_the_trace_without_secrets(tmp_path: Path) -> None:
    outcome = run_python(UNEXPECTED.format(debug=True))

    assert outcome.code == 70
    assert "Traceback (most recent call last)" in outcome.stderr
    assert "level=debug" in outcome.stderr
    assert "hunter2" not in outcome.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_its_code_and_a_message(home: Path, number: signal.Signals) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(60)
        source = f"127.0.0.1:{server.getsockname()[1]}/app:1"
        process = subprocess.Popen(
            command("convert", "--source", source, "--target-suffix=-n", "--output-json", "facts.json"),
            cwd=home,
            env=environment(home),
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = server.accept()  # now it waits for an answer that never comes
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        connection.close()

    failed(Outcome(process.returncode, "", stderr), 128 + number, f"stopped by {number.name}")
    assert json.loads((home / "facts.json").read_text())["Error"]["ExitCode"] == 128 + number


def test_a_reader_that_goes_away_leaves_no_trace(home: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command(*CONVERT, *ARCHIVE, "--json", "--output-json", "facts.json"),
        cwd=home,
        env=environment(home),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert "TargetDigest" in json.loads((home / "facts.json").read_text())


def test_the_document_has_every_code_and_class() -> None:
    text = (ROOT / "docs/exit-codes.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type)]

    assert {int(code): meaning for code, meaning, _ in rows[1:]} == EXIT_CODES
    assert len(classes) > 8
    for kind in classes:
        assert any(int(code) == kind.exit_code and f"`{kind.__name__}`" in names for code, _, names in rows[1:])


def test_descriptions_carry_no_secrets() -> None:
    error = errors.AuthError("https://user:hunter2@registry.test: 401", advice="token=hunter2")

    facts = describe(error)
    assert "hunter2" not in json.dumps(facts)
    assert (facts["Class"], facts["ExitCode"]) == ("AuthError", 7)


class _Stalling(QuietHandler):
    """A registry that answers for manifests and configs, and never for layers."""

    image = small_image("text " * 1000)
    asked = threading.Event()

    def do_GET(self) -> None:
        kind, _, name = self.path.rpartition("/")
        if kind.endswith("/app/manifests"):
            manifest = self.image.descriptor
            headers = {"Content-Type": manifest.media_type, "Docker-Content-Digest": str(manifest.digest)}
            self.reply(200, self.image.manifest.to_bytes(), headers)
        elif name == str(self.image.manifest.config.digest):
            self.reply(200, self.image.blobs[self.image.manifest.config.digest])
        elif kind.endswith("/blobs"):
            self.asked.set()
            threading.Event().wait(20)
        else:
            self.reply(404)

    do_HEAD = do_GET


def test_a_second_signal_ends_a_run_that_waits_for_a_registry(home: Path) -> None:
    with http_server(_Stalling) as port:
        host = f"127.0.0.1:{port}"
        process = subprocess.Popen(
            command("convert", "--source", f"{host}/app:1", "--target", f"{host}/other:1"),
            cwd=home,
            env=environment(home),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert _Stalling.asked.wait(60)
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        _, stderr = process.communicate(timeout=10)

    failed(Outcome(process.returncode, "", stderr), 143, "stopped by SIGTERM")
