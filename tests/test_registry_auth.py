"""Passwords and tokens: what is sent, to whom, and what happens when it is refused."""

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nydusify.errors import AuthError, NotFound, TransportError
from nydusify.registry.auth import parse_challenges
from tests.faults import Action, Handler, Proxy, Upstream, changed, cut_download, fault_proxy, forward, reset, status
from tests.registry_helpers import blob, manifest_of, repository
from tests.servers import (
    PASSWORD,
    QuietHandler,
    Registry,
    TokenServer,
    http_server,
    token_docker_registry,
    unique_name,
    write_docker_config,
)

CONTENT, BLOB = blob(1_500_000, "auth")


def tokens_of(registry: Registry) -> TokenServer:
    assert registry.tokens is not None
    return registry.tokens


# Basic


def test_a_password_from_the_docker_config_opens_the_registry(
    tls_registry: Registry, docker_config: Path, repository_name: str
) -> None:
    tls_registry.write_docker_config(docker_config)
    with repository(tls_registry.host, repository_name, plain_http=False, ca_file=tls_registry.ca_file) as there:
        there.write_blob(BLOB, CONTENT)
        assert b"".join(there.open_blob(BLOB)) == CONTENT
        assert there.stats.requests == 5  # the first of them without the password


def test_without_credentials_the_advice_is_to_log_in(
    tls_registry: Registry, docker_config: Path, repository_name: str
) -> None:
    options = {"plain_http": False, "ca_file": tls_registry.ca_file}
    with repository(tls_registry.host, repository_name, **options) as there, pytest.raises(AuthError) as caught:
        there.resolve("latest")
    assert f"docker login {tls_registry.host}" in str(caught.value.advice)
    assert "UNAUTHORIZED" in str(caught.value)


def test_a_wrong_password_is_refused_once_and_not_shown(
    tls_registry: Registry, docker_config: Path, repository_name: str
) -> None:
    tls_registry.write_docker_config(docker_config, password="wr0ng-password")
    options = {"plain_http": False, "ca_file": tls_registry.ca_file}
    with repository(tls_registry.host, repository_name, **options) as there:
        with pytest.raises(AuthError) as caught:
            there.resolve("latest")
        assert (there.stats.requests, there.stats.retries) == (2, 0)
        assert "wr0ng" not in f"{caught.value} {caught.value.advice} {there!r}"


# Tokens


@pytest.fixture
def logged_in(token_registry: Registry, docker_config: Path) -> Registry:
    token_registry.write_docker_config(docker_config)
    return token_registry


def test_one_token_serves_a_whole_push(logged_in: Registry, repository_name: str) -> None:
    manifest, descriptor = manifest_of(BLOB)
    with repository(logged_in.host, repository_name) as there:
        there.write_blob(BLOB, CONTENT)
        there.write_manifest(descriptor, manifest, "latest")
        assert there.resolve("latest") == descriptor
        assert b"".join(there.open_blob(BLOB)) == CONTENT

    assert [(request["account"], request["scopes"]) for request in tokens_of(logged_in).requests] == [
        ("tester", [f"repository:{repository_name}:pull,push"])
    ]


def test_threads_share_one_token(logged_in: Registry, repository_name: str) -> None:
    with repository(logged_in.host, repository_name) as there, ThreadPoolExecutor(8) as pool:
        pushed = [blob(10_000, seed) for seed in range(8)]
        assert list(pool.map(lambda pair: there.write_blob(pair[1], pair[0]), pushed)) == [10_000] * 8

    assert len(tokens_of(logged_in).requests) == 1


def test_anybody_may_pull_without_credentials(
    logged_in: Registry, repository_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with repository(logged_in.host, repository_name) as there:
        there.write_blob(BLOB, CONTENT)
    tokens_of(logged_in).reset()

    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nowhere"))
    with repository(logged_in.host, repository_name) as there:
        assert b"".join(there.open_blob(BLOB)) == CONTENT
        with pytest.raises(AuthError, match="HTTP 401") as caught:
            there.write_blob(*reversed(blob(10, "anonymous")))  # type: ignore[arg-type]
    assert {request["account"] for request in tokens_of(logged_in).requests} == {""}
    assert "docker login" in str(caught.value.advice)


def test_a_wrong_password_at_the_token_server_is_an_error_of_authorization(
    token_registry: Registry, docker_config: Path, repository_name: str
) -> None:
    token_registry.write_docker_config(docker_config, password="wr0ng-password")
    with repository(token_registry.host, repository_name) as there, pytest.raises(AuthError) as caught:
        there.resolve("latest")
    assert "get a token" in str(caught.value)
    assert "wr0ng" not in f"{caught.value} {caught.value.advice}"


def test_a_mount_asks_for_both_repositories(logged_in: Registry) -> None:
    source, target = unique_name(), unique_name()
    with repository(logged_in.host, source) as there:
        there.write_blob(BLOB, CONTENT)
    with repository(logged_in.host, target) as there:
        assert there.write_blob(BLOB, CONTENT, mount_from=source) == 0

    scopes = sorted([f"repository:{source}:pull", f"repository:{target}:pull,push"])
    assert tokens_of(logged_in).requests[-1]["scopes"] == scopes


def test_a_token_that_has_expired_is_renewed_without_a_refusal(logged_in: Registry, repository_name: str) -> None:
    tokens_of(logged_in).claimed_life = 0.6
    with repository(logged_in.host, repository_name) as there:
        there.write_blob(BLOB, CONTENT)
        before = there.stats.requests
        time.sleep(0.7)
        there.has_blob(BLOB)
        assert there.stats.requests == before + 1
    assert len(tokens_of(logged_in).requests) == 2


def test_a_token_that_expires_during_a_push_is_renewed(
    logged_in: Registry, docker_config: Path, repository_name: str
) -> None:
    """The client believes in five minutes, the registry in two seconds: only the 401 tells."""
    tokens_of(logged_in).life, tokens_of(logged_in).claimed_life = 2.0, 300.0
    content, descriptor = blob(900_000, "slow push")

    with fault_proxy(logged_in.host) as front:
        log_in(front, docker_config)
        front.fail("PATCH", "/uploads/", forward)
        front.fail("PATCH", "/uploads/", late(2.2))
        with repository(front.host, repository_name, push_chunk_size=400_000) as there:
            there.write_blob(descriptor, content)
            assert b"".join(there.open_blob(descriptor)) == content
            assert there.stats.retries == 0
        assert [seen.status for seen in front.requests("PATCH")] == [202, 401, 202]
    assert len(tokens_of(logged_in).requests) == 2


def test_a_token_that_expires_during_a_pull_is_renewed(
    logged_in: Registry, docker_config: Path, repository_name: str
) -> None:
    with repository(logged_in.host, repository_name) as there:
        there.write_blob(BLOB, CONTENT)
    tokens_of(logged_in).life, tokens_of(logged_in).claimed_life = 2.0, 300.0

    with fault_proxy(logged_in.host) as front, repository(front.host, repository_name) as there:
        log_in(front, docker_config)
        there.has_blob(BLOB)
        front.fail("GET", "/blobs/", cut_download(500_000))
        front.fail("GET", "/blobs/", status(503, retry_after="2"))
        assert b"".join(there.open_blob(BLOB)) == CONTENT
        assert [seen.status for seen in front.requests("GET", "/blobs/")] == [200, 503, 401, 206]


def test_a_token_server_that_fails_is_asked_again(logged_in: Registry, repository_name: str) -> None:
    tokens = tokens_of(logged_in)
    with fault_proxy(tokens.url.split("/")[2]) as proxy, fault_proxy(logged_in.host) as front:
        use_token_server(front, tokens.url, proxy)
        proxy.fail("GET", "/token", status(503))
        proxy.fail("GET", "/token", reset)
        with repository(front.host, repository_name) as there, pytest.raises(NotFound):
            there.resolve("latest")
        assert len(proxy.requests("GET")) == 3


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"token":7}', b'{"token":"a\\nb"}', b'{"expires_in":"x","token":"t"}', b"{}"]
)
def test_a_token_server_that_talks_nonsense_is_named(logged_in: Registry, repository_name: str, body: bytes) -> None:
    tokens = tokens_of(logged_in)
    with fault_proxy(tokens.url.split("/")[2]) as proxy, fault_proxy(logged_in.host) as front:
        use_token_server(front, tokens.url, proxy)
        proxy.fail("GET", "/token", status(200, body), times=9)
        with repository(front.host, repository_name) as there, pytest.raises(TransportError, match="token server"):
            there.resolve("latest")


@pytest.mark.parametrize("realm", ["", "ftp://host/", "http://", "http://[", "//host", "https://user:pw@host/t"])
def test_a_realm_that_is_no_web_address_is_refused(token_registry: Registry, repository_name: str, realm: str) -> None:
    with fault_proxy(token_registry.host) as front:
        challenge = f'Bearer realm="{realm}",service="x"'
        front.fail("GET", ".", status(401, www_authenticate=challenge), times=9)
        with repository(front.host, repository_name) as there, pytest.raises(TransportError):
            there.resolve("latest")


def test_an_identity_token_is_exchanged_by_post(
    token_registry: Registry, docker_config: Path, repository_name: str
) -> None:
    entry = {"auth": base64.b64encode(b"tester:").decode(), "identitytoken": TokenServer.REFRESH}
    write_docker_config(docker_config, {"auths": {token_registry.host: entry}})
    with repository(token_registry.host, repository_name) as there:
        there.write_blob(BLOB, CONTENT)

    (request,) = tokens_of(token_registry).requests
    assert (request["method"], request["account"]) == ("POST", "tester")


def test_a_wrong_identity_token_is_refused_and_not_shown(
    token_registry: Registry, docker_config: Path, repository_name: str
) -> None:
    entry = {"auth": "", "identitytoken": "wr0ng-identity"}
    write_docker_config(docker_config, {"auths": {token_registry.host: entry}})
    with repository(token_registry.host, repository_name) as there, pytest.raises(AuthError) as caught:
        there.resolve("latest")
    assert "wr0ng" not in str(caught.value)


def test_a_registry_token_is_used_as_it_is(token_registry: Registry, docker_config: Path, repository_name: str) -> None:
    access = [{"type": "repository", "name": repository_name, "actions": ["pull", "push"]}]
    token = tokens_of(token_registry).token("tester", access)
    write_docker_config(docker_config, {"auths": {token_registry.host: {"registrytoken": token}}})
    with repository(token_registry.host, repository_name) as there:
        there.write_blob(BLOB, CONTENT)
    assert tokens_of(token_registry).requests == []


# Where credentials do not go


def test_credentials_are_not_sent_over_http_unbidden(
    token_registry: Registry, docker_config: Path, repository_name: str
) -> None:
    token_registry.write_docker_config(docker_config)
    unbidden = repository(token_registry.host, repository_name, plain_http=False)
    with unbidden as there, pytest.raises(AuthError) as caught:
        there.write_blob(BLOB, CONTENT)
    assert {request["account"] for request in tokens_of(token_registry).requests} == {""}
    assert "--plain-http" in str(caught.value.advice)


def test_a_password_is_not_sent_over_http_unbidden(
    registry: Registry, docker_config: Path, repository_name: str
) -> None:
    with fault_proxy(registry.host) as front:
        log_in(front, docker_config)
        front.fail("GET", ".", status(401, www_authenticate='Basic realm="x"'), times=9)
        with repository(front.host, repository_name, plain_http=False) as there, pytest.raises(AuthError) as caught:
            there.resolve("latest")
        assert "--plain-http" in str(caught.value.advice)
        assert [seen for seen in front.seen if "authorization" in seen.headers] == []


def test_a_tls_registry_cannot_have_credentials_sent_to_a_token_server_over_http(
    docker_config: Path, tmp_path: Path, repository_name: str
) -> None:
    with token_docker_registry(tmp_path, tls=True) as registry:
        registry.write_docker_config(docker_config)
        options = {"plain_http": False, "ca_file": registry.ca_file}
        with repository(registry.host, repository_name, **options) as there, pytest.raises(AuthError) as caught:
            there.resolve("latest")
        assert tokens_of(registry).requests == []
    assert "over HTTP" in str(caught.value)


@pytest.fixture
def storage_host() -> Iterator[tuple[int, list[dict[str, str]]]]:
    """Another host, as registries redirect to for blobs. Its port, and the headers that it saw."""
    seen: list[dict[str, str]] = []

    class Storage(QuietHandler):
        def do_GET(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()})
            self.reply(200, CONTENT)

    with http_server(Storage) as port:
        yield port, seen


def test_authorization_is_not_sent_along_with_a_redirect_to_another_host(
    logged_in: Registry, repository_name: str, storage_host: tuple[int, list[dict[str, str]]]
) -> None:
    port, seen = storage_host
    with repository(logged_in.host, repository_name) as there:
        there.write_blob(BLOB, CONTENT)
    with fault_proxy(logged_in.host) as front:
        front.fail("GET", "/blobs/", status(401, www_authenticate=challenge_of(logged_in)))
        front.fail("GET", "/blobs/", status(307, location=f"http://127.0.0.1:{port}/x?X-Signature=abc"))
        with repository(front.host, repository_name) as there:
            assert b"".join(there.open_blob(BLOB)) == CONTENT
        assert "authorization" in front.requests("GET")[-1].headers
    assert len(seen) == 1
    assert "authorization" not in seen[0]


def test_authorization_is_not_sent_to_an_upload_location_on_another_host(
    logged_in: Registry, docker_config: Path, repository_name: str
) -> None:
    seen: list[dict[str, str]] = []

    class Storage(QuietHandler):
        def do_PUT(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()})
            self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(201)

    with http_server(Storage) as port, fault_proxy(logged_in.host) as front:

        def elsewhere(answer: Upstream) -> None:
            if answer.status == 202:
                answer.headers["location"] = f"http://127.0.0.1:{port}/upload?id=1"

        log_in(front, docker_config)
        front.fail("POST", "/uploads/", changed(elsewhere), times=9)
        with repository(front.host, repository_name) as there:
            there.write_blob(BLOB, CONTENT)
        assert "authorization" in front.requests("POST")[-1].headers
    assert len(seen) == 1
    assert "authorization" not in seen[0]


def test_secrets_that_a_server_repeats_are_not_shown(logged_in: Registry, docker_config: Path) -> None:
    def echo(handler: Handler) -> None:
        said = f"you sent {handler.seen.headers.get('authorization')} and {PASSWORD}".encode()
        handler.send(Upstream(400, {"content-length": str(len(said))}, said))

    with fault_proxy(logged_in.host) as front:
        log_in(front, docker_config)
        front.fail("GET", ".", status(401, www_authenticate=challenge_of(logged_in)))
        front.fail("GET", ".", echo)
        with repository(front.host, "any/name") as there, pytest.raises(TransportError) as caught:
            there.resolve("latest")
    assert "you sent Bearer *** and ***" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (['Bearer realm="https://a/t",service="s",scope="repository:a:pull,push"'],
         {"bearer": {"realm": "https://a/t", "service": "s", "scope": "repository:a:pull,push"}}),
        (['Basic realm="x, y=z"', "Bearer realm=plain"], {"basic": {"realm": "x, y=z"}, "bearer": {"realm": "plain"}}),
        (['BASIC realm="a", bearer realm="b", service=c'],
         {"basic": {"realm": "a"}, "bearer": {"realm": "b", "service": "c"}}),
        (["Negotiate", 'Basic realm="x"'], {"negotiate": {}, "basic": {"realm": "x"}}),
        (["", "=", ",,,", '"', "a=b"], None),
    ],
)  # fmt: skip
def test_challenges_are_read(values: list[str], expected: dict[str, dict[str, str]] | None) -> None:
    parsed = parse_challenges(values)
    if expected is not None:
        assert parsed == expected
    assert "realm" not in parsed


# Helpers


def challenge_of(registry: Registry) -> str:
    return f'Bearer realm="{tokens_of(registry).url}",service="{TokenServer.SERVICE}"'


def log_in(front: Proxy, docker_config: Path) -> None:
    """Write credentials for a proxy into the Docker config."""
    Registry(front.port, "http", docker_config).write_docker_config(docker_config)


def late(seconds: float) -> Action:
    def act(handler: Handler) -> None:
        time.sleep(seconds)
        forward(handler)

    return act


def use_token_server(front: Proxy, real: str, proxy: Proxy) -> None:
    """Let a registry behind a proxy name another proxy as its token server."""

    def change(answer: Upstream) -> None:
        if "www-authenticate" in answer.headers:
            changed = answer.headers["www-authenticate"].replace(real, f"http://{proxy.host}/token")
            answer.headers["www-authenticate"] = changed

    front.fail("GET", ".", changed(change), times=99)
