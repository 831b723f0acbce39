"""The pushed image read back from where it was pushed to."""

from collections.abc import Sequence

from nydusify.errors import FormatError, NotFound
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.manifest import ImageConfig, Manifest
from nydusify.oci.nydus import check_nydus_config, check_nydus_manifest
from nydusify.oci.repository import Repository

MAX_CONFIG = 8 << 20


def verify_image(target: Repository, tag: str, root: Descriptor, entries: Sequence[Descriptor]) -> None:
    """Raise `FormatError` or `NotFound` unless ``root`` is under ``tag`` and everything below it is there.

    Manifests, configs and bootstraps of the Nydus manifests ``entries`` are read and digested; blobs are asked for by
    digest and size. Whether they are right is `nydusify check`'s business.
    """
    found = target.resolve(tag)
    if found.digest != root.digest:
        raise FormatError(
            f"{target.name}: {tag} is {found.digest}, {root.digest} was pushed",
            advice="Somebody else pushed to the same tag meanwhile; convert again or choose another target.",
        )
    for entry in entries:
        manifest = Manifest.parse(target.read_manifest(entry), entry.media_type)
        check_nydus_manifest(manifest)
        *blobs, bootstrap = manifest.layers
        if manifest.config.size > MAX_CONFIG:
            raise FormatError(f"{target.name}: config {manifest.config.digest} has {manifest.config.size} bytes")
        config = ImageConfig.parse(b"".join(target.open_blob(manifest.config)))
        check_nydus_config(manifest, config)
        for _ in target.open_blob(bootstrap):
            pass  # the stream verifies digest and size
        for blob in blobs:
            if not target.has_blob(blob):
                raise NotFound(f"{target.name}: blob {blob.digest} of {entry.digest} is missing")
