"""Credentials from the Docker config, its credential helpers, and what a broken one is told to be."""

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from nydusify.errors import UsageError
from nydusify.registry.credentials import DOCKER_HUB_KEY, Credentials, find_credentials
from tests.registry_helpers import blob, repository
from tests.servers import PASSWORD, USER, Registry, write_docker_config

HOST = "registry.test:5000"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on the PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return directory


def write_helper(
    directory: Path, name: str, answers: dict[str, object], otherwise: str = "credentials not found"
) -> None:
    """A credential helper: a program that is asked on its standard input, and writes down what it was asked."""
    script = directory / f"docker-credential-{name}"
    cases = "".join(f"  {host!r}) cat <<'END'\n{json.dumps(answer)}\nEND\n;;\n" for host, answer in answers.items())
    script.write_text(
        f'#!/bin/sh\nserver=$(cat)\necho "$1 $server" >> "{directory}/asked"\n'
        f"case \"$server\" in\n{cases}  *) echo '{otherwise} in native keychain'; exit 1;;\nesac\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("auths", "expected"),
    [
        ({HOST: {"auth": encoded("u:p:w")}}, Credentials("u", "p:w")),
        ({HOST: {"username": "u", "password": "p"}}, Credentials("u", "p")),
        ({f"https://{HOST}/v1/": {"auth": encoded("u:p")}}, Credentials("u", "p")),
        ({f"http://{HOST}": {"auth": encoded("u:p")}}, Credentials("u", "p")),
        ({HOST: {"auth": encoded("u:p\0\0")}}, Credentials("u", "p")),
        ({HOST: {"identitytoken": "i"}}, Credentials(identity_token="i")),
        ({HOST: {"auth": encoded("u:"), "identitytoken": "i"}}, Credentials("u", identity_token="i")),
        ({HOST: {"registrytoken": "r"}}, Credentials(registry_token="r")),
        ({HOST: {}}, Credentials()),
        ({"other.test": {"auth": encoded("u:p")}}, Credentials()),
        ({"registry.test": {"auth": encoded("u:p")}}, Credentials()),
        ({f"x{HOST}": {"auth": "!"}, HOST: {"auth": encoded("u:p")}}, Credentials("u", "p")),
    ],
)
def test_entries_are_read(docker_config: Path, auths: dict[str, object], expected: Credentials) -> None:
    write_docker_config(docker_config, {"auths": auths})

    assert find_credentials(HOST) == expected


@pytest.mark.parametrize("key", [DOCKER_HUB_KEY, "index.docker.io", "docker.io", "https://docker.io"])
@pytest.mark.parametrize("host", ["docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_has_many_names(docker_config: Path, key: str, host: str) -> None:
    write_docker_config(docker_config, {"auths": {key: {"auth": encoded("u:p")}}})

    assert find_credentials(host) == Credentials("u", "p")


def test_there_may_be_no_config(docker_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not find_credentials(HOST)
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config / "no" / "such"))
    assert not find_credentials(HOST)


def test_the_config_is_looked_for_at_home(docker_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_docker_config(docker_config / ".docker", {"auths": {HOST: {"auth": encoded("u:p")}}})
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(docker_config))

    assert find_credentials(HOST) == Credentials("u", "p")


@pytest.mark.parametrize(
    "content",
    [
        '{"auths": {"registry.test:5000": {"auth": "c2VjcmV0',
        "secret",
        '["secret"]',
        '{"auths": ["secret"]}',
        '{"auths": {"registry.test:5000": {"auth": "secret!"}}}',
        '{"auths": {"registry.test:5000": {"auth": "c2VjcmV0"}}}',
        '{"auths": {"registry.test:5000": {"auth": {"secret": 1}}}}',
        '{"auths": {"registry.test:5000": ["secret"]}}',
        '{"credHelpers": "secret"}',
        '{"credHelpers": {"registry.test:5000": "../secret"}}',
        '{"credsStore": ["secret"]}',
        '{"credsStore": "no-such-helper"}',
        "[" * 100_000,
        "\0\xff",
    ],
)
def test_a_broken_config_is_named_and_its_content_is_not_shown(docker_config: Path, content: str) -> None:
    write_docker_config(docker_config, content)

    with pytest.raises(UsageError) as caught:
        find_credentials(HOST)
    assert str(docker_config / "config.json") in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "c2VjcmV0" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_config_that_is_a_directory_is_named(docker_config: Path) -> None:
    (docker_config / "config.json").mkdir()

    with pytest.raises(UsageError, match=r"config\.json"):
        find_credentials(HOST)


def test_a_helper_is_asked_for_its_registry(docker_config: Path, programs: Path) -> None:
    write_helper(programs, "one", {HOST: {"ServerURL": HOST, "Username": "u", "Secret": "p"}})
    write_helper(programs, "all", {"other.test": {"Username": "o", "Secret": "q"}})
    write_docker_config(docker_config, {"credHelpers": {HOST: "one"}, "credsStore": "all"})

    assert find_credentials(HOST) == Credentials("u", "p")
    assert find_credentials("other.test") == Credentials("o", "q")
    assert not find_credentials("third.test")
    assert (programs / "asked").read_text().splitlines() == [f"get {HOST}", "get other.test", "get third.test"]


def test_a_helper_is_asked_for_docker_hub_by_its_old_url(docker_config: Path, programs: Path) -> None:
    write_helper(programs, "all", {DOCKER_HUB_KEY: {"Username": "u", "Secret": "p"}})
    write_docker_config(docker_config, {"credsStore": "all"})

    assert find_credentials("docker.io") == Credentials("u", "p")


def test_a_helper_may_give_an_identity_token(docker_config: Path, programs: Path) -> None:
    write_helper(programs, "all", {HOST: {"Username": "<token>", "Secret": "identity"}})
    write_docker_config(docker_config, {"credsStore": "all"})

    assert find_credentials(HOST) == Credentials(identity_token="identity")


def test_an_entry_counts_if_the_helper_knows_nothing(docker_config: Path, programs: Path) -> None:
    write_helper(programs, "all", {})
    write_docker_config(docker_config, {"credsStore": "all", "auths": {HOST: {"auth": encoded("u:p")}}})

    assert find_credentials(HOST) == Credentials("u", "p")


@pytest.mark.parametrize("answer", ["secret", ["secret"], {"Username": "u"}, None])
def test_a_helper_that_talks_nonsense_is_named(docker_config: Path, programs: Path, answer: object) -> None:
    write_helper(programs, "all", {HOST: answer})
    write_docker_config(docker_config, {"credsStore": "all"})

    with pytest.raises(UsageError, match="docker-credential-all") as caught:
        find_credentials(HOST)
    assert "secret" not in str(caught.value)


def test_a_helper_that_fails_is_named(docker_config: Path, programs: Path) -> None:
    write_helper(programs, "all", {}, otherwise="the secret store is locked")
    write_docker_config(docker_config, {"credsStore": "all"})

    with pytest.raises(UsageError, match=r"docker-credential-all.*config\.json.*status 1") as caught:
        find_credentials(HOST)
    assert "secret" not in str(caught.value)


def test_a_helper_opens_a_real_registry(
    token_registry: Registry, docker_config: Path, programs: Path, repository_name: str
) -> None:
    write_helper(programs, "test", {token_registry.host: {"Username": USER, "Secret": PASSWORD}})
    write_docker_config(docker_config, {"credHelpers": {token_registry.host: "test"}})
    content, descriptor = blob(1000, "helper")

    with repository(token_registry.host, repository_name) as there:
        assert there.write_blob(descriptor, content) == 1000
        assert b"".join(there.open_blob(descriptor)) == content
    assert (programs / "asked").read_text().splitlines() == [f"get {token_registry.host}"]


def test_a_public_registry_is_used_without_a_look_at_a_broken_config(
    registry: Registry, docker_config: Path, repository_name: str
) -> None:
    write_docker_config(docker_config, "{broken")
    content, descriptor = blob(1000, "public")

    with repository(registry.host, repository_name) as there:
        assert there.write_blob(descriptor, content) == 1000


def test_a_broken_config_is_a_usage_error_when_the_registry_asks(
    token_registry: Registry, docker_config: Path, repository_name: str
) -> None:
    write_docker_config(docker_config, "{broken")

    with repository(token_registry.host, repository_name) as there, pytest.raises(UsageError, match=r"config\.json"):
        there.resolve("latest")


def test_secrets_are_not_in_a_repr() -> None:
    shown = repr(Credentials("user", "pass-1", "identity-1", "registry-1"))

    assert "user" in shown
    assert "-1" not in shown
