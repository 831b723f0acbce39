"""The result of a conversion, as text for people and as JSON for programs."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nydusify.cli.values import human_size, human_time

if TYPE_CHECKING:
    from nydusify.conversion.location import Location
    from nydusify.conversion.result import ConvertResult, ImageResult, LayerResult


def as_text(result: "ConvertResult", target: "Location") -> str:
    """Some lines for every platform, the times, the verdict, where the Parquet lies; last, what was converted."""
    lines = [line for image in result.images for line in _image_lines(image, result.unchanged)]
    if not result.unchanged:
        lines.append(
            f"times     pull {human_time(result.pull_ns)}, build {human_time(result.build_ns)}, "
            f"push {human_time(result.push_ns)} (they overlap)"
        )
    lines.append(f"verdict   {_verdict(result)}")
    if result.report:
        lines.append(f"report    {result.report}")
    pinned = replace(target, reference=f"{target.name}@{result.target_digest}")
    lines.append(f"converted {result.source} -> {pinned} in {human_time(result.elapsed_ns)}")
    return "\n".join(lines)


def _image_lines(image: "ImageResult", unchanged: bool) -> list[str]:
    platform = str(image.source.platform) if image.source.platform else "no platform"
    lines = [f"{platform}  {image.entry.digest}"]
    if unchanged:
        return lines
    reused = sum(layer.built.origin != "built" for layer in image.layers)
    facts = [layer.built.facts for layer in image.layers]
    share = f" ({image.target_size / image.source_size:.0%})" if image.source_size else ""
    return [
        *lines,
        f"  layers  {len(image.layers)}: {len(image.layers) - reused} built, {reused} reused",
        f"  size    {human_size(image.source_size)} -> {human_size(image.target_size)}{share}",
        f"  dedup   {sum(fact.repeated_chunks for fact in facts)} repeated chunks, "
        f"{human_size(sum(fact.repeated_size for fact in facts))} stored once only",
    ]


def _verdict(result: "ConvertResult") -> str:
    if result.unchanged:
        return "unchanged: the target already is what this conversion makes"
    return "verified: the target was read back" if result.verified else "not verified"


def as_json(result: "ConvertResult") -> dict[str, Any]:
    """The reference tool's five fields and more. Sizes are bytes, times (…Elapsed) nanoseconds.

    Source: nydusify-behaviour.md, 4, "--output-json".
    """
    return {
        "SourceImageSize": result.source_size,
        "TargetImageSize": result.target_size,
        "SourcePullElapsed": result.pull_ns,
        "ConversionElapsed": result.build_ns,
        "TargetPushElapsed": result.push_ns,
        "Elapsed": result.elapsed_ns,
        "Source": result.source,
        "Target": result.target,
        "SourceDigest": str(result.source_digest),
        "TargetDigest": str(result.target_digest),
        "TargetMediaType": result.target_media_type,
        "Unchanged": result.unchanged,
        "Verified": result.verified,
        "Report": result.report,
        "Platforms": [_platform_json(image) for image in result.images],
        "Layers": [_layer_json(layer) for layer in result.layers],
    }


def _platform_json(image: "ImageResult") -> dict[str, Any]:
    return {
        "Platform": str(image.source.platform) if image.source.platform else None,
        "SourceDigest": str(image.source.entry.digest),
        "TargetDigest": str(image.entry.digest),
        "SourceSize": image.source_size,
        "TargetSize": image.target_size,
        "PushedSize": image.pushed_size,
        "BootstrapSize": image.bootstrap.size if image.bootstrap else None,
        "Inodes": image.bootstrap.inodes if image.bootstrap else None,
        "Chunks": image.bootstrap.chunks if image.bootstrap else None,
        "Layers": [str(layer.digest) for layer in image.source.manifest.layers],
    }


def _layer_json(layer: "LayerResult") -> dict[str, Any]:
    built = layer.built
    return {
        "Source": str(layer.source.descriptor.digest),
        "Blob": str(built.facts.blob),
        "Origin": built.origin,
        "SourceSize": layer.source.descriptor.size,
        "BlobSize": built.facts.blob_size,
        "PulledSize": built.pulled_size,
        "PushedSize": layer.pushed_size,
        "Chunks": built.facts.chunks,
        "RepeatedChunks": built.facts.repeated_chunks,
        "RepeatedSize": built.facts.repeated_size,
        "PullElapsed": built.pull_ns,
        "BuildElapsed": built.build_ns,
        "PushElapsed": layer.push_ns,
    }
