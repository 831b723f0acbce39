"""The columns of the reports, with units in their names. Importing this loads pyarrow: do so inside functions.

Columns are added at the end of their group and never get another meaning; `SCHEMA_VERSION` counts the additions.
What each column means stands with the fields of `nydusify.reports.rows`.
"""

import pyarrow as pa

SCHEMA_VERSION = 1

TEXT = pa.string()
COUNT = pa.uint64()
TIME = pa.timestamp("us", "UTC")

CONVERSIONS = pa.schema(
    [
        ("run_id", TEXT),
        ("started_at", TIME),
        ("source", TEXT),
        ("target", TEXT),
        ("platform", TEXT),
        ("source_digest", TEXT),
        ("target_digest", TEXT),
        ("target_index_digest", TEXT),
        ("fs_version", pa.uint8()),
        ("compressor", TEXT),
        ("digester", TEXT),
        ("chunk_size_bytes", COUNT),
        ("builder_version", TEXT),
        ("layers", COUNT),
        ("reused_layers", COUNT),
        ("source_bytes", COUNT),
        ("target_bytes", COUNT),
        ("bootstrap_bytes", COUNT),
        ("pulled_bytes", COUNT),
        ("reused_bytes", COUNT),
        ("built_bytes", COUNT),
        ("pushed_bytes", COUNT),
        ("elapsed_ns", COUNT),
        ("resolve_ns", COUNT),
        ("pull_ns", COUNT),
        ("build_ns", COUNT),
        ("merge_ns", COUNT),
        ("push_ns", COUNT),
        ("verify_ns", COUNT),
        ("retries", COUNT),
        ("entries", COUNT),
        ("chunks", COUNT),
        ("dedup_chunks", COUNT),
        ("dedup_bytes", COUNT),
        ("verdict", TEXT),
        ("error_class", TEXT),
        ("error_message", TEXT),
    ],
    metadata={"nydusify.table": "conversions", "nydusify.schema_version": str(SCHEMA_VERSION)},
)

LAYERS = pa.schema(
    [
        ("run_id", TEXT),
        ("started_at", TIME),
        ("source", TEXT),
        ("target", TEXT),
        ("platform", TEXT),
        ("source_digest", TEXT),
        ("layer_index", pa.uint32()),
        ("layer_digest", TEXT),
        ("layer_media_type", TEXT),
        ("layer_bytes", COUNT),
        ("diff_bytes", COUNT),
        ("blob_digest", TEXT),
        ("blob_bytes", COUNT),
        ("fs_version", pa.uint8()),
        ("compressor", TEXT),
        ("digester", TEXT),
        ("chunk_size_bytes", COUNT),
        ("builder_version", TEXT),
        ("origin", TEXT),
        ("pulled_bytes", COUNT),
        ("pushed_bytes", COUNT),
        ("pull_ns", COUNT),
        ("build_ns", COUNT),
        ("push_ns", COUNT),
        ("retries", COUNT),
        ("entries", COUNT),
        ("chunks", COUNT),
        ("dedup_chunks", COUNT),
        ("dedup_bytes", COUNT),
        ("verdict", TEXT),
        ("error_class", TEXT),
        ("error_message", TEXT),
    ],
    metadata={"nydusify.table": "layers", "nydusify.schema_version": str(SCHEMA_VERSION)},
)

TABLES = {"conversions": CONVERSIONS, "layers": LAYERS}
