"""The rows of the reports. Their fields are the columns of `nydusify.reports.schema`, in the same order."""

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Literal

from nydusify.reports.redact import redact

MAX_TEXT = 2000
"""Characters kept of a text, so that no server decides how large a report is."""

Verdict = Literal["verified", "unverified", "unchanged", "failed"]
"""``verified``: read back and right. ``unverified``: written, not read back. ``unchanged``: was there already.
``failed``: see the error columns."""

Origin = Literal["built", "store", "target"]
"""Where the blob came from: built in this run, found in the store, or found at the target."""


class Row:
    """Base of the rows: no text in them holds a secret, and every time has its zone."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value = getattr(self, field.name)
            if isinstance(value, str):
                # Names of files may hold undecodable bytes, which neither JSON nor Parquet can.
                clean = redact(value).encode("utf-8", "backslashreplace").decode()
                object.__setattr__(self, field.name, clean[:MAX_TEXT])
            elif isinstance(value, datetime):
                object.__setattr__(self, field.name, value.astimezone(UTC))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionRow(Row):
    """One image on one platform in one run. ``None`` stands for what was not known when the run ended."""

    run_id: str
    """Names the run and its file; letters, digits, ``.``, ``_`` and ``-``."""
    started_at: datetime
    source: str
    """Reference as normalised, or the path of an archive."""
    target: str
    platform: str | None = None
    """Such as ``linux/amd64``; unknown when the source could not be resolved."""
    source_digest: str | None = None
    """Digest of this platform's manifest."""
    target_digest: str | None = None
    target_index_digest: str | None = None
    """Digest under the target's tag when that is an index."""
    fs_version: int
    compressor: str
    digester: str
    chunk_size_bytes: int
    builder_version: str
    layers: int = 0
    reused_layers: int = 0
    """Layers whose blob was in the store or at the target before the run."""
    source_bytes: int = 0
    """Sum of the compressed source layers."""
    target_bytes: int = 0
    """Sum of the target's blobs and its bootstrap layer."""
    bootstrap_bytes: int = 0
    """Bootstrap, uncompressed."""
    pulled_bytes: int = 0
    """Of the layers of this platform; one that platforms share is counted with each."""
    reused_bytes: int = 0
    """Compressed source bytes of the layers that were neither pulled nor built."""
    built_bytes: int = 0
    """Bytes of the blobs built in this run."""
    pushed_bytes: int = 0
    elapsed_ns: int = 0
    resolve_ns: int = 0
    pull_ns: int = 0
    """Stages overlap: each is the time from its first start to its last end, and they add up to more than elapsed."""
    build_ns: int = 0
    merge_ns: int = 0
    push_ns: int = 0
    verify_ns: int = 0
    retries: int = 0
    entries: int = 0
    """Files, directories and other inodes of the merged tree."""
    chunks: int = 0
    dedup_chunks: int = 0
    """Chunks that were found in the image before and not stored again."""
    dedup_bytes: int = 0
    """Uncompressed bytes of those."""
    verdict: Verdict
    error_class: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow(Row):
    """One source layer of one image on one platform in one run."""

    run_id: str
    started_at: datetime
    """Start of the run, as in the conversion's row."""
    source: str
    target: str
    platform: str
    source_digest: str
    """Digest of this platform's source manifest."""
    layer_index: int
    """Position in the image, the lowest layer is 0."""
    layer_digest: str
    layer_media_type: str
    layer_bytes: int
    """Compressed size of the source layer."""
    diff_bytes: int | None = None
    """Size of the tar inside."""
    blob_digest: str | None = None
    blob_bytes: int | None = None
    """Unknown digest and size: the layer failed, or holds no data and has no blob."""
    fs_version: int
    compressor: str
    digester: str
    chunk_size_bytes: int
    builder_version: str
    origin: Origin | None = None
    pulled_bytes: int = 0
    pushed_bytes: int = 0
    pull_ns: int = 0
    build_ns: int = 0
    push_ns: int = 0
    retries: int = 0
    entries: int | None = None
    """Tar entries; like the chunk counts unknown for a blob found at the target."""
    chunks: int | None = None
    dedup_chunks: int | None = None
    dedup_bytes: int | None = None
    verdict: Verdict
    error_class: str | None = None
    error_message: str | None = None
