"""The rows that a run leaves for the data team, whether it succeeds or not."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from nydusify.conversion.location import Location
from nydusify.conversion.progress import Watch
from nydusify.conversion.publish import BUILDER, ImageOptions
from nydusify.conversion.result import ConvertResult, ImageResult, LayerResult
from nydusify.conversion.source import SourceImage
from nydusify.digest import Digest
from nydusify.errors import NydusifyError
from nydusify.oci.repository import Repository
from nydusify.reports.dataset import append
from nydusify.reports.rows import ConversionRow, LayerRow

STAGES = ("resolve", "pull", "build", "merge", "push", "verify")


@dataclass(slots=True)
class RunFacts:
    """What is known of a run so far."""

    run_id: str
    started_at: datetime
    source: Location
    target: Location
    options: ImageOptions
    watch: Watch
    images: Sequence[SourceImage] = ()
    layers: dict[Digest, LayerResult] = field(default_factory=dict)
    retries: int = 0

    def count_retries(self, *repositories: Repository) -> None:
        """Add up the retries of those that are registries."""
        for repository in repositories:
            self.retries += getattr(getattr(repository, "stats", None), "retries", 0)


def write(root: str, facts: RunFacts, result: ConvertResult) -> str:
    """Append the rows of a run that succeeded; return the path of the conversions' file."""
    layers = [
        _layer_row(facts, image.source, index, layer, result)
        for image in result.images
        for index, layer in enumerate(image.layers)
    ]
    if layers:
        append(layers, root)
    return append([_conversion_row(facts, image, result) for image in result.images], root)


def write_failure(root: str, facts: RunFacts, error: BaseException) -> None:
    """Append the row of a run that failed. What goes wrong here stays unsaid: the run's own error matters more."""
    with suppress(NydusifyError, OSError):
        platforms: list[SourceImage | None] = list(facts.images) or [None]
        rows = [
            ConversionRow(
                **_common(facts),
                platform=str(image.platform) if image and image.platform else None,
                source_digest=str(image.entry.digest) if image else None,
                **_times(facts),
                retries=facts.retries,
                verdict="failed",
                error_class=type(error).__name__,
                error_message=str(error),
            )
            for image in platforms
        ]
        append(rows, root)


def _common(facts: RunFacts) -> dict[str, Any]:
    build = facts.options.build
    return {
        "run_id": facts.run_id,
        "started_at": facts.started_at,
        "source": str(facts.source),
        "target": str(facts.target),
        "fs_version": build.fs_version,
        "compressor": build.compressor.name.lower(),
        "digester": build.digester.name.lower(),
        "chunk_size_bytes": build.chunk_size,
        "builder_version": BUILDER,
    }


def _times(facts: RunFacts) -> dict[str, Any]:
    return {f"{stage}_ns": facts.watch.elapsed(stage) for stage in STAGES} | {
        "elapsed_ns": facts.watch.elapsed("total")
    }


def _conversion_row(facts: RunFacts, image: ImageResult, result: ConvertResult) -> ConversionRow:
    layers, bootstrap = image.layers, image.bootstrap
    reused = [layer for layer in layers if layer.built.origin != "built"]
    source_layers = image.source.manifest.layers
    return ConversionRow(
        **_common(facts),
        **_times(facts),
        platform=str(image.source.platform) if image.source.platform else None,
        source_digest=str(image.source.entry.digest),
        target_digest=str(image.entry.digest),
        target_index_digest=str(result.target_digest) if result.target_digest != image.entry.digest else None,
        layers=len(source_layers),
        reused_layers=len(source_layers) if result.unchanged else len(reused),
        source_bytes=sum(layer.size for layer in source_layers),
        target_bytes=image.target_size,
        bootstrap_bytes=bootstrap.size if bootstrap else 0,
        pulled_bytes=sum(layer.built.pulled_size for layer in layers),
        reused_bytes=sum(layer.source.descriptor.size for layer in reused),
        built_bytes=sum(layer.built.facts.blob_size for layer in layers if layer.built.origin == "built"),
        pushed_bytes=image.pushed_size + sum(layer.pushed_size for layer in layers),
        retries=facts.retries,
        entries=bootstrap.inodes if bootstrap else 0,
        chunks=bootstrap.chunks if bootstrap else 0,
        dedup_chunks=sum(layer.built.facts.repeated_chunks for layer in layers),
        dedup_bytes=sum(layer.built.facts.repeated_size for layer in layers),
        verdict=result.verdict,
    )


def _layer_row(facts: RunFacts, image: SourceImage, index: int, layer: LayerResult, result: ConvertResult) -> LayerRow:
    descriptor, built = layer.source.descriptor, layer.built
    known = built.facts.tar_size > 0  # a blob found at the target does not say what its tar was like
    return LayerRow(
        **_common(facts),
        platform=str(image.platform or ""),
        source_digest=str(image.entry.digest),
        layer_index=index,
        layer_digest=str(descriptor.digest),
        layer_media_type=descriptor.media_type,
        layer_bytes=descriptor.size,
        diff_bytes=built.facts.tar_size if known else None,
        blob_digest=str(built.facts.blob),
        blob_bytes=built.facts.blob_size,
        origin=built.origin,
        pulled_bytes=built.pulled_size,
        pushed_bytes=layer.pushed_size,
        pull_ns=built.pull_ns,
        build_ns=built.build_ns,
        push_ns=layer.push_ns,
        entries=built.facts.entries if known else None,
        chunks=built.facts.chunks,
        dedup_chunks=built.facts.repeated_chunks if known else None,
        dedup_bytes=built.facts.repeated_size if known else None,
        verdict=result.verdict,
    )
