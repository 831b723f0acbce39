"""Uploads to a registry and over a network that fail: they go on from what the registry has."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nydusify.errors import TransportError
from nydusify.registry.client import RegistryRepository
from tests.faults import Handler, Proxy, Upstream, changed, cut_upload, forward, reset, status
from tests.registry_helpers import blob, manifest_of, repository, stored_blob
from tests.servers import Registry


@pytest.fixture
def there(proxy: Proxy, repository_name: str) -> Iterator[RegistryRepository]:
    """A repository behind `proxy`, with short waits."""
    with repository(proxy.host, repository_name) as opened:
        yield opened


@pytest.mark.parametrize("as_file", [True, False])
def test_an_upload_that_is_cut_goes_on_from_what_the_registry_has(
    there: RegistryRepository, proxy: Proxy, registry: Registry, tmp_path: Path, as_file: bool
) -> None:
    content, descriptor = blob(2_500_000, f"cut {as_file}")
    path = tmp_path / "blob"
    path.write_bytes(content)
    proxy.fail("PUT", "/uploads/", cut_upload(1_000_000))
    proxy.fail("PUT", "/uploads/", cut_upload(400_000))

    there.write_blob(descriptor, path if as_file else content)

    assert stored_blob(registry.storage, descriptor.digest).read_bytes() == content
    assert [seen.headers["content-length"] for seen in proxy.requests("PUT")] == ["2500000", "1500000", "1100000"]
    assert proxy.requests("PUT")[-1].headers["content-range"] == "1400000-2499999"
    assert len(proxy.requests("POST")) == 1


def test_an_upload_that_the_registry_forgot_begins_again(
    there: RegistryRepository, proxy: Proxy, registry: Registry
) -> None:
    content, descriptor = blob(2_500_000, "forgotten")
    proxy.fail("PUT", "/uploads/", reset)
    proxy.fail("GET", "/uploads/", status(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}'))

    there.write_blob(descriptor, content)

    assert len(proxy.requests("POST")) == 2
    assert stored_blob(registry.storage, descriptor.digest).read_bytes() == content


def test_a_chunk_that_fails_is_sent_again(proxy: Proxy, registry: Registry, repository_name: str) -> None:
    content, descriptor = blob(2_200_000, "chunk")
    proxy.fail("PATCH", "/uploads/", forward)
    proxy.fail("PATCH", "/uploads/", status(503))
    proxy.fail("PATCH", "/uploads/", reset)
    with repository(proxy.host, repository_name, push_chunk_size=500_000) as chunked:
        chunked.write_blob(descriptor, content)

    ranges = [seen.headers["content-range"] for seen in proxy.requests("PATCH")]
    assert ranges[:4] == ["0-499999", "500000-999999", "500000-999999", "500000-999999"]
    assert (len(ranges), len(proxy.requests("POST"))) == (6, 1)
    assert stored_blob(registry.storage, descriptor.digest).read_bytes() == content


def test_a_registry_that_stays_at_another_offset_gets_a_new_upload(
    proxy: Proxy, registry: Registry, repository_name: str
) -> None:
    content, descriptor = blob(1_200_000, "other offset")
    proxy.fail("PATCH", "/uploads/", status(416), times=2)
    with repository(proxy.host, repository_name, push_chunk_size=500_000) as chunked:
        chunked.write_blob(descriptor, content)

    assert [len(proxy.requests(method, "/uploads/")) for method in ("POST", "GET", "PATCH")] == [2, 1, 4]
    assert stored_blob(registry.storage, descriptor.digest).read_bytes() == content


def test_other_statuses_of_success_will_do(proxy: Proxy, registry: Registry, repository_name: str) -> None:
    content, config = blob(1_200_000, "success")
    manifest, descriptor = manifest_of(config)

    def no_content(answer: Upstream) -> None:
        answer.status = 204

    def accepted(answer: Upstream) -> None:
        answer.status = 202

    proxy.fail("PATCH", "/uploads/", changed(no_content), times=9)
    proxy.fail("PUT", "/manifests/", changed(accepted))
    with repository(proxy.host, repository_name, push_chunk_size=500_000) as chunked:
        chunked.write_blob(config, content)
        chunked.write_manifest(descriptor, manifest, "latest")
        assert chunked.stats.retries == 0

    with repository(registry.host, repository_name) as direct:
        assert direct.resolve("latest") == descriptor


def test_an_upload_whose_answer_was_lost_is_not_repeated(
    there: RegistryRepository, proxy: Proxy, registry: Registry
) -> None:
    content, descriptor = blob(2_500_000, "lost answer")

    def act(handler: Handler) -> None:
        handler.ask("PUT", handler.path, handler.seen.headers, handler.body())
        reset(handler)

    proxy.fail("PUT", "/uploads/", act)
    there.write_blob(descriptor, content)

    assert len(proxy.requests("PUT")) == 1
    assert stored_blob(registry.storage, descriptor.digest).read_bytes() == content


def test_an_upload_that_is_refused_half_way_says_why(there: RegistryRepository, proxy: Proxy) -> None:
    content, descriptor = blob(9_000_000, "too large")

    def act(handler: Handler) -> None:
        handler.body(100_000)
        page = b"<html><head><title>413 Request Entity Too Large</title></head><body>nginx</body></html>"
        answer = Upstream(413, {"content-length": str(len(page)), "connection": "close"}, page)
        handler.send(answer)
        time.sleep(0.2)
        handler.hang_up()

    proxy.fail("PUT", "/uploads/", act, times=9)
    with pytest.raises(TransportError, match="HTTP 413: 413 Request Entity Too Large") as caught:
        there.write_blob(descriptor, content)
    assert "--push-chunk-size" in str(caught.value.advice)


def test_an_upload_location_may_be_relative_and_keeps_its_query(
    there: RegistryRepository, proxy: Proxy, registry: Registry
) -> None:
    content, descriptor = blob(1000, "relative")

    def change(answer: Upstream) -> None:
        answer.headers["location"] = "/" + answer.headers["location"].split("/", 3)[3]

    proxy.fail("POST", "/uploads/", changed(change))
    there.write_blob(descriptor, content)

    assert "_state=" in proxy.requests("PUT")[0].path
    assert stored_blob(registry.storage, descriptor.digest).read_bytes() == content
