"""Connections to one registry, shared by all who use it with the same options."""

import re
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urljoin

from nydusify.errors import AuthError, TransportError, UsageError
from nydusify.registry.auth import MAX_TOKEN, Authenticator, Scopes, TokenRequest
from nydusify.registry.credentials import DOCKER_HUB_HOSTS
from nydusify.registry.errors import network_error, network_errors, status_error
from nydusify.registry.logs import keep_secrets_out_of_logs
from nydusify.registry.options import RegistryOptions, Stats
from nydusify.registry.retry import TRANSIENT, Patience
from nydusify.registry.tls import is_loopback, speaks_tls, tls_context
from nydusify.registry.web import httpx

HUB = "registry-1.docker.io"
MAX_REDIRECTS = 5
_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
MAX_ERROR_BODY = 64 << 10
DRAIN_TIME = 10.0
"""Seconds that a body which nobody waits for may take."""

Body = bytes | Callable[[], Iterable[bytes]]
"""Content of a request; a function gives its pieces anew for each try."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request as its caller sees it."""

    what: str
    """For messages: ``pull blob sha256:… from registry.test/app``."""
    method: str
    url: str
    """Below the registry's root, such as ``/v2/app/tags/list``, or absolute, as it came in ``Location``."""
    scopes: Scopes
    expect: tuple[int, ...] = (200,)
    """Statuses that are answers; others are errors."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    patient: bool = False
    """Whether the answer may take long, as when the registry checks a whole blob first."""


class Session:
    """Scheme, TLS, credentials and open connections of one registry. `Endpoint` shares it between repositories."""

    def __init__(self, registry: str, options: RegistryOptions) -> None:
        """Opens no connection. Raises `UsageError` for what cannot be a host; for a CA file, the first request does."""
        self.registry = registry
        self.options = options
        host = HUB if registry in DOCKER_HUB_HOSTS else registry
        self._https = _origin(f"https://{host}", registry)
        self._http = _origin(f"http://{host}", registry)
        self._settled: httpx.URL | None = None
        if options.plain_http:
            self._settled = self._http
        elif not is_loopback(self._https.host):
            self._settled = self._https
        self._lock = threading.Lock()
        self._clients: dict[str, httpx.Client] = {}
        self._reached: set[str] = set()
        """Hosts that have answered, so that a refused connection is a passing trouble and not a wrong name."""
        self._auth = Authenticator(registry, self._fetch_token, self._may_send_credentials)
        self._token_stats = Stats()
        keep_secrets_out_of_logs()

    def close(self) -> None:
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    @contextmanager
    def send(self, call: Call, stats: Stats) -> Iterator[httpx.Response]:
        """Send a request once, with credentials and redirects; give the response, whose body is not read yet.

        Raises the error for any status that ``call`` does not expect, and turns network failures into errors, also
        those while the caller reads the body.
        """
        with network_errors(call.what):
            response = self._authorized(call, stats)
            try:
                if response.status_code not in call.expect:
                    raise self._problem(call, response)
                yield response
            finally:
                response.close()

    def error(self, call: Call, status: int, headers: Mapping[str, str], body: bytes) -> TransportError:
        """The error for an answer after all."""
        return status_error(call.what, status, headers, body, self._auth.secrets())

    def _problem(self, call: Call, response: httpx.Response) -> TransportError:
        problem = self.error(call, response.status_code, response.headers, drain(response))
        if isinstance(problem, AuthError) and response.status_code == 401:
            problem.advice = self._auth.advice() or problem.advice
        return problem

    def _authorized(self, call: Call, stats: Stats) -> httpx.Response:
        """Send with what is known about authorization, and again if the registry asks for something else."""
        header = self._auth.header(call.scopes)
        for last in (False, False, True):
            response = self._redirected(call, header, stats)
            if response.status_code != 401 or last or not _same_origin(response.url, self.origin()):
                return response
            try:
                header = self._auth.answer(response.headers.get_list("www-authenticate"), call.scopes, header)
            except BaseException:
                response.close()
                raise
            if header is None:
                return response
            drain(response)
            response.close()
        raise AssertionError("the last round returns")

    def _redirected(self, call: Call, authorization: str | None, stats: Stats) -> httpx.Response:
        """Send and follow redirects. Only the registry itself sees the authorization."""
        url = self.locate(call.url)
        for _ in range(MAX_REDIRECTS + 1):
            response = self._exchange(call, url, authorization if _same_origin(url, self.origin()) else None, stats)
            again = (301, 302, 303, 307, 308) if call.method in ("GET", "HEAD") else (307, 308)
            if response.status_code not in again or "location" not in response.headers:
                return response
            url = self.locate(response.headers["location"], url)
            drain(response)
            response.close()
        raise TransportError(f"{call.what}: more than {MAX_REDIRECTS} redirects")

    def _exchange(self, call: Call, url: httpx.URL, authorization: str | None, stats: Stats) -> httpx.Response:
        # Compressed answers would be other bytes than those that digests and ranges are about.
        headers = {"accept-encoding": "identity", "user-agent": self.options.user_agent, **call.headers}
        if authorization is not None:
            headers["authorization"] = authorization
        content = call.body() if callable(call.body) else call.body
        read = self.options.read_timeout * (5 if call.patient else 1)
        timeout = httpx.Timeout(self.options.read_timeout, connect=self.options.connect_timeout, read=read, pool=None)
        client = self._client(url.scheme)
        request = client.build_request(call.method, url, headers=headers, content=content, timeout=timeout)
        stats.add(requests=1)
        try:
            response = client.send(request, stream=True, follow_redirects=False)
        except httpx.ConnectError as error:
            raise network_error(call.what, error, first=url.host not in self._reached) from error
        self._reached.add(url.host)
        return response

    def locate(self, target: str, base: httpx.URL | None = None) -> httpx.URL:
        """The absolute URL of a path, ``Location`` or redirect. Raises `TransportError` for a way from TLS to HTTP."""
        base = self.origin() if base is None else base
        try:
            url = httpx.URL(urljoin(str(base), target))
        except (ValueError, httpx.InvalidURL):
            raise TransportError(f"{self.registry} names an address that is no URL") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise TransportError(f"{self.registry} names an address that is not on the web")
        if url.scheme == "http" and base.scheme == "https":
            # A registry behind a proxy that ends TLS often does not know its own scheme.
            if url.host == base.host and url.port in (None, base.port):
                return url.copy_with(scheme="https", port=base.port)
            raise TransportError(f"{self.registry} redirects from HTTPS to HTTP, at {url.host}")
        return url

    def origin(self) -> httpx.URL:
        """Scheme, host and port. A loopback registry is asked once whether it speaks TLS."""
        if self._settled is None:
            with self._lock:
                if self._settled is None:
                    has_tls = speaks_tls(self._https.host, self._https.port or 443)
                    self._settled = self._https if has_tls else self._http
        return self._settled

    def _may_send_credentials(self, url: str) -> bool:
        if self.options.plain_http:
            return True
        return self.origin().scheme == "https" and (not url or httpx.URL(url).scheme == "https")

    def _client(self, scheme: str) -> httpx.Client:
        with self._lock:
            if scheme not in self._clients:
                self._clients[scheme] = self._new_client(scheme)
            return self._clients[scheme]

    def _new_client(self, scheme: str) -> httpx.Client:
        # For HTTP, an empty context: loading the authorities takes 20 ms.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if scheme == "http" else tls_context(self.options)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self.options.concurrency)
        # As in Go's ProxyFromEnvironment: HTTP_PROXY and HTTPS_PROXY count, but not for the loopback.
        host = self._https.host
        direct = {f"all://[{host}]" if ":" in host else f"all://{host}": None} if is_loopback(host) else None
        try:
            return httpx.Client(verify=context, limits=limits, mounts=direct)
        except (httpx.InvalidURL, ValueError, ImportError):
            # Not the address itself: it may hold a password.
            advice = "Set HTTP_PROXY, HTTPS_PROXY and ALL_PROXY to http:// or https:// addresses, or unset them."
            raise UsageError("a proxy named in the environment cannot be used", advice=advice) from None

    def _fetch_token(self, request: TokenRequest) -> bytes:
        """The body of a token server's answer. Raises `AuthError` if it refuses."""
        patience = Patience(self.options, self._token_stats)
        while True:
            try:
                return self._fetch_token_once(request)
            except TRANSIENT as error:
                patience.pause(error)

    def _fetch_token_once(self, request: TokenRequest) -> bytes:
        what = f"get a token for {self.registry}"
        call = Call(what, "GET", request.url, frozenset())
        if request.form is not None:
            headers = {"content-type": "application/x-www-form-urlencoded"}
            call = Call(what, "POST", request.url, frozenset(), headers=headers, body=request.form.encode())
        with network_errors(what):
            response = self._exchange(call, httpx.URL(request.url), request.authorization, self._token_stats)
            try:
                body = drain(response, 2 * MAX_TOKEN)
            finally:
                response.close()
        if response.status_code == 200:
            return body
        problem = self.error(call, response.status_code, response.headers, body)
        if response.status_code in (400, 401, 403):
            raise AuthError(str(problem), advice=self._auth.advice())
        raise problem


def drain(response: httpx.Response, limit: int = MAX_ERROR_BODY) -> bytes:
    """The beginning of a body, at most ``limit`` bytes; read to its end, it leaves the connection for reuse."""
    deadline = time.monotonic() + DRAIN_TIME
    body = bytearray()
    try:
        for piece in response.iter_raw():
            body += piece
            if len(body) > limit or time.monotonic() > deadline:
                break
    except httpx.TransportError:
        pass  # the status has arrived, which is what counts
    return bytes(body[:limit])


def _origin(text: str, registry: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    if not url.host or not _HOST.fullmatch(registry):
        # The text is not shown: what does not belong there may be a password.
        raise UsageError("a registry is a host and perhaps a port, such as localhost:5000")
    return url


def _same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)
