"""Where an image is: a registry reference, or a local archive or layout under that name."""

from dataclasses import dataclass, field
from pathlib import Path

from nydusify.oci.reference import Reference
from nydusify.oci.repository import Repository
from nydusify.registry.options import RegistryOptions
from nydusify.store import store_errors


@dataclass(frozen=True, slots=True)
class Location:
    """A small value that tasks can pass on; it holds no credentials."""

    reference: str
    """Such as ``registry.test/app:1``, Docker's rules."""
    archive: str = ""
    """Path of an OCI layout or archive that is used instead of the registry."""
    registry: RegistryOptions = field(default_factory=RegistryOptions)

    @property
    def name(self) -> Reference:
        """The parsed reference. Raises `UsageError`."""
        return Reference.parse(self.reference)

    def __str__(self) -> str:
        return f"{self.archive} ({self.name})" if self.archive else str(self.name)


def open_source(location: Location, temp_dir: Path | None = None) -> Repository:
    """Open for reading; ``temp_dir`` takes the plain copy of a compressed archive. Raises `UsageError`."""
    if location.archive:
        from nydusify.oci.open import open_source as open_local

        if temp_dir is not None:
            with store_errors(f"work directory {temp_dir}"):
                temp_dir.mkdir(parents=True, exist_ok=True)
        return open_local(Path(location.archive), location.name, temp_dir)
    return _open_registry(location)


def open_target(location: Location) -> Repository:
    """Open for writing. Raises `UsageError`."""
    if location.archive:
        from nydusify.oci.open import open_target as open_local

        return open_local(location.archive, location.name)
    return _open_registry(location)


def _open_registry(location: Location) -> Repository:
    from nydusify.registry.client import RegistryRepository  # costs an import of httpx that archives do not need

    name = location.name
    return RegistryRepository(name.registry, name.repository, location.registry)
