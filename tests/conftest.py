"""Fixtures that several files share: the registries."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import Proxy, fault_proxy
from tests.servers import Registry, docker_registry, tls_docker_registry, token_docker_registry, unique_name


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A docker-registry over plain HTTP, without authentication. Use a `repository_name` of your own in it."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def tls_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A docker-registry with TLS by its own authority (``ca_file``) and basic authentication."""
    with tls_docker_registry(tmp_path_factory.mktemp("tls-registry")) as running:
        yield running


@pytest.fixture(scope="session")
def _token_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with token_docker_registry(tmp_path_factory.mktemp("token-registry")) as running:
        yield running


@pytest.fixture
def token_registry(_token_registry: Registry) -> Registry:
    """A docker-registry over HTTP that wants tokens of the server ``tokens``, which starts each test afresh."""
    assert _token_registry.tokens is not None
    _token_registry.tokens.reset()
    return _token_registry


@pytest.fixture
def repository_name() -> str:
    """A repository name that no other test uses."""
    return unique_name()


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Proxy]:
    """What makes faults, before `registry`."""
    with fault_proxy(registry.host) as running:
        yield running


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that DOCKER_CONFIG points at."""
    directory = tmp_path / "docker-config"
    directory.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(directory))
    return directory
