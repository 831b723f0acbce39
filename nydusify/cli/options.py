"""The options of ``nydusify convert``, with the names and environment variables of the reference tool, and their help.

Options that the reference tool does not have read ``NYDUSIFY_…`` variables.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option


@dataclass(frozen=True, slots=True)
class ConvertArguments:
    """As typed; `nydusify.cli.convert` turns them into what the library takes."""

    source: Annotated[str, Option(envvar="SOURCE", metavar="REFERENCE", help="Image to convert.")] = ""
    target: Annotated[str, Option(envvar="TARGET", metavar="REFERENCE", help="Where to push the Nydus image.")] = ""
    target_suffix: Annotated[
        str,
        Option(
            envvar="TARGET_SUFFIX",
            metavar="SUFFIX",
            help="Instead of --target: the source's reference with this appended to its tag.",
        ),
    ] = ""
    source_archive: Annotated[
        str,
        Option(
            envvar="SOURCE_ARCHIVE",
            metavar="PATH",
            help="Read this OCI layout (directory or tar) or docker-save tar instead of pulling; "
            "--source still names the image.",
        ),
    ] = ""
    target_archive: Annotated[
        str,
        Option(
            envvar="TARGET_ARCHIVE",
            metavar="PATH",
            help="Write an OCI layout tar (or directory, if it exists or PATH ends in /) instead of pushing; "
            "--target still names the image.",
        ),
    ] = ""
    source_insecure: Annotated[
        bool, Option("--source-insecure", envvar="SOURCE_INSECURE", help="Accept any certificate of the source.")
    ] = False
    target_insecure: Annotated[
        bool, Option("--target-insecure", envvar="TARGET_INSECURE", help="Accept any certificate of the target.")
    ] = False
    plain_http: Annotated[
        bool, Option("--plain-http", envvar="PLAIN_HTTP", help="Talk HTTP to both registries, not HTTPS.")
    ] = False
    ca_file: Annotated[
        Path | None,
        Option(envvar="NYDUSIFY_CA_FILE", metavar="PATH", help="PEM file of certificate authorities to trust as well."),
    ] = None
    platform: Annotated[
        str,
        Option(
            metavar="OS/ARCH[/VARIANT],…",
            help="Platforms of a source index to convert; this machine's if not given.",
        ),
    ] = ""
    all_platforms: Annotated[bool, Option("--all-platforms", help="Convert every platform of a source index.")] = False
    merge_platform: Annotated[
        bool,
        Option(
            "--merge-platform",
            "--multi-platform",
            envvar="MERGE_PLATFORM",
            help="Push an index with both the OCI and the Nydus manifests.",
        ),
    ] = False
    oci: Annotated[bool, Option("--oci", envvar="OCI", help="Turn Docker media types into OCI's.")] = False
    docker_v2_format: Annotated[
        bool, Option("--docker-v2-format", hidden=True, help="Deprecated: Docker sources stay Docker without it.")
    ] = False
    fs_version: Annotated[int, Option(envvar="FS_VERSION", metavar="5|6", help="RAFS version.")] = 6
    fs_align_chunk: Annotated[
        bool,
        Option(
            "--fs-align-chunk",
            "--backend-aligned-chunk",
            envvar=["FS_ALIGN_CHUNK", "BACKEND_ALIGNED_CHUNK"],
            help="Align chunks to 4 KiB in RAFS 5 as well.",
        ),
    ] = False
    fs_chunk_size: Annotated[
        str,
        Option(
            "--fs-chunk-size",
            "--chunk-size",
            envvar="FS_CHUNK_SIZE",
            metavar="BYTES",
            help="Chunk size, decimal or 0x…: a power of two from 0x1000 to 0x1000000.",
        ),
    ] = "0x100000"
    compressor: Annotated[
        str, Option(envvar="COMPRESSOR", metavar="none|lz4_block|zstd", help="How chunks are compressed.")
    ] = "zstd"
    digester: Annotated[
        str, Option(envvar="NYDUSIFY_DIGESTER", metavar="blake3|sha256", help="How chunks are digested.")
    ] = "blake3"
    prefetch_dir: Annotated[
        str,
        Option(
            envvar="PREFETCH_DIR",
            metavar="PATH",
            help="Absolute path in the image that a runtime reads first; everything if neither this nor "
            "--prefetch-patterns is given.",
        ),
    ] = ""
    prefetch_patterns: Annotated[
        bool,
        Option(
            "--prefetch-patterns",
            envvar="PREFETCH_PATTERNS",
            help="Read such paths from standard input, one a line.",
        ),
    ] = False
    push_retry_count: Annotated[
        int, Option(min=0, envvar="PUSH_RETRY_COUNT", help="How often in a row a push is tried again; 0: never.")
    ] = 5
    push_retry_delay: Annotated[
        str,
        Option(
            envvar="PUSH_RETRY_DELAY",
            metavar="DURATION",
            help="Longest first wait before that, such as 5s or 500ms; each further one doubles.",
        ),
    ] = "1s"
    verify: Annotated[
        bool,
        Option("--verify/--no-verify", envvar="NYDUSIFY_VERIFY", help="Read the pushed image back."),
    ] = True
    jobs: Annotated[
        int,
        Option(min=0, envvar="NYDUSIFY_JOBS", help="Layers to build at the same time; 0: one more than cores."),
    ] = 0
    work_dir: Annotated[
        Path | None,
        Option(
            envvar="WORK_DIR",
            metavar="PATH",
            help="Store of layers and blobs, which is kept between runs as their cache; "
            "~/.cache/nydusify if not given.",
        ),
    ] = None
    store_limit: Annotated[
        str,
        Option(
            envvar="NYDUSIFY_STORE_LIMIT",
            metavar="SIZE",
            help="What the store may hold after a run, such as 20GiB, the longest unused goes first; 0: no limit.",
        ),
    ] = "20GiB"
    reports: Annotated[
        str | None,
        Option(
            envvar="NYDUSIFY_REPORTS",
            metavar="DIR|URL",
            help="Where the Parquet rows of the run go; <work-dir>/reports if not given, nowhere if empty.",
        ),
    ] = None
    output_json: Annotated[
        Path | None,
        Option(envvar="OUTPUT_JSON", metavar="PATH", help="Write digests, sizes and times, or the error, here."),
    ] = None
    json: Annotated[
        bool, Option("--json", envvar="NYDUSIFY_JSON", help="Print the same to standard output, and nothing else.")
    ] = False
    quiet: Annotated[
        bool, Option("--quiet", "-q", envvar="NYDUSIFY_QUIET", help="Neither progress nor summary, only errors.")
    ] = False
    nydus_image: Annotated[
        str,
        Option(envvar="NYDUS_IMAGE", hidden=True, help="Accepted and ignored: the builder is built in."),
    ] = ""
