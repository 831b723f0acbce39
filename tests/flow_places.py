"""An image in a registry for the tests of flows and tasks, and room beside it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nydusify.conversion.job import Job
from nydusify.conversion.location import Location
from nydusify.conversion.steps import Fetched, fetch
from nydusify.oci.descriptor import Descriptor
from nydusify.registry.options import RegistryOptions
from tests.faults import Proxy, fault_proxy
from tests.oci_images import SmallImage, small_image, store
from tests.registry_helpers import repository
from tests.servers import Registry, unique_name

TEXTS = ("one" * 50_000, "two" * 40_000)
EASY = RegistryOptions(plain_http=True, retry_count=0)
"""A client that leaves it to Prefect to try again."""


@dataclass
class Place:
    """An image of two layers that no other test has, as ``source``."""

    host: str
    name: str
    image: SmallImage
    work_dir: Path

    @property
    def source(self) -> str:
        return f"{self.host}/{self.name}:1"

    def target(self) -> str:
        """Another reference each time."""
        return f"{self.host}/{unique_name('target')}:1-nydus"

    def parameters(self, target: str = "", **changes: Any) -> Any:
        """`ConvertParameters`, with a new target if none is named."""
        from flows.parameters import ConvertParameters

        values = {"source": self.source, "target": target or self.target(), "work_dir": str(self.work_dir)}
        return ConvertParameters(**(values | changes))

    def job(self, target: str = "", through: str = "") -> Job:
        """``through`` is the address of a proxy that the source is read by."""
        source = f"{through or self.host}/{self.name}:1"
        return Job(
            Location(source, registry=EASY), Location(target or self.target(), registry=EASY), work_dir=self.work_dir
        )

    def fetched(self) -> Fetched:
        return fetch(self.job())


@pytest.fixture(name="place")
def place_fixture(registry: Registry, repository_name: str, tmp_path: Path) -> Place:
    image = small_image(*(f"{repository_name} {text}" for text in TEXTS))
    with repository(registry.host, repository_name) as opened:
        store(image, opened, "1")
    return Place(registry.host, repository_name, image, tmp_path / "work")


@pytest.fixture(name="proxy")
def proxy_fixture(registry: Registry) -> Iterator[Proxy]:
    with fault_proxy(registry.host) as running:
        yield running


def resolved(reference: str) -> Descriptor:
    location = Location(reference)
    with repository(location.name.registry, location.name.repository) as opened:
        return opened.resolve(location.name.tag or "latest")
