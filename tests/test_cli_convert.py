"""``nydusify convert`` as its users run it: archives, registries, what it prints and leaves behind."""

import gzip
import io
import json
import re
import tarfile
from pathlib import Path

import pytest
import zstandard

from nydusify.conversion.location import Location
from nydusify.convert import ConvertOptions
from nydusify.convert import convert as library_convert
from nydusify.oci import media
from nydusify.oci.manifest import Manifest
from nydusify.oci.open import open_source
from nydusify.rafs.reader import read_bootstrap
from nydusify.rafs.tree import Bootstrap
from nydusify.registry.client import RegistryRepository
from nydusify.reports.dataset import read
from tests.commands import Outcome, nydusify
from tests.oci_images import layout_files, small_image, store, write
from tests.registry_helpers import FAST
from tests.servers import Registry

SOURCE = ("--source", "a.test/app:1", "--source-archive", "source.tar")
TARGET = ("--target", "a.test/app:1-nydus", "--target-archive", "target.tar")
TEXTS = ("hello " * 5000, "world " * 3000)
REFERENCE_FIELDS = {
    "SourceImageSize",
    "TargetImageSize",
    "SourcePullElapsed",
    "ConversionElapsed",
    "TargetPushElapsed",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory with an image of two layers in ``source.tar``."""
    write(tmp_path / "source.tar", layout_files(small_image(*TEXTS)))
    return tmp_path


def convert(home: Path, *arguments: object, stdin: bytes = b"", **variables: str) -> Outcome:
    outcome = nydusify(home, "convert", *SOURCE, *TARGET, *arguments, stdin=stdin, **variables)
    assert outcome.code == 0, outcome
    return outcome


def target_digest(home: Path, name: str = "target.tar") -> str:
    repository = open_source(home / name)
    try:
        return str(repository.resolve("1-nydus").digest)
    finally:
        repository.close()


def test_an_archive_becomes_an_archive_with_a_summary_and_a_line_a_step(home: Path) -> None:
    outcome = convert(home, "--work-dir", "work")

    digest = target_digest(home)
    assert re.search(
        rf"^converted source\.tar \(a\.test/app:1\) -> target\.tar \(a\.test/app:1-nydus@{digest}\) in [0-9.]+ s$",
        outcome.stdout,
        re.MULTILINE,
    )
    assert "layers  2: 2 built, 0 reused" in outcome.stdout
    assert "verdict   verified" in outcome.stdout
    assert re.search(r"^report    .*work/reports/.+\.parquet$", outcome.stdout, re.MULTILINE)
    steps = sorted(re.sub(r"[0-9a-f]{12} [0-9.]+ k?B$", "…", line) for line in outcome.stderr.splitlines())
    assert steps == ["built layer sha256:…"] * 2 + ["pushed blob sha256:…"] * 2


def test_the_command_and_the_library_give_the_same_image(home: Path) -> None:
    convert(home)
    result = library_convert(
        Location("a.test/app:1", str(home / "source.tar")),
        Location("a.test/app:1-nydus", str(home / "library.tar")),
        ConvertOptions(store=home / "other"),
    )

    assert str(result.target_digest) == target_digest(home)


def test_json_is_one_object_and_output_json_has_the_same(home: Path) -> None:
    outcome = convert(home, "--json", "--output-json", "facts.json")

    facts = json.loads(outcome.stdout)
    assert outcome.stdout.count("\n") == 1
    assert json.loads((home / "facts.json").read_text()) == facts
    assert all(isinstance(facts[name], int) for name in REFERENCE_FIELDS)
    assert facts["TargetDigest"] == facts["Platforms"][0]["TargetDigest"] == target_digest(home)
    assert (facts["TargetMediaType"], facts["Unchanged"], facts["Verified"]) == (media.OCI_MANIFEST, False, True)
    assert [layer["Origin"] for layer in facts["Layers"]] == ["built", "built"]
    assert facts["Platforms"][0]["Layers"] == [layer["Source"] for layer in facts["Layers"]]
    assert all(0 < layer["BlobSize"] <= facts["TargetImageSize"] for layer in facts["Layers"])
    assert facts["SourceImageSize"] > sum(layer["SourceSize"] for layer in facts["Layers"])


def test_a_second_run_takes_layers_from_the_store_and_a_third_changes_nothing(home: Path) -> None:
    first = json.loads(convert(home, "--json").stdout)
    (home / "target.tar").unlink()
    second = convert(home, "--output-json", "second.json")
    third = convert(home)

    facts = json.loads((home / "second.json").read_text())
    assert [layer["Origin"] for layer in facts["Layers"]] == ["store", "store"]
    assert second.stderr.count("found in the store") == 2
    assert facts["TargetDigest"] == first["TargetDigest"] == target_digest(home)
    assert "verdict   unchanged" in third.stdout
    assert third.stderr == ""


def test_quiet_says_nothing_and_reports_can_be_left_out(home: Path) -> None:
    outcome = convert(home, "--quiet", "--reports", "", "--work-dir", "work")

    assert (outcome.stdout, outcome.stderr) == ("", "")
    assert not (home / "work/reports").exists()
    assert target_digest(home).startswith("sha256:")


def test_rows_go_below_the_work_directory_unless_told_otherwise(home: Path) -> None:
    facts = json.loads(convert(home, "--json", "--work-dir", "work").stdout)
    convert(home, "--work-dir", "work", "--reports", home / "elsewhere")

    assert Path(facts["Report"]).is_file()
    assert Path(facts["Report"]).is_relative_to(home / "work/reports")
    table = read("conversions", str(home / "elsewhere"))
    assert table.column("verdict").to_pylist() == ["unchanged"]


def test_values_from_the_environment_are_used_and_named(home: Path) -> None:
    variables = {
        "SOURCE": "a.test/app:1",
        "SOURCE_ARCHIVE": "source.tar",
        "TARGET": "a.test/app:1-nydus",
        "TARGET_ARCHIVE": "target.tar",
        "COMPRESSOR": "none",
        "BACKEND_ALIGNED_CHUNK": "true",
        "FS_VERSION": "5",
    }
    outcome = nydusify(home, "convert", "--compressor", "lz4_block", **variables)

    assert outcome.code == 0, outcome
    named = {line.rpartition(" ")[2] for line in outcome.stderr.splitlines() if "environment variable" in line}
    assert named == set(variables) - {"COMPRESSOR"}
    assert "--target a.test/app:1-nydus comes from the environment variable TARGET" in outcome.stderr
    row = read("conversions", str(home / ".cache/nydusify/reports")).to_pylist()[0]
    assert (row["fs_version"], row["compressor"]) == (5, "lz4_block")


@pytest.mark.parametrize(
    "options",
    [
        ("--fs-version", "5", "--fs-align-chunk"),
        ("--compressor", "none"),
        ("--compressor", "lz4_block", "--digester", "sha256"),
        ("--chunk-size", "0x10000"),
        ("--fs-chunk-size", "65536", "--jobs", "1", "--no-verify"),
        ("--oci", "--docker-v2-format", "--nydus-image", "/nowhere"),
        ("--prefetch-dir", "/file0"),
        ("--multi-platform",),
        ("--platform", "linux/amd64", "--store-limit", "0"),
        ("--all-platforms", "--push-retry-count", "0", "--push-retry-delay", "1m30s"),
    ],
)
def test_every_option_is_understood(home: Path, options: tuple[str, ...]) -> None:
    facts = json.loads(convert(home, *options, "--json").stdout)

    assert facts["TargetDigest"] == target_digest(home)
    assert facts["Verified"] == ("--no-verify" not in options)


def test_the_chunk_size_is_the_same_in_both_notations(home: Path) -> None:
    digests = set()
    for size in ("65536", "0x10000"):
        digests.add(
            json.loads(convert(home, "--chunk-size", size, "--json", "--work-dir", size).stdout)["TargetDigest"]
        )

    assert len(digests) == 1


def bootstrap_of(home: Path) -> Bootstrap:
    repository = open_source(home / "target.tar")
    try:
        manifest = Manifest.parse(repository.read_manifest(repository.resolve("1-nydus")))
        layer = b"".join(repository.open_blob(manifest.layers[-1]))
    finally:
        repository.close()
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        content = tar.extractfile("image/image.boot")
        assert content is not None
        return read_bootstrap(content.read())


def test_prefetch_patterns_are_read_from_standard_input(home: Path) -> None:
    convert(home)
    everything = bootstrap_of(home).prefetch
    convert(home, "--prefetch-patterns", stdin=b"/file1\n\n/not-utf-8-\xff\n")
    some = bootstrap_of(home).prefetch
    convert(home, "--prefetch-patterns", stdin=b"")
    nothing = bootstrap_of(home).prefetch

    assert (everything, some, nothing) == ([b"/"], [b"/file1"], [])


def test_a_registry_to_a_registry_with_a_suffix(home: Path, registry: Registry, repository_name: str) -> None:
    repository = RegistryRepository(registry.host, repository_name, FAST)
    try:
        store(small_image(*TEXTS), repository, "1")
        name = f"{registry.host}/{repository_name}"
        outcome = nydusify(home, "convert", "--source", f"{name}:1", "--target-suffix=-nydus", "--json")
        again = nydusify(home, "convert", "--source", f"{name}:1", "--target-suffix=-nydus", "--json")
        pushed = repository.resolve("1-nydus")
    finally:
        repository.close()

    facts = json.loads(outcome.stdout)
    assert (outcome.code, facts["Target"], facts["TargetDigest"]) == (0, f"{name}:1-nydus", str(pushed.digest))
    assert facts["Layers"][0]["PushedSize"] == facts["Layers"][0]["BlobSize"]
    assert json.loads(again.stdout)["Unchanged"] is True


def test_an_authority_of_ones_own_and_credentials_of_docker(
    home: Path, tls_registry: Registry, repository_name: str
) -> None:
    name = f"{tls_registry.host}/{repository_name}:1"
    tls_registry.write_docker_config(home / ".docker")
    pushed = nydusify(home, "convert", *SOURCE, "--target", name, "--ca-file", str(tls_registry.ca_file), "--quiet")
    insecure = nydusify(home, "convert", *SOURCE, "--target", name, "--target-insecure", "--json")

    assert (pushed.code, pushed.stderr) == (0, "")
    assert json.loads(insecure.stdout)["Unchanged"] is True


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_compressed_archive_is_read_in_a_work_directory_that_is_not_there_yet(home: Path, kind: str) -> None:
    plain = (home / "source.tar").read_bytes()
    packed = gzip.compress(plain) if kind == "gz" else zstandard.compress(plain)
    (home / f"source.tar.{kind}").write_bytes(packed)
    convert(home, "--work-dir", "work")
    archive = ("--source", "a.test/app:1", "--source-archive", f"source.tar.{kind}")

    outcome = nydusify(home, "convert", *archive, *TARGET[:3], "other.tar", "--work-dir", "fresh/work")

    assert outcome.code == 0, outcome
    assert target_digest(home, "other.tar") == target_digest(home)
