"""What goes under the target's tag, and whether it is there already."""

from collections.abc import Sequence
from dataclasses import replace

from nydusify.conversion.publish import ImageOptions, Present, target_index
from nydusify.conversion.source import SourceImage
from nydusify.oci import media
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.nydus import isolate, isolated_entry


def target_root(
    images: Sequence[SourceImage], entries: Sequence[Descriptor], plain: Sequence[Descriptor], options: ImageOptions
) -> tuple[Descriptor, bytes | None]:
    """The descriptor under the tag, and the bytes of the index; None for one manifest, whose bytes the caller has.

    ``entries`` are the Nydus manifests of ``images``; ``plain`` the source's own, for a merged index.
    """
    if len(entries) == 1 and not options.merge_platform:
        return replace(entries[0], platform=None, annotations={}), None
    docker = media.is_docker(images[0].manifest.media_type) and not options.oci
    index = target_index(entries, plain if options.merge_platform else (), docker)
    return index.descriptor(), index.to_bytes()


def entries_at_target(
    images: Sequence[SourceImage], present: Present, options: ImageOptions, source_reference: str
) -> list[Descriptor] | None:
    """The Nydus manifests of an earlier run, if the tag still is what this one would make; by manifests alone."""
    key = options.key(source_reference)
    found = [present.images.get((image.entry.digest, key)) for image in images]
    entries = [
        replace(entry, platform=image.platform, annotations=image.entry.annotations)
        for entry, image in zip(found, images, strict=True)
        if entry is not None
    ]
    if present.descriptor is None or len(entries) != len(images):
        return None
    plain = [_isolated(image) for image in images] if options.merge_platform else []
    expected, _ = target_root(images, entries, plain, options)
    return entries if expected.digest == present.descriptor.digest else None


def _isolated(image: SourceImage) -> Descriptor:
    manifest, _ = isolate(image.manifest, image.config, image.entry.digest)
    return isolated_entry(replace(image.entry, platform=image.platform), manifest)
