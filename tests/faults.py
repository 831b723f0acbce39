"""A proxy before a real registry that makes the faults a test asks for, and writes down what it saw."""

import http.client
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.servers import QuietHandler, http_server

HOP = {"connection", "keep-alive", "transfer-encoding"}


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    at: float
    status: int = 0
    """What was answered; 0 if the connection was cut before that."""


@dataclass
class Upstream:
    """What the real registry answered."""

    status: int
    headers: dict[str, str]
    body: bytes


Action = Callable[["Handler"], None]


@dataclass
class Fault:
    """Do something else than forward, for the next ``times`` requests of a method whose path matches."""

    method: str
    path: str
    action: Action
    times: int = 1


@dataclass
class Proxy:
    """State that the test and the server's threads share."""

    upstream: str
    port: int = 0
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    uploads: dict[str, str] = field(default_factory=dict)
    """Upload id → newest path that the registry gave for it, where a cut was made."""
    connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def fail(self, method: str, path: str, action: Action, times: int = 1) -> None:
        self.faults.append(Fault(method, path, action, times))

    def requests(self, method: str, path: str = "") -> list[Seen]:
        return [seen for seen in self.seen if seen.method == method and re.search(path, seen.path)]

    def take(self, method: str, path: str) -> Action | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault.action
        return None


class Handler(QuietHandler):
    proxy: Proxy

    def setup(self) -> None:
        super().setup()
        with self.proxy.lock:
            self.proxy.connections += 1

    def _serve(self) -> None:
        self.seen = Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, time.monotonic())
        self.proxy.seen.append(self.seen)
        self.left = int(self.headers.get("Content-Length") or 0)
        action = self.proxy.take(self.command, self.path)
        (action or forward)(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _serve

    def body(self, limit: int | None = None) -> bytes:
        """The request's body, or its next ``limit`` bytes."""
        content = self.rfile.read(self.left if limit is None else min(limit, self.left))
        self.left -= len(content)
        return content

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Upstream:
        """Ask the registry. It sees our own Host, so that its ``Location`` leads here again."""
        upload = re.search(r"/uploads/([0-9a-f-]{36})", path)
        newest = self.proxy.uploads.get(upload.group(1)) if upload else None
        if newest:
            digest = re.search(r"[?&](digest=[^&]+)", path)
            path = newest + (f"&{digest.group(1)}" if digest else "")
        connection = http.client.HTTPConnection(self.proxy.upstream, timeout=20)
        headers = {name: value for name, value in headers.items() if name not in HOP}
        connection.request(method, path, body, {**headers, "content-length": str(len(body))} if body else headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        upstream = Upstream(response.status, {name.lower(): value for name, value in response.getheaders()}, content)
        if newest and upload and "location" in upstream.headers:
            self.proxy.uploads[upload.group(1)] = _path(upstream.headers["location"])
        return upstream

    def send(self, answer: Upstream, sent: int | None = None) -> None:
        """Send an answer, or only the first ``sent`` bytes of its body and then hang up."""
        self.seen.status = answer.status
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name not in HOP:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:sent])
        if sent is not None:
            self.hang_up()

    def hang_up(self, reset: bool = False) -> None:
        self.close_connection = True
        self.wfile.flush()
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())  # a mere close() waits for the files made from it
        else:
            self.connection.shutdown(socket.SHUT_RDWR)


def _path(location: str) -> str:
    return re.sub(r"^https?://[^/]+", "", location)


def forward(handler: Handler) -> None:
    handler.send(handler.ask(handler.command, handler.path, handler.seen.headers, handler.body()))


def status(code: int, body: bytes = b"", **headers: str) -> Action:
    """Answer with a status, instead of the registry."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def act(handler: Handler) -> None:
        handler.body()
        handler.send(Upstream(code, {"content-length": str(len(body)), **named}, body))

    return act


def reset(handler: Handler) -> None:
    handler.hang_up(reset=True)


def silent(handler: Handler) -> None:
    """Answer late, longer than a client with small time-outs waits."""
    time.sleep(1.5)
    handler.hang_up()


def cut_download(after: int) -> Action:
    """Hang up after ``after`` bytes of the body."""

    def act(handler: Handler) -> None:
        handler.send(handler.ask("GET", handler.path, handler.seen.headers, b""), after)

    return act


def changed(change: Callable[[Upstream], None]) -> Action:
    """Forward, but change the answer."""

    def act(handler: Handler) -> None:
        answer = handler.ask(handler.command, handler.path, handler.seen.headers, handler.body())
        change(answer)
        handler.send(answer)

    return act


def without_range(handler: Handler) -> None:
    """Forward as if the client had asked for everything."""
    headers = {name: value for name, value in handler.seen.headers.items() if name != "range"}
    handler.send(handler.ask("GET", handler.path, headers, b""))


def cut_upload(after: int) -> Action:
    """Give the registry the first ``after`` bytes of a PUT or PATCH, which it keeps, and hang up.

    docker-registry itself forgets an upload that is cut; others keep what came, and so does the pair of it and this.
    """

    def act(handler: Handler) -> None:
        head = handler.body(after)
        path = re.sub(r"[?&]digest=[^&]+", "", handler.path)
        names = ("host", "authorization")
        headers = {name: handler.seen.headers[name] for name in names if name in handler.seen.headers}
        kept = handler.ask("PATCH", path, {**headers, "content-type": "application/octet-stream"}, head)
        assert kept.status == 202, kept
        upload = re.search(r"/uploads/([0-9a-f-]{36})", path)
        assert upload is not None
        handler.proxy.uploads[upload.group(1)] = _path(kept.headers["location"])
        handler.hang_up(reset=True)

    return act


@contextmanager
def fault_proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy before the registry at ``upstream`` (host and port)."""
    proxy = Proxy(upstream)
    handler = type("ProxyHandler", (Handler,), {"proxy": proxy})
    with http_server(handler) as port:
        proxy.port = port
        yield proxy
