"""One repository of a registry: requests with retries, counted."""

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from nydusify.digest import Digest
from nydusify.errors import TransportError
from nydusify.registry.options import RegistryOptions, Stats
from nydusify.registry.retry import TRANSIENT, Patience
from nydusify.registry.session import Call, Session, drain
from nydusify.registry.web import httpx

_sessions: dict[tuple[str, RegistryOptions], Session] = {}
_users: dict[tuple[str, RegistryOptions], int] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Answer:
    """A response whose body, as far as it is wanted, is in memory."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Endpoint:
    """Requests to one repository. Repositories of one registry with equal options share a session."""

    def __init__(self, registry: str, repository: str, options: RegistryOptions) -> None:
        self.name = f"{registry}/{repository}"
        self.repository = repository
        self.options = options
        self.stats = Stats()
        self._key = (registry, options)
        self._closed = False
        with _lock:
            self.session = _sessions.get(self._key) or Session(registry, options)
            _sessions[self._key] = self.session
            _users[self._key] = _users.get(self._key, 0) + 1

    def close(self) -> None:
        """Close the connections if no other repository uses them. Closing twice does nothing more."""
        with _lock:
            if self._closed:
                return
            self._closed = True
            _users[self._key] -= 1
            if _users[self._key]:
                return
            del _users[self._key], _sessions[self._key]
        self.session.close()

    def manifest_url(self, tag_or_digest: str) -> str:
        return f"/v2/{self.repository}/manifests/{tag_or_digest}"

    def blob_url(self, digest: Digest) -> str:
        return f"/v2/{self.repository}/blobs/{digest}"

    def patience(self) -> Patience:
        """The retries for one operation."""
        return Patience(self.options, self.stats)

    def stream(self, call: Call) -> AbstractContextManager[httpx.Response]:
        """One try; the body is the caller's to read, inside the context."""
        return self.session.send(call, self.stats)

    def once(self, call: Call, limit: int = 64 << 10) -> Answer:
        """One try; at most ``limit`` bytes of the body."""
        with self.stream(call) as response:
            return Answer(response.status_code, response.headers, drain(response, limit))

    def call(self, call: Call, limit: int = 64 << 10) -> Answer:
        """As many tries as the options allow."""
        patience = self.patience()
        while True:
            try:
                return self.once(call, limit)
            except TRANSIENT as error:
                patience.pause(error)

    def error(self, call: Call, answer: Answer) -> TransportError:
        """The error for an answer that was expected, but does not help."""
        return self.session.error(call, answer.status, answer.headers, answer.body)
