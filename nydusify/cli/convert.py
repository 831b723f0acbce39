"""``nydusify convert``: options to the library call, its result to people and programs."""

import json
import logging
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nydusify.cli import values
from nydusify.cli.command import with_options
from nydusify.cli.errors import describe
from nydusify.cli.logs import say
from nydusify.cli.options import ConvertArguments
from nydusify.errors import NydusifyError, UsageError

if TYPE_CHECKING:
    from nydusify.conversion.location import Location
    from nydusify.conversion.publish import ImageOptions
    from nydusify.conversion.result import ConvertResult
    from nydusify.convert import ConvertOptions
    from nydusify.registry.options import RegistryOptions

HELP_ADVICE = "See `nydusify convert --help`."
LOGGER = logging.getLogger("nydusify")


@with_options(ConvertArguments)
def convert(arguments: ConvertArguments, environment: list[str]) -> None:
    """Convert an OCI or Docker image into a Nydus image and push it.

    Layers that an earlier run converted with the same options are neither pulled nor built again. The target's tag is
    written last.
    """
    for line in environment:
        say(line)
    try:
        result, target = _convert(arguments)
    except BaseException as error:
        # The file would be missing or stale otherwise; what goes wrong here matters less than the error itself.
        with suppress(NydusifyError, OSError):
            _write_json(arguments, {"Error": describe(error)})
        raise
    from nydusify.cli.summary import as_json, as_text

    _write_json(arguments, as_json(result))
    if not (arguments.quiet or arguments.json):
        print(as_text(result, target), flush=True)


def _convert(arguments: ConvertArguments) -> "tuple[ConvertResult, Location]":
    if arguments.output_json is not None:
        _check_output(arguments.output_json)
    if arguments.docker_v2_format:
        LOGGER.warning("--docker-v2-format is deprecated: Docker sources stay Docker images unless --oci is given")
    if arguments.nydus_image:
        LOGGER.debug("--nydus-image %s is ignored: the builder is built in", arguments.nydus_image)
    source, target = locations(arguments)
    options = convert_options(arguments)

    import nydusify
    from nydusify.cli.output import listener

    with listener(bars=not arguments.json, quiet=arguments.quiet) as progress:
        return nydusify.convert(source, target, options, progress), target


def locations(arguments: ConvertArguments) -> "tuple[Location, Location]":
    """Source and target. Raises `UsageError` for missing, contradicting and malformed names."""
    from nydusify.conversion.location import Location
    from nydusify.oci.reference import Reference

    missing = [
        text
        for text, given in (
            ("--source", arguments.source),
            ("--target (or --target-suffix)", arguments.target or arguments.target_suffix),
        )
        if not given
    ]
    if missing:
        raise UsageError(f"missing: {' and '.join(missing)}", advice=HELP_ADVICE)
    if arguments.target and arguments.target_suffix:
        raise UsageError(
            f"--target {arguments.target} and --target-suffix {arguments.target_suffix} exclude each other",
            advice="Give one of them; the environment variables TARGET and TARGET_SUFFIX count, too.",
        )
    name = Reference.parse(arguments.source)
    target = arguments.target or str(name.with_suffix(arguments.target_suffix))
    Reference.parse(target)
    pulling, pushing = _registry_options(arguments)
    return (
        Location(arguments.source, arguments.source_archive, pulling),
        Location(target, arguments.target_archive, pushing),
    )


def _registry_options(arguments: ConvertArguments) -> "tuple[RegistryOptions, RegistryOptions]":
    """Of the source and the target."""
    from nydusify import __version__
    from nydusify.registry.options import RegistryOptions

    if arguments.ca_file is not None and not arguments.ca_file.is_file():
        raise UsageError(f"--ca-file: {arguments.ca_file} is not a file")
    common = RegistryOptions(
        plain_http=arguments.plain_http, ca_file=arguments.ca_file, user_agent=f"nydusify/{__version__}"
    )
    pushing = replace(
        common,
        insecure=arguments.target_insecure,
        retry_count=arguments.push_retry_count,
        retry_delay=values.parse_duration("--push-retry-delay", arguments.push_retry_delay),
    )
    return replace(common, insecure=arguments.source_insecure), pushing


def convert_options(arguments: ConvertArguments) -> "ConvertOptions":
    """Everything else. Reads standard input for ``--prefetch-patterns``. Raises `UsageError`."""
    from nydusify.convert import ConvertOptions
    from nydusify.oci.platform import parse_platforms
    from nydusify.store import default_root

    root = arguments.work_dir or default_root()
    return ConvertOptions(
        image=_image_options(arguments),
        platforms=tuple(parse_platforms(arguments.platform)) if arguments.platform else (),
        all_platforms=arguments.all_platforms,
        jobs=arguments.jobs,
        verify=arguments.verify,
        store=root,
        store_limit=values.parse_size("--store-limit", arguments.store_limit),
        reports=str(root / "reports") if arguments.reports is None else arguments.reports,
    )


def _image_options(arguments: ConvertArguments) -> "ImageOptions":
    from nydusify.build.options import BUILDABLE, BuildOptions
    from nydusify.conversion.publish import ImageOptions
    from nydusify.rafs.spec import Digester

    build = BuildOptions(
        fs_version=arguments.fs_version,
        compressor=values.parse_choice("--compressor", arguments.compressor, BUILDABLE),
        digester=values.parse_choice("--digester", arguments.digester, Digester),
        chunk_size=values.parse_number("--fs-chunk-size", arguments.fs_chunk_size),
        aligned=arguments.fs_align_chunk,
    )
    return ImageOptions(build, _prefetch(arguments), arguments.oci, arguments.merge_platform)


def _prefetch(arguments: ConvertArguments) -> tuple[bytes, ...]:
    if arguments.prefetch_dir and arguments.prefetch_patterns:
        raise UsageError("--prefetch-dir and --prefetch-patterns exclude each other", advice="Give one of them.")
    if arguments.prefetch_patterns:
        return values.read_patterns("--prefetch-patterns", sys.stdin.buffer)
    return (
        values.check_path("--prefetch-dir", os.fsencode(arguments.prefetch_dir)) if arguments.prefetch_dir else b"/",
    )


def _check_output(path: Path) -> None:
    """Make sure that the file can be there later, and that until then no older one is."""
    if not path.parent.is_dir():
        raise UsageError(f"--output-json: {path.parent} is not a directory")
    if path.is_file():
        with suppress(OSError):
            path.unlink()


def _write_json(arguments: ConvertArguments, value: dict[str, Any]) -> None:
    line = json.dumps(value)
    if arguments.output_json is not None:
        _write_file(arguments.output_json, line.encode() + b"\n")
    if arguments.json:
        print(line, flush=True)


def _write_file(path: Path, content: bytes) -> None:
    if path.exists() and not path.is_file():
        path.write_bytes(content)  # a pipe or a device, which must not be replaced
        return
    from nydusify.oci.files import replacing

    with replacing(path) as file:
        file.write(content)
