"""Platforms: parsing, normal forms, and choosing entries of an index.

The rules are those of containerd's platforms package: ``x86_64`` is ``amd64``, ``arm64/v8`` is ``arm64``, a bare
``arm`` is ``arm/v7``. A platform matches exactly; nothing falls back from ``arm/v7`` to ``arm/v6``.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from nydusify.errors import PlatformError, UsageError
from nydusify.oci import media
from nydusify.oci.descriptor import Descriptor, Platform
from nydusify.oci.manifest import Index

_PART = re.compile(r"[A-Za-z0-9_.-]+")
_OS_PART = re.compile(r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.-]*)\))?")
_ARCHITECTURES = {
    "i386": "386",
    "i686": "386",
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "loongarch64": "loong64",
}
_ARM_NAMES = {"armhf": "v7", "armel": "v6", "armv7l": "v7", "armv6l": "v6", "armv5tel": "v5"}
_VARIANTS: dict[str, Callable[[str], str]] = {
    "386": lambda variant: "",
    "amd64": lambda variant: "" if variant == "v1" else variant,
    "arm64": lambda variant: {"8": "", "v8": "", "v8.0": "", "9": "v9", "9.0": "v9", "v9.0": "v9"}.get(
        variant, variant
    ),
    "arm": lambda variant: f"v{variant}" if variant.isdigit() else variant or "v7",
}


def parse_platform(text: str) -> Platform:
    """Read ``os/architecture[/variant]``, such as ``linux/arm64/v8``, into its normal form; raise `UsageError`."""
    system, *rest = text.strip().split("/")
    found = _OS_PART.fullmatch(system)
    if not found or len(rest) not in (1, 2) or not all(_PART.fullmatch(part) for part in rest):
        raise UsageError(f"invalid platform {text[:100]!r}", advice="Write it as linux/amd64 or linux/arm/v7.")
    variant = rest[1] if len(rest) == 2 else ""
    return normalize(Platform(found[1], rest[0], variant, os_version=found[2] or ""))


def parse_platforms(text: str) -> list[Platform]:
    """Read a comma-separated list (``--platform``), each platform once, in the order given; raise `UsageError`."""
    return list(dict.fromkeys(parse_platform(part) for part in text.split(",")))


def normalize(platform: Platform) -> Platform:
    """The form in which equal platforms are equal: lower case, Go's names, the default variant left out."""
    system, architecture, variant = platform.os.lower(), platform.architecture.lower(), platform.variant.lower()
    if system == "macos":
        system = "darwin"
    if architecture in _ARM_NAMES:
        architecture, variant = "arm", _ARM_NAMES[architecture]
    architecture = _ARCHITECTURES.get(architecture, architecture)
    variant = _VARIANTS.get(architecture, str)(variant)
    return replace(platform, os=system, architecture=architecture, variant=variant)


def host_platform() -> Platform:
    """Linux on this machine's processor."""
    return normalize(Platform("linux", os.uname().machine))


def is_attestation(descriptor: Descriptor) -> bool:
    """Whether an index entry is BuildKit's provenance or SBOM: no image, though its media type says so."""
    if descriptor.annotations.get(media.ANNOTATION_REFERENCE_TYPE):
        return True
    platform = descriptor.platform
    return platform is not None and (platform.os, platform.architecture) == ("unknown", "unknown")


def is_nydus(descriptor: Descriptor) -> bool:
    """Whether an index entry says that it is a Nydus image, by artifact type or by the older platform feature."""
    platform = descriptor.platform
    marked = platform is not None and media.NYDUS_OS_FEATURE in platform.os_features
    return marked or descriptor.artifact_type == media.NYDUS_ARTIFACT


def select(
    index: Index,
    wanted: list[Platform] | None,
    platform_of: Callable[[Descriptor], Platform | None] | None = None,
) -> list[Descriptor]:
    """The image entries of ``index`` for the ``wanted`` platforms, in that order, or all of them in the index's order.

    Attestations are left out, and so is a Nydus entry beside a plain one of its platform (a merged index is a source
    for its plain images). An entry without a platform is asked for by ``platform_of``, which may read its config; the
    answer is put into the entry. Raises `PlatformError` that names the platforms there are.
    """
    entries = [_with_platform(entry, platform_of) for entry in index.manifests if not is_attestation(entry)]
    plain = {_key(entry) for entry in entries if not is_nydus(entry)}
    entries = [entry for entry in entries if not (is_nydus(entry) and _key(entry) in plain)]
    if wanted is None:
        if not entries:
            raise PlatformError("the index holds no image")
        return entries
    chosen = [next((entry for entry in entries if _matches(entry, platform)), None) for platform in wanted]
    missing = [str(platform) for platform, entry in zip(wanted, chosen, strict=True) if entry is None]
    if missing:
        raise PlatformError(
            f"the image has no platform {', '.join(missing)}; it has {_listed(entries)}",
            advice="Name one of these with --platform, or take all with --all-platforms.",
        )
    return list({entry.digest: entry for entry in chosen if entry is not None}.values())


def check_platform(platform: Platform, wanted: list[Platform] | None) -> None:
    """Raise `PlatformError` unless the single image of ``platform`` satisfies every wanted platform."""
    have = normalize(platform)
    missing = [str(want) for want in wanted or [] if not _same(have, normalize(want))]
    if missing:
        raise PlatformError(
            f"the image has no platform {', '.join(missing)}; it is a single image for {platform}",
            advice="Name its platform with --platform, or take what is there with --all-platforms.",
        )


def _with_platform(entry: Descriptor, platform_of: Callable[[Descriptor], Platform | None] | None) -> Descriptor:
    if entry.platform is not None or platform_of is None:
        return entry
    return replace(entry, platform=platform_of(entry))


def _key(entry: Descriptor) -> Platform | None:
    return None if entry.platform is None else replace(normalize(entry.platform), os_features=())


def _matches(entry: Descriptor, wanted: Platform) -> bool:
    return entry.platform is not None and _same(normalize(entry.platform), normalize(wanted))


def _same(have: Platform, want: Platform) -> bool:
    same = (have.os, have.architecture, have.variant) == (want.os, want.architecture, want.variant)
    return same and want.os_version in ("", have.os_version)


def _listed(entries: Iterable[Descriptor]) -> str:
    names = ["one without a platform" if entry.platform is None else str(entry.platform) for entry in entries]
    return ", ".join(dict.fromkeys(names)) or "none"
