"""A conversion as a value, for steps that each open what they need: tasks of a flow, on whatever machine."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from nydusify.conversion.location import Location, open_source, open_target
from nydusify.conversion.publish import ImageOptions
from nydusify.errors import UsageError
from nydusify.oci.descriptor import Platform
from nydusify.oci.repository import Repository
from nydusify.store import Store


@dataclass(frozen=True, slots=True)
class Job:
    """What becomes what, and how. Holds no credentials. Raises `UsageError` for a target that cannot be one."""

    source: Location
    target: Location
    options: ImageOptions = field(default_factory=ImageOptions)
    platforms: tuple[Platform, ...] = ()
    """Which of a source index; none means the host's."""
    all_platforms: bool = False
    work_dir: Path | None = None
    """Root of the store; the user's cache directory by default."""

    def __post_init__(self) -> None:
        source, target = self.source.name, self.target.name
        if target.digest is not None:
            raise UsageError(f"target {target} names a digest", advice="Give the target a tag.")
        if source == target and self.source.archive == self.target.archive:
            raise UsageError(f"source and target are both {self.source}", advice="Give the target another tag.")

    @property
    def tag(self) -> str:
        return self.target.name.tag or "latest"

    @property
    def store(self) -> Store:
        return Store(self.work_dir)

    @property
    def mount_from(self) -> str | None:
        """The source's repository, if blobs can be mounted from it: both are in one registry."""
        source, target = self.source, self.target
        local = source.archive or target.archive
        return source.name.repository if source.name.registry == target.name.registry and not local else None

    @contextmanager
    def open_source(self) -> Iterator[Repository]:
        with closing(open_source(self.source, self.store.root / "tmp")) as repository:
            yield repository

    @contextmanager
    def open_target(self) -> Iterator[Repository]:
        with closing(open_target(self.target)) as repository:
            yield repository

    @contextmanager
    def open_result(self) -> Iterator[Repository]:
        """The target for reading. An archive's writer would only know what it wrote itself."""
        with closing(open_source(self.target, self.store.root / "tmp")) as repository:
            yield repository


@dataclass(frozen=True, slots=True)
class Effort:
    """When a step ran (Unix time in nanoseconds), and how many of its requests failed and were sent again."""

    stage: str
    started_ns: int
    ended_ns: int
    retries: int = 0

    @classmethod
    def since(cls, stage: str, started_ns: int, *repositories: Repository) -> Self:
        """A step that ends now and used ``repositories``, opened for it alone."""
        retries = sum(getattr(getattr(repository, "stats", None), "retries", 0) for repository in repositories)
        return cls(stage, started_ns, time.time_ns(), retries)

    @property
    def elapsed_ns(self) -> int:
        return max(0, self.ended_ns - self.started_ns)
