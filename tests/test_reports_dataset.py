"""Rows of a run become one Parquet file that is read back as it was, on disk and in an object store."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nydusify.errors import FormatError, StoreError, TransportError, UsageError
from nydusify.reports import ConversionRow, LayerRow, append, read
from nydusify.reports.schema import CONVERSIONS, LAYERS, SCHEMA_VERSION, TABLES

DIGEST = "sha256:" + "ab" * 32
CONVERSION = ConversionRow(
    run_id="20261123-a1",
    started_at=datetime(2026, 11, 23, 23, 59, 59, 123456, UTC),
    source="registry.test/app:1",
    target="registry.test/app:1-nydus",
    platform="linux/amd64",
    source_digest=DIGEST,
    fs_version=6,
    compressor="zstd",
    digester="blake3",
    chunk_size_bytes=1 << 20,
    builder_version="0.1.0",
    layers=2,
    source_bytes=(1 << 64) - 1,
    elapsed_ns=1_500_000_000,
    verdict="verified",
)
LAYER = LayerRow(
    run_id="20261123-a1",
    started_at=CONVERSION.started_at,
    source=CONVERSION.source,
    target=CONVERSION.target,
    platform="linux/amd64",
    source_digest=DIGEST,
    layer_index=1,
    layer_digest=DIGEST,
    layer_media_type="application/vnd.oci.image.layer.v1.tar+gzip",
    layer_bytes=10,
    fs_version=5,
    compressor="none",
    digester="sha256",
    chunk_size_bytes=4096,
    builder_version="0.1.0",
    origin="built",
    verdict="failed",
    error_class="FormatError",
    error_message="a name with bytes: \udcff, and\nlines",
)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize(("row", "schema"), [(CONVERSION, CONVERSIONS), (LAYER, LAYERS)])
def test_rows_have_the_columns_of_their_schema_in_order(row: ConversionRow | LayerRow, schema: pa.Schema) -> None:
    assert [field.name for field in fields(row)] == schema.names


@pytest.mark.parametrize("schema", TABLES.values(), ids=TABLES)
def test_columns_that_measure_say_their_unit(schema: pa.Schema) -> None:
    plain_counts = {
        "fs_version", "layers", "reused_layers", "layer_index", "retries", "entries", "chunks", "dedup_chunks"
    }  # fmt: skip
    numbers = [field.name for field in schema if pa.types.is_integer(field.type)]

    assert [name for name in numbers if not name.endswith(("_bytes", "_ns")) and name not in plain_counts] == []
    assert schema.metadata[b"nydusify.schema_version"] == str(SCHEMA_VERSION).encode()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    second = replace(CONVERSION, platform="linux/arm64", verdict="failed", error_class="NotFound")

    assert append([CONVERSION, second], tmp_path) == f"{tmp_path}/conversions/date=2026-11-23/20261123-a1.parquet"
    append([LAYER], tmp_path)

    assert read("conversions", tmp_path).to_pylist() == [asdict(CONVERSION), asdict(second)]
    assert read("layers", str(tmp_path)).to_pylist() == [asdict(LAYER)]
    assert read("layers", f"file://{tmp_path}").num_rows == 1
    assert files(tmp_path) == [
        "conversions/date=2026-11-23/20261123-a1.parquet",
        "layers/date=2026-11-23/20261123-a1.parquet",
    ]


def test_a_file_has_the_schema_and_its_version_inside(tmp_path: Path) -> None:
    path = append([LAYER], tmp_path)

    assert pq.read_schema(path).equals(LAYERS, check_metadata=True)
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_runs_come_back_in_the_order_of_their_dates(tmp_path: Path) -> None:
    for days, run in ((2, "a"), (0, "c"), (0, "b")):
        append([replace(CONVERSION, run_id=run, started_at=CONVERSION.started_at - timedelta(days=days))], tmp_path)

    assert read("conversions", tmp_path)["run_id"].to_pylist() == ["a", "b", "c"]


def test_the_date_is_that_of_utc(tmp_path: Path) -> None:
    started_at = datetime(2026, 11, 24, 0, 30, tzinfo=timezone(timedelta(hours=2)))

    assert "/date=2026-11-23/" in append([replace(CONVERSION, started_at=started_at)], tmp_path)
    assert read("conversions", tmp_path)["started_at"].to_pylist() == [started_at]


def test_a_run_that_is_written_again_replaces_its_file(tmp_path: Path) -> None:
    append([replace(CONVERSION, verdict="failed")], tmp_path)
    append([CONVERSION], tmp_path)

    assert read("conversions", tmp_path)["verdict"].to_pylist() == ["verified"]


def test_nothing_written_is_no_rows_with_all_columns(tmp_path: Path) -> None:
    assert read("conversions", tmp_path / "absent").schema.equals(CONVERSIONS)


def test_older_and_newer_files_are_read_together(tmp_path: Path) -> None:
    append([CONVERSION], tmp_path)
    day = tmp_path / "conversions" / "date=2026-11-23"
    table = pq.read_table(day / "20261123-a1.parquet", partitioning=None)
    pq.write_table(table.drop_columns(["target_index_digest", "error_message"]), day / "0-older.parquet")
    pq.write_table(table.append_column("later_bytes", pa.array([7])), day / "z-newer.parquet")

    rows = read("conversions", tmp_path)

    assert rows.schema.equals(CONVERSIONS)
    assert rows.to_pylist() == [asdict(CONVERSION)] * 3


def test_one_row_longer_than_a_block_of_the_json_reader(tmp_path: Path) -> None:
    rows = [replace(CONVERSION, platform=f"linux/{number}", error_message="é" * 2000) for number in range(1500)]
    append(rows, tmp_path)

    assert read("conversions", tmp_path)["platform"].to_pylist() == [row.platform for row in rows]


@pytest.mark.parametrize("run", ["", "../up", "a/b", ".hidden", "x" * 129, "a\n"])
def test_a_run_id_that_is_no_file_name_is_refused(tmp_path: Path, run: str) -> None:
    with pytest.raises(UsageError, match="not a run id"):
        append([replace(CONVERSION, run_id=run)], tmp_path)
    assert files(tmp_path) == []


def test_rows_of_two_runs_or_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one run, not of 2"):
        append([CONVERSION, replace(CONVERSION, run_id="other")], tmp_path)
    with pytest.raises(UsageError, match="one run, not of 0"):
        append([], tmp_path)


def test_a_file_that_is_no_report_is_an_error_with_its_place(tmp_path: Path) -> None:
    path = Path(append([CONVERSION], tmp_path))
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(FormatError, match="not a report below"):
        read("conversions", tmp_path)
    with pytest.raises(UsageError, match="no such report"):
        read("images", tmp_path)


def test_a_directory_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "conversions").write_text("in the way")

    with pytest.raises(StoreError, match="cannot write the report"):
        append([CONVERSION], tmp_path)
    assert files(tmp_path) == ["conversions"]


def test_a_crash_before_the_rename_leaves_no_report(tmp_path: Path) -> None:
    """The process dies where a power cut hurts most: the bytes are written, the name is not given yet."""
    script = (
        "import os, sys; from tests.test_reports_dataset import CONVERSION; from nydusify.reports import append;"
        "os.fsync = lambda descriptor: os._exit(9); append([CONVERSION], sys.argv[1])"
    )
    died = subprocess.run([sys.executable, "-c", script, tmp_path], cwd=Path(__file__).parent.parent, check=False)

    assert died.returncode == 9
    assert len(files(tmp_path)) == 1
    assert read("conversions", tmp_path).num_rows == 0


def test_directories_with_the_characters_of_a_glob_are_read(tmp_path: Path) -> None:
    append([CONVERSION], tmp_path / "a[b]*?")

    assert read("conversions", tmp_path / "a[b]*?").num_rows == 1


def test_writing_a_report_does_not_even_look_for_pandas(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from tests.test_reports_dataset import CONVERSION\n"
        "from nydusify.reports import append\n"
        "class Witness:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('pandas', 'fsspec'): print(name)\n"
        "sys.meta_path.insert(0, Witness())\n"
        "append([CONVERSION], sys.argv[1])\n"
    )
    run = [sys.executable, "-c", script, tmp_path]
    done = subprocess.run(run, cwd=Path(__file__).parent.parent, check=True, capture_output=True, text=True)

    assert done.stdout == ""
    assert read("conversions", tmp_path).num_rows == 1


def test_addresses_with_credentials_or_of_no_known_kind_are_refused() -> None:
    with pytest.raises(UsageError, match="credentials in the address") as refused:
        append([CONVERSION], "s3://key:hunter2@bucket/reports")
    assert "hunter2" not in str(refused.value)
    with pytest.raises(UsageError, match="not an address"):
        append([CONVERSION], "nosuch://bucket/reports")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().makedirs("reports-bucket", exist_ok=True)
    yield "s3://reports-bucket/nightly"
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_an_object_store_holds_reports_too(bucket: str) -> None:
    assert append([CONVERSION], bucket) == f"{bucket}/conversions/date=2026-11-23/20261123-a1.parquet"

    assert read("conversions", bucket + "/").to_pylist() == [asdict(CONVERSION)]
    assert read("layers", bucket).num_rows == 0


def test_a_bucket_that_is_not_there_is_a_transport_error(bucket: str) -> None:
    with pytest.raises(TransportError, match="cannot write reports at s3://absent-bucket") as failed:
        append([CONVERSION], "s3://absent-bucket/reports")
    assert "test-secret" not in str(failed.value)
