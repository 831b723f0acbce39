"""HTTPS, HTTP, and never a silent way from the one to the other."""

import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from nydusify.errors import TransportError, UsageError
from nydusify.registry.client import RegistryRepository
from nydusify.registry.options import RegistryOptions
from nydusify.registry.tls import tls_context
from tests.faults import fault_proxy, status
from tests.registry_helpers import blob, repository
from tests.servers import Registry, free_port

CONTENT, BLOB = blob(600_000, "tls")
ONCE = RegistryOptions(retry_count=1, retry_delay=0.01, connect_timeout=5, read_timeout=10)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_an_own_authority_is_refused_until_it_is_named(
    tls_registry: Registry, docker_config: Path, repository_name: str
) -> None:
    tls_registry.write_docker_config(docker_config)
    with repository(tls_registry.host, repository_name, ONCE) as there:
        with pytest.raises(TransportError, match="certificate is not trusted") as caught:
            there.write_blob(BLOB, CONTENT)
        assert there.stats.retries == 0
    assert "--ca-file" in str(caught.value.advice)

    with repository(tls_registry.host, repository_name, ONCE, ca_file=tls_registry.ca_file) as there:
        assert there.write_blob(BLOB, CONTENT) == len(CONTENT)
        assert b"".join(there.open_blob(BLOB)) == CONTENT


def test_insecure_accepts_any_certificate_and_sends_credentials(
    tls_registry: Registry, docker_config: Path, repository_name: str
) -> None:
    tls_registry.write_docker_config(docker_config)
    with repository(tls_registry.host, repository_name, ONCE, insecure=True) as there:
        assert there.write_blob(BLOB, CONTENT) == len(CONTENT)


def test_a_certificate_for_another_name_is_refused(tls_registry: Registry) -> None:
    with (
        tunnel(tls_registry.port) as port,
        repository(f"127.0.0.2:{port}", "a", ONCE, ca_file=tls_registry.ca_file) as there,
        pytest.raises(TransportError, match="certificate is not trusted"),
    ):
        there.resolve("latest")


def test_plain_http_to_a_tls_port_says_what_is_wrong(tls_registry: Registry) -> None:
    plain = repository(tls_registry.host, "a", ONCE, plain_http=True)
    with plain as there, pytest.raises(TransportError, match="HTTP 400") as caught:
        there.resolve("latest")
    assert "leave out --plain-http" in str(caught.value.advice)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_loopback_registry_over_http_needs_no_option(registry: Registry, repository_name: str, name: str) -> None:
    with repository(f"{name}:{registry.port}", repository_name, ONCE) as there:
        there.write_blob(BLOB, CONTENT)
        assert b"".join(there.open_blob(BLOB)) == CONTENT
        assert there.stats.retries == 0


def test_a_loopback_registry_may_have_an_ipv6_address(registry: Registry, repository_name: str) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with tunnel(registry.port, "::1") as port, repository(f"[::1]:{port}", repository_name, ONCE) as there:
        assert not there.has_blob(BLOB)


def test_another_host_is_not_asked_over_http(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def registry_test_is_here(host: str, *arguments: object, **options: object) -> object:
        return resolve("127.0.0.1" if host == "registry.test" else host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", registry_test_is_here)
    there_by_name = repository(f"registry.test:{registry.port}", "a", ONCE)
    with there_by_name as there, pytest.raises(TransportError, match="HTTP response to an HTTPS client") as caught:
        there.resolve("latest")
    assert "--plain-http" in str(caught.value.advice)

    with repository(f"registry.test:{registry.port}", "a", ONCE, plain_http=True) as there:
        assert not there.has_blob(BLOB)


@pytest.mark.parametrize(("reason", "retries"), [(socket.EAI_NONAME, 0), (socket.EAI_AGAIN, 1)])
def test_a_name_without_address_is_final_but_a_resolver_in_trouble_is_not(
    monkeypatch: pytest.MonkeyPatch, reason: int, retries: int
) -> None:
    def fail(*arguments: object, **options: object) -> object:
        raise socket.gaierror(reason, "no address")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with repository("registry.test", "a", ONCE) as there:
        with pytest.raises(TransportError, match="cannot be resolved"):
            there.resolve("latest")
        assert there.stats.retries == retries


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_ca_file_that_is_none_is_named(tls_registry: Registry, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "my-ca.pem"
    if content is not None:
        path.write_text(content)
    with (
        repository(tls_registry.host, "a", ONCE, ca_file=path) as there,
        pytest.raises(UsageError, match=r"my-ca\.pem"),
    ):
        there.resolve("latest")


@contextmanager
def tls_pair(tmp_path: Path) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """A client's socket, as the registry client has it, and its server's, after the handshake."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(serving)
    near, far = socket.socketpair()
    near.settimeout(10)
    with ThreadPoolExecutor(1) as thread:
        accepted = thread.submit(serving.wrap_socket, far, server_side=True)
        context = tls_context(RegistryOptions(ca_file=tmp_path / "ca.pem"))
        with context.wrap_socket(near, server_hostname="localhost") as client, accepted.result(10) as server:
            yield client, server


def test_all_tls_records_that_have_come_are_read_at_once(tmp_path: Path) -> None:
    with tls_pair(tmp_path) as (client, server):
        server.sendall(CONTENT[:100_000])
        assert client.recv(10) == CONTENT[:10]
        assert client.recv(40_000) == CONTENT[10:16_384]  # the rest of the first record
        assert client.recv(40_000) == CONTENT[16_384:56_384]
        assert client.recv(1 << 20) == CONTENT[56_384:65_536]
        assert client.recv(1 << 20) == CONTENT[65_536:100_000]


def test_a_tls_read_waits_for_no_more_than_one_record(tmp_path: Path) -> None:
    with tls_pair(tmp_path) as (client, server):
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1 << 20)
        server.sendall(CONTENT[:32_768])
        assert client.recv(1 << 20) == CONTENT[:32_768]
        assert client.gettimeout() == 0.05
        server.sendall(CONTENT[:16_384])
        server.close()
        assert client.recv(1 << 20) == CONTENT[:16_384]
        assert client.recv(1 << 20) == b""


def test_a_redirect_from_https_to_http_is_refused(
    tls_registry: Registry, docker_config: Path, repository_name: str
) -> None:
    with repository(tls_registry.host, repository_name, ONCE, ca_file=tls_registry.ca_file) as there:
        session = there._endpoint.session
        with pytest.raises(TransportError, match="from HTTPS to HTTP"):
            session.locate("http://elsewhere.test/blob")
        assert str(session.locate(f"http://{tls_registry.host}/v2/x?y=1")) == f"https://{tls_registry.host}/v2/x?y=1"


@contextmanager
def tunnel(port: int, host: str = "127.0.0.2") -> Iterator[int]:
    """Carry the bytes of a port on another loopback address to a port on 127.0.0.1."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:

        def carry(one: socket.socket, other: socket.socket) -> None:
            try:
                while data := one.recv(65536):
                    other.sendall(data)
                other.shutdown(socket.SHUT_WR)
            except OSError:
                pass

        def accept() -> None:
            while True:
                try:
                    near, _ = server.accept()
                except OSError:
                    return
                far = socket.create_connection(("127.0.0.1", port))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]


def test_a_loopback_server_that_answers_neither_is_a_transport_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def slam() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=slam, daemon=True).start()
        with repository(f"127.0.0.1:{server.getsockname()[1]}", "a", ONCE) as there, pytest.raises(TransportError):
            there.resolve("latest")


def test_a_proxy_of_the_environment_is_not_used_for_loopback(
    registry: Registry, repository_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with repository(registry.host, repository_name, ONCE) as there:
        assert not there.has_blob(BLOB)


def test_a_proxy_of_the_environment_is_used_for_other_hosts(
    registry: Registry, repository_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fault_proxy(registry.host) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        proxy.fail("HEAD", "registry.test", status(200, content_length="600000"))
        with repository("registry.test:5000", repository_name, ONCE, plain_http=True) as there:
            assert there.has_blob(BLOB)
        assert proxy.seen[0].path.startswith("http://registry.test:5000/v2/")


@pytest.mark.parametrize("proxy", ["ftp://user:s3cret@proxy.test", "http://user:s3cret@proxy.test:port"])
def test_a_proxy_of_the_environment_that_cannot_be_used_is_said_without_its_password(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with repository("registry.test", "a", ONCE) as there, pytest.raises(UsageError, match="proxy") as caught:
        there.resolve("latest")
    assert "HTTPS_PROXY" in str(caught.value.advice)
    assert "s3cret" not in str(caught.value)


def test_docker_hub_is_asked_at_its_own_address(docker_config: Path) -> None:
    there = RegistryRepository("docker.io", "library/alpine")
    assert str(there._endpoint.session.locate("/v2/")) == "https://registry-1.docker.io/v2/"
    assert there.name == "docker.io/library/alpine"
    there.close()
