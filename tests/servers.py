"""Real servers for tests, on loopback: Debian's docker-registry (plain; TLS and passwords; tokens), its token server.

Each is a context manager; `tests/conftest.py` has them as fixtures. A missing program skips the test.
"""

import base64
import datetime
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

DEADLINE = 15.0
USER, PASSWORD = "tester", "s3cret-passw0rd"
LEEWAY = 60
"""Seconds that distribution accepts a token after its end (registry/auth/token/token.go)."""


def need(program: str) -> str:
    """The path of a program; skips the test if it is not installed."""
    found = shutil.which(program)
    if not found:
        pytest.skip(f"{program} is not installed")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], log: Path, ready: str, statuses: tuple[int, ...] = (200, 401)) -> Iterator[None]:
    """Run a server until the end of the context; fail with the end of its log if ``ready`` (a URL) is not answered."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        _wait_until_ready(process, log, ready, statuses)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: Path, url: str, statuses: tuple[int, ...]) -> None:
    context = ssl._create_unverified_context()
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.build_opener(
                urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
            ).open(url, timeout=2) as response:
                if response.status in statuses:
                    return
        except urllib.error.HTTPError as error:
            if error.code in statuses:
                return
        except OSError:
            pass
        time.sleep(0.03)
    pytest.fail(f"{url} did not come up:\n{log.read_text(errors='replace')[-2000:]}")


@dataclass
class Registry:
    """A docker-registry that runs."""

    port: int
    scheme: str
    storage: Path
    """Its directory; blobs are at ``docker/registry/v2/blobs/sha256/…/data``."""
    ca_file: Path | None = None
    username: str = ""
    password: str = ""
    tokens: "TokenServer | None" = None

    @property
    def host(self) -> str:
        """As a reference has it: ``127.0.0.1:5000``."""
        return f"127.0.0.1:{self.port}"

    def write_docker_config(self, directory: Path, username: str = USER, password: str = PASSWORD) -> Path:
        """Write a Docker config with credentials for this registry; return the value for DOCKER_CONFIG."""
        auth = base64.b64encode(f"{username}:{password}".encode()).decode()
        return write_docker_config(directory, {"auths": {self.host: {"auth": auth}}})


def write_docker_config(directory: Path, config: object) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return directory


@contextmanager
def docker_registry(directory: Path, http: str = "", auth: str = "", scheme: str = "http") -> Iterator[Registry]:
    """A registry with its data below ``directory``. ``http`` and ``auth`` are YAML for its configuration."""
    program = need("docker-registry")
    port = free_port()
    storage = directory / "data"
    config = directory / "config.yml"
    config.write_text(
        "version: 0.1\n"
        "log: {level: warn, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {storage}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: 127.0.0.1:{port}, secret: x{http}}}\n{auth}"
    )
    log = directory / "registry.log"
    with running([program, "serve", str(config)], log, f"{scheme}://127.0.0.1:{port}/v2/"):
        yield Registry(port, scheme, storage)


@contextmanager
def tls_docker_registry(directory: Path) -> Iterator[Registry]:
    """A registry with a certificate of its own authority, and basic authentication."""
    htpasswd = need("htpasswd")
    line = subprocess.run([htpasswd, "-Bbn", USER, PASSWORD], check=True, capture_output=True, text=True).stdout
    (directory / "htpasswd").write_text(line.strip() + "\n")
    auth = f"auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}\n"
    with docker_registry(directory, _with_tls(directory), auth, "https") as registry:
        registry.ca_file = directory / "ca.pem"
        registry.username, registry.password = USER, PASSWORD
        yield registry


def _with_tls(directory: Path) -> str:
    """Make an authority and a certificate for loopback names; the configuration for them."""
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    leaf.private_key_pem.write_to_path(str(directory / "key.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(directory / "cert.pem"))
    return f", tls: {{certificate: {directory}/cert.pem, key: {directory}/key.pem}}"


@contextmanager
def token_docker_registry(directory: Path, tls: bool = False) -> Iterator[Registry]:
    """A registry that wants tokens; its token server, over plain HTTP in any case, is ``registry.tokens``."""
    with token_server(directory) as tokens:
        auth = (
            f'auth: {{token: {{realm: "{tokens.url}", service: {TokenServer.SERVICE}, issuer: {TokenServer.ISSUER}, '
            f"rootcertbundle: {directory}/token.crt}}}}\n"
        )
        http, scheme = (_with_tls(directory), "https") if tls else ("", "http")
        with docker_registry(directory, http, auth, scheme) as registry:
            registry.ca_file = directory / "ca.pem" if tls else None
            registry.username, registry.password = USER, PASSWORD
            registry.tokens = tokens
            yield registry


@dataclass
class TokenServer:
    """Gives RS256 tokens as distribution wants them: to `USER`, to holders of `REFRESH`, and to anybody for pulls."""

    SERVICE = "test-registry"
    ISSUER = "test-issuer"
    REFRESH = "refresh-0123456789abcdef"

    url: str
    key: rsa.RSAPrivateKey
    certificate: x509.Certificate
    life: float = 300.0
    """Seconds after which the registry refuses a token."""
    claimed_life: float | None = None
    """What the client is told, if not the truth."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """What was asked: method, account (empty: anonymous), scopes, status."""

    def reset(self) -> None:
        self.life, self.claimed_life = 300.0, None
        self.requests.clear()

    def answer(self, method: str, account: str | None, scopes: list[str]) -> tuple[int, dict[str, Any]]:
        """Status and JSON for a request; ``account`` is None for wrong credentials."""
        status = 200 if account is not None else 401
        self.requests.append({"method": method, "account": account, "scopes": scopes, "status": status})
        if account is None:
            return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong password", "detail": None}]}
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            granted = [action for action in actions.split(",") if account or action == "pull"]
            access.append({"type": kind, "name": name, "actions": granted})
        life = self.life if self.claimed_life is None else self.claimed_life
        return 200, {"token": self.token(account, access), "expires_in": life}

    def token(self, account: str, access: list[dict[str, Any]]) -> str:
        now = time.time()
        header = {"typ": "JWT", "alg": "RS256", "x5c": [_base64(self._der(), url_safe=False)]}
        claims = {
            "iss": self.ISSUER,
            "sub": account,
            "aud": self.SERVICE,
            "exp": int(now + self.life - LEEWAY),
            "nbf": int(now) - 2 * LEEWAY,
            "iat": int(now),
            "jti": uuid.uuid4().hex,
            "access": access,
        }
        signed = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        signature = self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64(signature)}"

    def _der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)


def _base64(content: bytes, url_safe: bool = True) -> str:
    if url_safe:
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
    return base64.b64encode(content).decode()


@contextmanager
def token_server(directory: Path) -> Iterator[TokenServer]:
    """A token server in a thread; its certificate is at ``directory/token.crt``."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "token signer")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=2))
        .sign(key, hashes.SHA256())
    )
    (directory / "token.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            self.give(*state.answer("GET", self._basic_account(), query.get("scope", [])))

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            known = form.get("grant_type") == ["refresh_token"] and form.get("refresh_token") == [state.REFRESH]
            scopes = form.get("scope", [""])[0].split()
            status, answer = state.answer("POST", USER if known else None, scopes)
            answer["access_token"] = answer.pop("token", "")
            self.give(status, answer)

        def _basic_account(self) -> str | None:
            header = self.headers.get("Authorization")
            if header is None:
                return ""
            expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            return USER if header == f"Basic {expected}" else None

        def give(self, status: int, answer: dict[str, Any]) -> None:
            self.reply(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    with http_server(Handler) as port:
        state = TokenServer(f"http://127.0.0.1:{port}/token", key, certificate)
        yield state


class QuietHandler(BaseHTTPRequestHandler):
    """HTTP/1.1 without a log on stderr."""

    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what some tests are about."""


@contextmanager
def http_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """Serve in threads; the value is the port."""
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def unique_name(prefix: str = "test") -> str:
    """A repository name that no other test uses."""
    return f"{prefix}/r{os.getpid()}-{uuid.uuid4().hex[:10]}"
