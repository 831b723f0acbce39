"""The named images of an OCI layout's ``index.json``. Source: OCI image-spec, image-layout.md; containerd's import."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from nydusify.errors import NotFound, UsageError
from nydusify.oci import media
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.manifest import Index
from nydusify.oci.reference import Reference

NAME_KEYS = (media.ANNOTATION_REF_NAME, media.ANNOTATION_IMAGE_NAME)


@dataclass(frozen=True, slots=True)
class NamedImage:
    names: frozenset[str]
    """As they are written: tags, full references, or both; empty for an image without a name."""
    descriptor: Descriptor
    content: bytes | None = None
    """The index that was made of several entries of one name; None for content that is in the layout."""

    def tags(self) -> set[str]:
        return {tag for name in self.names for tag in (name, _tag_of(name))}


def list_images(entries: Iterable[Descriptor]) -> list[NamedImage]:
    """One image a name. Entries of one name (or of none) that differ in their platforms become an index."""
    groups: dict[frozenset[str], list[Descriptor]] = {}
    for entry in entries:
        members = groups.setdefault(_names(entry), [])
        bare = _without_names(entry)
        if bare not in members:
            members.append(bare)
    return [image for names, members in groups.items() for image in _images(names, members)]


def find_image(
    images: list[NamedImage], wanted: str, where: str, reference: Reference | None, *, any_name: bool
) -> NamedImage:
    """The image under a tag. ``reference`` decides between repositories; ``any_name`` takes the only image there is.

    Raises `NotFound` that names what there is, `UsageError` if the tag fits several images.
    """
    fitting = [image for image in images if wanted in image.tags()]
    if len({image.descriptor.digest for image in fitting}) > 1 and reference is not None:
        full = str(reference.with_tag(wanted))
        fitting = [image for image in fitting if full in map(_normal, image.names)] or fitting
    if not fitting and any_name and len({image.descriptor.digest for image in images}) == 1:
        fitting = images
    names = ", ".join(sorted({name for image in images for name in image.names})[:20]) or "images without names"
    if not fitting:
        raise NotFound(f"{where}: there is no image {wanted!r}; it holds {names}")
    if len({image.descriptor.digest for image in fitting}) > 1:
        raise UsageError(
            f"{where}: several images fit {wanted!r}: {names}", advice="Give --source the full name of one."
        )
    return fitting[0]


def named_entry(descriptor: Descriptor, tag: str, reference: Reference | None) -> Descriptor:
    """The entry of ``index.json`` for an image that is stored under ``tag``."""
    names = {media.ANNOTATION_REF_NAME: tag}
    if reference is not None:
        names[media.ANNOTATION_IMAGE_NAME] = str(reference.with_tag(tag))
    return replace(descriptor, annotations={**descriptor.annotations, **names})


def _images(names: frozenset[str], members: list[Descriptor]) -> list[NamedImage]:
    platforms = {entry.platform for entry in members}
    if len(members) > 1 and None not in platforms and len(platforms) == len(members):
        index = Index(tuple(members))
        return [NamedImage(names, index.descriptor(), index.to_bytes())]
    return [NamedImage(names, entry) for entry in members]


def _names(entry: Descriptor) -> frozenset[str]:
    """The names of an entry. Tools that tag an image anew copy containerd's name along, so it must agree to count."""
    own, full = (entry.annotations.get(key) for key in NAME_KEYS)
    if own and full and _tag_of(own) != _tag_of(full):
        full = None
    return frozenset(name for name in (own, full) if name)


def _without_names(entry: Descriptor) -> Descriptor:
    kept = {key: value for key, value in entry.annotations.items() if key not in NAME_KEYS}
    return replace(entry, annotations=kept)


def _tag_of(name: str) -> str:
    """The tag of a name that may be a full reference or the tag alone."""
    try:
        return Reference.parse(name).tag or name if set(name) & set("/:") else name
    except UsageError:
        return name


def _normal(name: str) -> str:
    try:
        return str(Reference.parse(name))
    except UsageError:
        return name
