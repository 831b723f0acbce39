"""A registry and a network that fail: what is tried again, how, and what the user is told in the end."""

import email.utils
import time
from collections.abc import Iterator

import pytest

from nydusify.errors import AuthError, DigestMismatch, FormatError, NotFound, NydusifyError, RetryLater, TransportError
from nydusify.oci.descriptor import Descriptor
from nydusify.registry.client import RegistryRepository
from tests.faults import (
    Action,
    Handler,
    Proxy,
    Upstream,
    changed,
    cut_download,
    reset,
    silent,
    status,
    without_range,
)
from tests.registry_helpers import MANIFEST, blob, manifest_of, repository
from tests.servers import Registry, free_port

CONTENT, BLOB = blob(3_000_000, "faults")


@pytest.fixture
def there(proxy: Proxy, repository_name: str) -> Iterator[RegistryRepository]:
    """A repository behind `proxy`, with short waits."""
    with repository(proxy.host, repository_name) as opened:
        yield opened


@pytest.fixture
def with_blob(there: RegistryRepository, registry: Registry, repository_name: str) -> RegistryRepository:
    """The same, with `BLOB` in it, put there without the proxy."""
    with repository(registry.host, repository_name) as direct:
        direct.write_blob(BLOB, CONTENT)
    return there


def pull(where: RegistryRepository) -> bytes:
    return b"".join(where.open_blob(BLOB))


# Downloads


def test_a_download_that_is_cut_goes_on_where_it_stopped(with_blob: RegistryRepository, proxy: Proxy) -> None:
    proxy.fail("GET", "/blobs/", cut_download(1_000_000))
    proxy.fail("GET", "/blobs/", cut_download(500_000))

    assert pull(with_blob) == CONTENT
    assert [seen.headers.get("range") for seen in proxy.requests("GET")] == [
        None,
        "bytes=1000000-",
        "bytes=1500000-",
    ]
    assert (with_blob.stats.retries, with_blob.stats.bytes_pulled) == (2, len(CONTENT))


def test_a_server_without_ranges_sends_everything_again(with_blob: RegistryRepository, proxy: Proxy) -> None:
    proxy.fail("GET", "/blobs/", cut_download(1_000_000))
    proxy.fail("GET", "/blobs/", without_range)

    assert pull(with_blob) == CONTENT
    assert with_blob.stats.bytes_pulled == len(CONTENT) + 1_000_000


@pytest.mark.parametrize(
    "wrong",
    ["bytes 0-1999999/3000000", "bytes 1000000-2999999/3000001", "bytes 1000000-1999999/3000000", "nonsense", None],
)
def test_another_range_than_the_one_asked_for_is_not_used(
    with_blob: RegistryRepository, proxy: Proxy, wrong: str | None
) -> None:
    def change(answer: Upstream) -> None:
        del answer.headers["content-range"]
        if wrong is not None:
            answer.headers["content-range"] = wrong

    proxy.fail("GET", "/blobs/", cut_download(1_000_000))
    proxy.fail("GET", "/blobs/", changed(change))

    assert pull(with_blob) == CONTENT
    assert "range" not in proxy.requests("GET")[-1].headers


def test_a_range_is_read_from_a_server_without_ranges(with_blob: RegistryRepository, proxy: Proxy) -> None:
    proxy.fail("GET", "/blobs/", without_range)

    assert with_blob.read_blob_range(BLOB, 1_234_567, 1000) == CONTENT[1_234_567:1_235_567]


def test_a_range_survives_a_cut(with_blob: RegistryRepository, proxy: Proxy) -> None:
    proxy.fail("GET", "/blobs/", cut_download(600))

    assert with_blob.read_blob_range(BLOB, 1_234_567, 1000) == CONTENT[1_234_567:1_235_567]
    assert proxy.requests("GET")[-1].headers["range"] == "bytes=1235167-1235566"


def test_a_download_is_given_up_when_nothing_comes(with_blob: RegistryRepository, proxy: Proxy) -> None:
    proxy.fail("GET", "/blobs/", cut_download(100), times=99)

    with pytest.raises(TransportError, match="pull blob sha256:"):
        pull(with_blob)
    assert (with_blob.stats.retries, len(proxy.requests("GET"))) == (5, 6)


def test_progress_forgives_failures(with_blob: RegistryRepository, proxy: Proxy, repository_name: str) -> None:
    proxy.fail("GET", "/blobs/", cut_download(1_100_000), times=2)

    with repository(proxy.host, repository_name, retry_count=1) as stubborn:
        assert pull(stubborn) == CONTENT


def test_wrong_bytes_are_noticed(with_blob: RegistryRepository, proxy: Proxy) -> None:
    def change(answer: Upstream) -> None:
        answer.body = answer.body[:-1] + bytes([answer.body[-1] ^ 1])

    proxy.fail("GET", "/blobs/", changed(change))

    with pytest.raises(DigestMismatch):
        pull(with_blob)


@pytest.mark.parametrize("length", [2_999_999, 3_000_001])
def test_a_wrong_length_is_noticed_before_anything_is_read(
    with_blob: RegistryRepository, proxy: Proxy, length: int
) -> None:
    def change(answer: Upstream) -> None:
        answer.body = (answer.body + b"x")[:length]
        answer.headers["content-length"] = str(length)

    proxy.fail("GET", "/blobs/", changed(change))

    with pytest.raises(DigestMismatch, match=f"{length} bytes, 3000000 were promised"):
        pull(with_blob)
    assert with_blob.stats.bytes_pulled == 0


def longer(handler: Handler) -> None:
    """Send more than the registry does, without saying how much."""

    def change(answer: Upstream) -> None:
        del answer.headers["content-length"]
        answer.body += bytes(5_000_000)

    changed(change)(handler)
    handler.hang_up()


def test_a_body_without_length_that_is_longer_is_noticed(with_blob: RegistryRepository, proxy: Proxy) -> None:
    proxy.fail("GET", "/blobs/", longer)

    with pytest.raises(DigestMismatch, match="more than the 3000000 bytes"):
        pull(with_blob)


@pytest.mark.parametrize("offset", [0, 2_000_000, 2_999_990])
def test_a_range_is_never_longer_than_asked_for(with_blob: RegistryRepository, proxy: Proxy, offset: int) -> None:
    proxy.fail("GET", "/blobs/", longer)

    assert with_blob.read_blob_range(BLOB, offset, 10) == CONTENT[offset : offset + 10]
    assert with_blob.stats.bytes_pulled < 3_000_000  # two pieces of about 1 MiB, not the 5 MB that are sent


# Statuses, resets, time-outs


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504, 522])
def test_a_passing_trouble_is_tried_again(with_blob: RegistryRepository, proxy: Proxy, code: int) -> None:
    proxy.fail("HEAD", "/blobs/", status(code), times=2)
    proxy.fail("GET", "/blobs/", status(code), times=2)

    assert with_blob.has_blob(BLOB)
    assert pull(with_blob) == CONTENT
    assert with_blob.stats.retries == 4


@pytest.mark.parametrize("code", [400, 403, 404, 405, 409, 410, 413, 415, 501])
def test_other_statuses_are_final(there: RegistryRepository, proxy: Proxy, code: int) -> None:
    proxy.fail("GET", "/manifests/", status(code), times=9)

    with pytest.raises(TransportError, match=f"HTTP {code}") as caught:
        there.resolve("latest")
    assert isinstance(caught.value, NotFound) == (code == 404)
    assert isinstance(caught.value, AuthError) == (code == 403)
    assert there.stats.retries == 0


@pytest.mark.parametrize("fault", [reset, silent])
def test_resets_and_silence_are_tried_again(
    with_blob: RegistryRepository, proxy: Proxy, repository_name: str, fault: Action
) -> None:
    for method, path in (("GET", "/blobs/"), ("HEAD", "/blobs/"), ("POST", "/uploads/"), ("PUT", "/uploads/")):
        proxy.fail(method, path, fault)
    content, descriptor = blob(1000, repository_name)

    with repository(proxy.host, repository_name, read_timeout=0.4) as hasty:
        assert pull(hasty) == CONTENT
        assert hasty.write_blob(descriptor, content) > 0
        assert pull_all(hasty, descriptor) == content
        assert hasty.stats.retries == 4


def pull_all(where: RegistryRepository, descriptor: Descriptor) -> bytes:
    return b"".join(where.open_blob(descriptor))


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(with_blob: RegistryRepository, proxy: Proxy, code: int, form: str) -> None:
    now = time.time() - 3600  # the server's clock is an hour behind ours
    later = {"seconds": "1", "date": email.utils.formatdate(now + 1, usegmt=True)}[form]
    proxy.fail("HEAD", "/blobs/", status(code, retry_after=later, date=email.utils.formatdate(now, usegmt=True)))

    assert with_blob.has_blob(BLOB)
    first, second = proxy.requests("HEAD")
    assert second.at - first.at >= 1


def test_retry_after_is_bounded(with_blob: RegistryRepository, proxy: Proxy, repository_name: str) -> None:
    proxy.fail("HEAD", "/blobs/", status(503, retry_after="86400"))

    with repository(proxy.host, repository_name, retry_limit=0.1) as hasty:
        assert hasty.has_blob(BLOB)


def test_a_server_that_stays_busy_is_said_to_be_busy(there: RegistryRepository, proxy: Proxy) -> None:
    proxy.fail("GET", "/manifests/", status(429, b"slow down", retry_after="0"), times=99)

    with pytest.raises(RetryLater, match="slow down") as caught:
        there.resolve("latest")
    assert (caught.value.after, there.stats.retries) == (0, 5)
    assert "fewer jobs" in str(caught.value.advice)


def test_retries_can_be_turned_off(proxy: Proxy, repository_name: str) -> None:
    proxy.fail("GET", "/manifests/", status(503))

    with repository(proxy.host, repository_name, retry_count=0) as once, pytest.raises(RetryLater):
        once.resolve("latest")
    assert len(proxy.seen) == 1


def test_a_registry_that_is_not_there_is_not_tried_again(repository_name: str) -> None:
    with repository(f"127.0.0.1:{free_port()}", repository_name) as nowhere:
        with pytest.raises(TransportError, match="connection refused"):
            nowhere.resolve("latest")
        assert nowhere.stats.retries == 0


def test_requests_share_a_connection(with_blob: RegistryRepository, proxy: Proxy, repository_name: str) -> None:
    content, descriptor = blob(100_000, repository_name)
    proxy.fail("HEAD", "/blobs/", status(503))
    proxy.fail("GET", "/blobs/", status(307, b"elsewhere", location=f"/v2/{repository_name}/blobs/{BLOB.digest}?again"))

    with_blob.write_blob(descriptor, content)
    with_blob.has_blob(BLOB)
    pull(with_blob)
    for offset in (0, 70_000, 2_000_000):
        with_blob.read_blob_range(BLOB, offset, 80_000)
    with pytest.raises(NotFound):
        with_blob.resolve("nothing")
    with_blob.has_blob(BLOB)

    assert proxy.connections == 1
    assert {seen.headers["accept-encoding"] for seen in proxy.seen} == {"identity"}


# Hostile answers


HOSTILE = [
    (b"", "HTTP 500"),
    (b"<html><title>\n Bad\tgateway </title><script>alert(1)</script>", "HTTP 500: Bad gateway"),
    (b"<p>plain <b>words</b></p>", "HTTP 500: plain words"),
    (b'{"errors":[{"code":"X","message":"m","detail":{"a":1}},{"code":"Y"}]}', 'HTTP 500: X: m: {"a": 1}; Y'),
    (b'{"errors":"no list"}', "HTTP 500: {"),
    (b"\x00\x1b[31mred\xff", "HTTP 500: [31mred"),
    (b"see https://user:pw@cdn.test/x?X-Sig=abc for it", "HTTP 500: see https://cdn.test/x for it"),
    (b"[" * 60_000, "HTTP 500: [["),
    (b"<" * 60_000, "HTTP 500: <<"),
    (b"a" * 5_000_000, "HTTP 500: aaaa"),
]


@pytest.mark.parametrize(("body", "shown"), HOSTILE, ids=[str(number) for number in range(len(HOSTILE))])
def test_an_error_body_is_shown_in_one_short_line(proxy: Proxy, repository_name: str, body: bytes, shown: str) -> None:
    proxy.fail("GET", "/manifests/", status(500, body))

    with repository(proxy.host, repository_name, retry_count=0) as there, pytest.raises(TransportError) as caught:
        there.resolve("latest")
    message = str(caught.value)
    assert shown in message
    assert message.isprintable()
    assert len(message) < 500


def test_a_huge_manifest_is_not_read(there: RegistryRepository, proxy: Proxy) -> None:
    proxy.fail("GET", "/manifests/", status(200, b" " * (4 << 20) + b" ", content_type=MANIFEST))

    with pytest.raises(FormatError, match="4 MiB"):
        there.resolve("latest")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"not json", {}),
        (b"[" * 100_000, {}),
        (b'{"mediaType":"application/vnd.oci.image.index.v1+json"}', {"content_type": MANIFEST}),
        (b'{"mediaType":7}', {"content_type": MANIFEST}),
        (b"{}", {"docker_content_digest": "sha256:abc"}),
        (b"{}", {"docker_content_digest": "sha256:" + "0" * 64}),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    there: RegistryRepository, proxy: Proxy, body: bytes, headers: dict[str, str]
) -> None:
    proxy.fail("GET", "/manifests/", status(200, body, **headers))

    with pytest.raises(FormatError):
        there.resolve("latest")


def test_a_manifest_of_another_digest_is_refused(there: RegistryRepository, proxy: Proxy) -> None:
    manifest, descriptor = manifest_of(BLOB)
    proxy.fail("GET", "/manifests/", status(200, manifest.replace(b"2", b"3", 1), content_type=MANIFEST), times=2)

    with pytest.raises(DigestMismatch):
        there.resolve(str(descriptor.digest))
    with pytest.raises(DigestMismatch):
        there.read_manifest(descriptor)


def test_a_manifest_that_is_cut_is_read_again(
    there: RegistryRepository, registry: Registry, repository_name: str, proxy: Proxy
) -> None:
    content, config = blob(10)
    manifest, descriptor = manifest_of(config)
    with repository(registry.host, repository_name) as direct:
        direct.write_blob(config, content)
        direct.write_manifest(descriptor, manifest, "latest")
    proxy.fail("GET", "/manifests/", cut_download(20))

    assert there.resolve("latest") == descriptor


@pytest.mark.parametrize(
    "location", ["http://[", "ftp://host/x", "http://host:99999/", "http://host\x7f/", "/again", "//"]
)
def test_redirects_to_nowhere_end(proxy: Proxy, repository_name: str, location: str) -> None:
    proxy.fail("GET", ".", status(307, location=location), times=99)

    with repository(proxy.host, repository_name, retry_count=0) as there, pytest.raises(NydusifyError):
        there.resolve("latest")
