"""What a conversion costs in requests, and whether the counters tell the truth about it."""

import logging
import threading
from pathlib import Path

import pytest

from nydusify.digest import Digest
from nydusify.errors import NotFound, RetryLater, TransportError
from nydusify.oci.descriptor import Descriptor
from nydusify.registry.options import RegistryOptions, Stats
from nydusify.registry.web import httpcore
from tests.faults import Proxy, cut_download, cut_upload, reset, status
from tests.registry_helpers import MANIFEST, blob, manifest_of, repository
from tests.servers import Registry, TokenServer, unique_name

CONTENT, BLOB = blob(3_000_000, "stats")
UNASKED = RegistryOptions(retry_delay=0.01, connect_timeout=5, read_timeout=20)
"""No word about HTTP: loopback registries are asked which scheme they speak."""


def counters(stats: Stats) -> tuple[int, int, int, int]:
    return stats.requests, stats.retries, stats.bytes_pulled, stats.bytes_pushed


def lines(proxy: Proxy) -> list[str]:
    """Method and kind of object of each request that a proxy saw."""
    return [f"{seen.method} {seen.path.split('/')[4]}" for seen in proxy.seen]


def large_manifest(number: int) -> tuple[bytes, Descriptor]:
    content = b'{"schemaVersion":2,"mediaType":"%s","annotations":{"n":"%d%s"}}' % (
        MANIFEST.encode(),
        number,
        b"x" * (4_000_000),
    )
    return content, Descriptor(MANIFEST, Digest.of(content), len(content))


# Requests


def test_nothing_is_asked_before_it_is_needed(proxy: Proxy) -> None:
    with repository(proxy.host, "any/name", UNASKED) as there:
        assert counters(there.stats) == (0, 0, 0, 0)
    assert (proxy.connections, proxy.seen) == (0, [])


def test_resolving_and_reading_a_manifest_is_one_request(
    proxy: Proxy, registry: Registry, repository_name: str
) -> None:
    content, config = blob(10)
    manifest, descriptor = manifest_of(config)
    with repository(registry.host, repository_name) as direct:
        direct.write_blob(config, content)
        direct.write_manifest(descriptor, manifest, "latest")

    with repository(proxy.host, repository_name) as there:
        assert there.read_manifest(there.resolve("latest")) == manifest
        assert there.read_manifest(descriptor) == manifest
        assert counters(there.stats) == (1, 0, len(manifest), 0)
    assert lines(proxy) == ["GET manifests"]


def test_a_manifest_that_was_pushed_is_not_asked_for(proxy: Proxy, repository_name: str) -> None:
    content, config = blob(10)
    manifest, descriptor = manifest_of(config)
    with repository(proxy.host, repository_name) as there:
        there.write_blob(config, content)
        there.write_manifest(descriptor, manifest, "latest")
        assert there.read_manifest(descriptor) == manifest
        assert counters(there.stats) == (4, 0, 0, len(content) + len(manifest))
    assert lines(proxy) == ["HEAD blobs", "POST blobs", "PUT blobs", "PUT manifests"]


def test_manifests_that_are_kept_are_bounded(proxy: Proxy, repository_name: str) -> None:
    first, *others = [large_manifest(number) for number in range(5)]
    bodies = {str(descriptor.digest): content for content, descriptor in [first, *others]}
    for digest, content in bodies.items():
        proxy.fail("GET", digest, status(200, content, content_type=MANIFEST), times=2)

    with repository(proxy.host, repository_name) as there:
        for content, descriptor in [first, *others, *others]:
            assert there.read_manifest(descriptor) == content
        assert there.stats.requests == 5
        assert there.read_manifest(first[1]) == first[0]
        assert there.stats.requests == 6


def test_a_loopback_registry_is_asked_once_which_scheme_it_speaks(proxy: Proxy, repository_name: str) -> None:
    with (
        repository(proxy.host, repository_name, UNASKED) as there,
        repository(proxy.host, unique_name(), UNASKED) as neighbour,
    ):
        assert not there.has_blob(BLOB)
        there.write_blob(BLOB, CONTENT)
        assert not neighbour.has_blob(BLOB)
        assert b"".join(there.open_blob(BLOB)) == CONTENT
        assert there.stats.requests == 5
    assert lines(proxy) == ["HEAD blobs", "HEAD blobs", "POST blobs", "PUT blobs", "HEAD blobs", "GET blobs"]
    assert proxy.connections == 2  # that question, and one connection for all requests


# Counters


def test_repositories_of_one_registry_are_counted_apart(registry: Registry) -> None:
    with repository(registry.host, unique_name()) as one, repository(registry.host, unique_name()) as other:
        one.write_blob(BLOB, CONTENT)
        assert not other.has_blob(BLOB)
        assert counters(one.stats) == (3, 0, 0, len(CONTENT))
        assert counters(other.stats) == (1, 0, 0, 0)


def test_a_redirect_is_a_request_but_no_retry(proxy: Proxy, repository_name: str) -> None:
    target = f"/v2/{repository_name}/blobs/elsewhere"
    proxy.fail("GET", "/blobs/sha256:", status(307, location=target))
    proxy.fail("GET", "/blobs/elsewhere", status(200, CONTENT))

    with repository(proxy.host, repository_name) as there:
        assert b"".join(there.open_blob(BLOB)) == CONTENT
        assert counters(there.stats) == (2, 0, len(CONTENT), 0)


def test_what_was_cut_is_counted_as_often_as_it_was_carried(proxy: Proxy, repository_name: str) -> None:
    proxy.fail("PUT", "/uploads/", cut_upload(1_000_000))
    with repository(proxy.host, repository_name) as there:
        sent = there.write_blob(BLOB, CONTENT)
        # HEAD, POST, PUT; then HEAD, GET (how far it got), PUT.
        assert (there.stats.requests, there.stats.retries) == (6, 1)
        assert sent == there.stats.bytes_pushed > len(CONTENT)

        proxy.fail("GET", "/blobs/", reset)
        proxy.fail("GET", "/blobs/", status(500))
        proxy.fail("GET", "/blobs/", cut_download(2_000_000))
        assert b"".join(there.open_blob(BLOB)) == CONTENT
        assert (there.stats.requests, there.stats.retries) == (10, 4)
        assert there.stats.bytes_pulled == len(CONTENT)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_last_failure_is_not_counted_as_a_retry(proxy: Proxy, repository_name: str, count: int) -> None:
    proxy.fail("PUT", "/manifests/", status(503), times=99)
    manifest, descriptor = manifest_of(BLOB)

    with repository(proxy.host, repository_name, retry_count=count) as there:
        with pytest.raises(RetryLater):
            there.write_manifest(descriptor, manifest, "latest")
        assert counters(there.stats) == (count + 1, count, 0, 0)


def test_a_final_answer_is_no_retry(proxy: Proxy, repository_name: str) -> None:
    with repository(proxy.host, repository_name) as there:
        with pytest.raises(NotFound):
            there.resolve("nothing")
        proxy.fail("HEAD", "/blobs/", status(403))
        with pytest.raises(TransportError):
            there.has_blob(BLOB)
        assert counters(there.stats) == (2, 0, 0, 0)


def test_token_servers_are_not_counted(token_registry: Registry, docker_config: Path, repository_name: str) -> None:
    tokens = token_registry.tokens
    assert isinstance(tokens, TokenServer)
    with repository(token_registry.host, repository_name, UNASKED) as there:
        with pytest.raises(NotFound):
            there.resolve("nothing")
        assert len(tokens.requests) == 1
        assert counters(there.stats) == (2, 0, 0, 0)  # without a token, and with it


def test_threads_do_not_lose_counts() -> None:
    stats = Stats()

    def work() -> None:
        for _ in range(2000):
            stats.add(requests=1, retries=2, bytes_pulled=3, bytes_pushed=4)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters(stats) == (8000, 16000, 24000, 32000)
    assert repr(stats) == "Stats(requests=8000, retries=16000, bytes_pulled=24000, bytes_pushed=32000)"


# What goes with a request


def test_sockets_are_read_in_large_pieces() -> None:
    asked: list[int] = []

    class Stream(httpcore.MockStream):
        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            asked.append(max_bytes)
            return super().read(max_bytes, timeout)

    class Backend(httpcore.MockBackend):
        def connect_tcp(self, *arguments: object, **options: object) -> httpcore.NetworkStream:
            return Stream([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok"])

    with httpcore.ConnectionPool(network_backend=Backend([])) as pool:
        assert pool.request("GET", "http://registry.test/").content == b"ok"
    assert set(asked) == {1 << 20}


def test_the_log_of_the_http_library_holds_no_secrets(
    proxy: Proxy, repository_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    location = f"http://{proxy.host}/x/y/z/storage?X-Signature=s3cret-signature"
    proxy.fail("GET", "/blobs/", status(307, location=location, set_cookie="session=s3cret-cookie"))
    proxy.fail("GET", "/storage", status(200, CONTENT))

    with caplog.at_level(logging.DEBUG), repository(proxy.host, repository_name) as there:
        assert b"".join(there.open_blob(BLOB)) == CONTENT
        there.write_blob(BLOB, CONTENT)
    assert f'GET http://{proxy.host}/x/y/z/storage "HTTP/1.1 200 OK"' in caplog.text
    assert "receive_response_headers.complete" in caplog.text
    assert "s3cret" not in caplog.text
    assert "_state=" not in caplog.text
