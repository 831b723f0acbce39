"""Reports as Parquet files, one a run: ``<root>/<table>/date=YYYY-MM-DD/<run id>.parquet``.

``root`` is a local directory or any fsspec URL such as ``s3://bucket/reports``. Credentials of an object store come
from its own environment (for S3 the AWS one, with ``AWS_ENDPOINT_URL`` for other servers), never from the URL.
"""

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from nydusify.errors import FormatError, NydusifyError, StoreError, TransportError, UsageError
from nydusify.reports.redact import redact
from nydusify.reports.rows import ConversionRow, LayerRow

if TYPE_CHECKING:
    import pyarrow as pa

_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_STORE_ADVICE = "Check the free space and the permissions of the report directory, or name another."


def append(rows: Sequence[ConversionRow] | Sequence[LayerRow], root: str | Path) -> str:
    """Write the rows of one run as one file and return its path or URL. The file appears whole or not at all.

    Writing a run again replaces its file. Raises `UsageError` for rows of several runs, a run id that cannot be a file
    name, or a root that is not understood; `StoreError` or `TransportError` when it cannot be written.
    """
    run, started_at = _one_run(rows)
    name = "conversions" if isinstance(rows[0], ConversionRow) else "layers"
    base = _checked_root(root)
    path = f"{base}/{name}/date={started_at:%Y-%m-%d}/{run}.parquet"
    content = _parquet(name, rows)
    if "://" in base:
        _write_remote(path, content)
    else:
        _write_local(Path(path), content)
    return path


def read(table: str, root: str | Path) -> "pa.Table":
    """All rows of ``conversions`` or ``layers``, in the order of date and run id; no rows where nothing was written.

    Columns that a file of an older version lacks are null; columns of newer versions are left out. Raises `UsageError`
    for another table, `FormatError` for a file that is not a report, `StoreError` or `TransportError` for one that
    cannot be read.
    """
    import pyarrow as pa
    from pyarrow import dataset

    from nydusify.reports.schema import TABLES

    if table not in TABLES:
        raise UsageError(f"no such report: {table!r}; there are {', '.join(TABLES)}")
    base = _checked_root(root)
    filesystem, path = _filesystem(base)
    try:
        files = sorted(filesystem.glob(f"{_literal(path)}/{table}/date=*/*.parquet"))
        if not files:
            return TABLES[table].empty_table()
        return dataset.dataset(files, schema=TABLES[table], filesystem=filesystem, format="parquet").to_table()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise FormatError(f"not a report below {redact(path)}/{table}: {redact(str(error))}") from error
    except Exception as error:
        raise _failure("read", base, error) from error


def _one_run(rows: Sequence[ConversionRow] | Sequence[LayerRow]) -> tuple[str, datetime]:
    runs = {(type(row), row.run_id, row.started_at) for row in rows}
    if len(runs) != 1:
        raise UsageError(f"a report file holds the rows of one table and one run, not of {len(runs)}")
    _, run, started_at = runs.pop()
    if not _RUN_ID.fullmatch(run):
        raise UsageError(f"not a run id: {run!r}", advice="Use letters, digits, '.', '_' and '-', at most 128.")
    return run, started_at


def _parquet(table: str, rows: Sequence[ConversionRow] | Sequence[LayerRow]) -> "pa.Buffer":
    """The rows as a Parquet file in memory.

    They go through Arrow's JSON reader: `pa.array` and `pa.scalar` import pandas where it is installed, which takes
    0.8 s; this way takes 0.06 s, most of it the import of pyarrow.
    """
    import pyarrow as pa
    from pyarrow import json as arrow_json
    from pyarrow import parquet

    from nydusify.reports.schema import TABLES

    lines = "\n".join(json.dumps(asdict(row), default=_json_time) for row in rows).encode()
    columns = arrow_json.read_json(
        pa.BufferReader(lines),
        # One block for all: the reader cannot split a row over two.
        read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
        parse_options=arrow_json.ParseOptions(explicit_schema=TABLES[table], unexpected_field_behavior="error"),
    )
    sink = pa.BufferOutputStream()
    parquet.write_table(columns.replace_schema_metadata(TABLES[table].metadata), sink, compression="zstd")
    return sink.getvalue()


def _json_time(value: datetime) -> str:
    return f"{value:%Y-%m-%dT%H:%M:%S.%f}Z"


def _checked_root(root: str | Path) -> str:
    text = os.fspath(root)
    if "://" not in text:
        return os.path.abspath(text)
    if redact(text) != text:
        raise UsageError(
            f"credentials in the address of the reports: {redact(text)}",
            advice="Leave them out; they are taken from the environment or the profile of the object store.",
        )
    if text.startswith(("file://", "local://")):
        return os.path.abspath(text.partition("://")[2])
    return text.rstrip("/")


def _filesystem(base: str) -> tuple[Any, str]:
    """The fsspec file system of a root and the path within it. Raises `UsageError` when there is none."""
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(base)
    except ImportError as error:
        raise UsageError(f"{base}: {error}", advice="For s3:// addresses install nydusify[s3].") from error
    except ValueError as error:
        raise UsageError(f"not an address of reports: {base}: {error}") from error
    return filesystem, path


def _literal(path: str) -> str:
    """``path`` with the characters that a glob gives a meaning taken literally."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def _write_local(path: Path, content: "pa.Buffer") -> None:
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write the report {path}: {error.strerror}", advice=_STORE_ADVICE) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _write_remote(url: str, content: "pa.Buffer") -> None:
    """One PUT: an object store shows an object when it is whole."""
    filesystem, path = _filesystem(url)
    try:
        filesystem.pipe_file(path, content.to_pybytes())
    except Exception as error:
        raise _failure("write", url, error) from error


def _failure(verb: str, place: str, error: Exception) -> NydusifyError:
    """Every fsspec implementation has exceptions of its own; what they say is shown without its secrets."""
    message = f"cannot {verb} reports at {place}: {type(error).__name__}: {redact(str(error))[:500]}"
    return TransportError(message) if "://" in place else StoreError(message, advice=_STORE_ADVICE)
