"""Credentials from the Docker config. Source: docker/cli, cli/config (configfile, credentials, types).

The file is ``$DOCKER_CONFIG/config.json`` or ``~/.docker/config.json``. For a registry, the program named under
``credHelpers`` is asked, else that of ``credsStore``, and then the entry under ``auths`` counts.
"""

import base64
import binascii
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nydusify.errors import UsageError

DOCKER_HUB_KEY = "https://index.docker.io/v1/"
DOCKER_HUB_HOSTS = frozenset(("docker.io", "index.docker.io", "registry-1.docker.io"))
HELPER_TIMEOUT = 60.0
MAX_CONFIG = 4 << 20
_HELPER_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_NOT_FOUND = "credentials not found"
"""How every helper begins its complaint about a server it does not know."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What proves who we are: user and password, an identity token (OAuth2 refresh token), or a registry token."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.password or self.identity_token or self.registry_token)

    @property
    def basic(self) -> str:
        """Value of an ``Authorization`` header with user and password."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    @property
    def secrets(self) -> frozenset[str]:
        found = {self.password, self.identity_token, self.registry_token}
        return frozenset((found | {self.basic.removeprefix("Basic ")} if self.password else found) - {""})


def config_path() -> Path:
    """Where the Docker config is, or would be."""
    directory = os.environ.get("DOCKER_CONFIG")
    return (Path(directory) if directory else Path.home() / ".docker") / "config.json"


def find_credentials(registry: str) -> Credentials:
    """Credentials for a registry host (``docker.io``, ``localhost:5000``); empty ones if there are none.

    Raises `UsageError`, naming the file, for a config that is broken or whose helper fails.
    """
    path = config_path()
    config = _read_config(path)
    keys = _keys(registry)
    helper = _helper(config, keys)
    if helper and (found := _ask_helper(helper, keys[0], path)):
        return found
    return _entry(_table(config, "auths", path), keys, path)


def _keys(registry: str) -> list[str]:
    """Under which names the config may have a registry, the most proper first."""
    if registry in DOCKER_HUB_HOSTS:
        return [DOCKER_HUB_KEY, "index.docker.io", "docker.io", "registry-1.docker.io"]
    return [registry]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise UsageError(f"{path}: too large to be a Docker config")
        config = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", advice="Check the permissions of the Docker config.") from None
    except (ValueError, RecursionError):
        # Not the parser's own words: they may quote the file.
        raise _broken(path, "it is not JSON") from None
    if not isinstance(config, dict):
        raise _broken(path, "it is not a JSON object")
    return config


def _broken(path: Path, why: str) -> UsageError:
    advice = "Repair the file, log in again, or point DOCKER_CONFIG at another directory."
    return UsageError(f"the Docker config {path} is broken: {why}", advice=advice)


def _table(config: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    table = config.get(key)
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise _broken(path, f"{key!r} is not an object")
    return table


def _helper(config: dict[str, Any], keys: list[str]) -> str:
    """The name of the program to ask (without its prefix), or nothing."""
    path = config_path()
    helpers = _table(config, "credHelpers", path)
    name = next((helpers[key] for key in keys if helpers.get(key)), config.get("credsStore") or "")
    if not isinstance(name, str) or (name and not _HELPER_NAME.fullmatch(name)):
        raise _broken(path, "the name of a credential helper is not a program's name")
    return name


def _ask_helper(name: str, server: str, path: Path) -> Credentials:
    """Run ``docker-credential-NAME get``. Its protocol is that of docker/docker-credential-helpers."""
    program = f"docker-credential-{name}"
    found = shutil.which(program)
    if not found:
        raise UsageError(
            f"{path} names the credential helper {program}, which is not on the PATH",
            advice="Install it, or remove it from the Docker config.",
        )
    try:
        done = subprocess.run([found, "get"], input=server.encode(), capture_output=True, timeout=HELPER_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        why = "did not answer in time" if isinstance(error, subprocess.TimeoutExpired) else "could not be run"
        raise UsageError(f"the credential helper {program}, named in {path}, {why}") from None
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace").strip()
        if said.startswith(_NOT_FOUND):
            return Credentials()
        # What it said stays out of the message: nobody knows what it prints.
        raise UsageError(f"the credential helper {program}, named in {path}, failed with status {done.returncode}")
    try:
        answer = json.loads(done.stdout)
        username, secret = str(answer.get("Username", "")), str(answer["Secret"])
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise UsageError(f"the credential helper {program}, named in {path}, gave no credentials in JSON") from None
    return Credentials(identity_token=secret) if username == "<token>" else Credentials(username, secret)


def _entry(auths: dict[str, Any], keys: list[str], path: Path) -> Credentials:
    """The entry under one of ``keys``, or else the first one whose key names that host in another way."""
    for key in keys:
        if key in auths:
            return _read_entry(auths[key], key, path)
    for key in auths:
        if _host(key) in keys:
            return _read_entry(auths[key], key, path)
    return Credentials()


def _host(key: str) -> str:
    """``https://registry.test/v1/`` → ``registry.test``: old versions of Docker wrote URLs."""
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _read_entry(entry: object, key: str, path: Path) -> Credentials:
    table = entry if isinstance(entry, dict) else {"auth": entry}
    names = ("username", "password", "auth", "identitytoken", "registrytoken")
    texts: list[str] = []
    for value in (table.get(name) or "" for name in names):
        if not isinstance(value, str):
            raise _broken(path, f"the entry of {_host(key)} is not an object of strings")
        texts.append(value)
    username, password, auth, identity, registry = texts
    if auth:
        try:
            decoded = base64.b64decode(auth, validate=True).decode()
        except (binascii.Error, ValueError):
            raise _broken(path, f"'auth' of {_host(key)} is not base64") from None
        username, colon, password = decoded.partition(":")
        if not colon:
            raise _broken(path, f"'auth' of {_host(key)} is not user:password")
        password = password.strip("\0")  # as docker/cli does; its first versions padded
    return Credentials(username, password, identity_token=identity, registry_token=registry)
