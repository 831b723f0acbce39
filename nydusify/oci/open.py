"""One way in for every local path a user may name as source or target."""

from pathlib import Path

from nydusify.errors import NotFound, UsageError
from nydusify.oci.archive import ArchiveRepository
from nydusify.oci.archive_writer import ArchiveWriter
from nydusify.oci.layout import LayoutRepository
from nydusify.oci.reference import Reference
from nydusify.oci.repository import Repository


def open_source(path: Path, reference: Reference | None = None, temp_dir: Path | None = None) -> Repository:
    """An OCI layout directory, an OCI archive or a docker-save tar (plain, gzip or zstd), for reading.

    With one image inside, it answers for any tag; among several, ``reference`` decides. ``temp_dir`` takes the plain
    copy of a compressed tar. Raises `UsageError` if there is nothing to read, `FormatError` if it is no image.
    """
    if path.is_dir():
        if not (path / "oci-layout").is_file():
            raise UsageError(f"{path} is not an OCI layout: it has no file oci-layout")
        return LayoutRepository(path, reference, any_name=True)
    try:
        return ArchiveRepository(path, reference, any_name=True, temp_dir=temp_dir)
    except NotFound:
        raise UsageError(f"source archive {path} is not accessible: no such file") from None


def open_target(path: str | Path, reference: Reference | None = None) -> Repository:
    """Where an image is written: an existing directory or a path that ends in ``/`` is an OCI layout, else a tar.

    ``reference`` is the image's full name, which is written beside its tag. Raises `UsageError`.
    """
    if str(path).endswith("/") or Path(path).is_dir():
        return LayoutRepository(Path(path), reference)
    return ArchiveWriter(Path(path), reference)
