"""How to talk to a registry, and what that cost."""

import threading
from dataclasses import dataclass
from pathlib import Path

from nydusify.errors import UsageError


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """Settings of one registry. Credentials come from the Docker config only. Times are seconds, sizes bytes."""

    plain_http: bool = False
    """Use HTTP instead of HTTPS, and send credentials over it."""
    insecure: bool = False
    """Accept any TLS certificate."""
    ca_file: Path | None = None
    """PEM file of authorities that are trusted besides those of the system."""
    retry_count: int = 5
    """How often in a row something may fail before it is given up; 0 turns retries off."""
    retry_delay: float = 1.0
    """Upper bound of the first wait; each further one doubles. The actual wait is random below that."""
    retry_limit: float = 60.0
    """Longest wait, also when a server asks for a longer one."""
    connect_timeout: float = 30.0
    read_timeout: float = 60.0
    """How long a connection may be silent."""
    push_chunk_size: int = 0
    """Upload blobs in PATCH requests of this size; 0 sends each in one PUT."""
    concurrency: int = 8
    """How many connections stay open between requests. Callers bound their own threads."""
    user_agent: str = "nydusify"

    def __post_init__(self) -> None:
        for name in ("retry_count", "retry_delay", "retry_limit", "push_chunk_size"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative, it is {getattr(self, name)}")
        for name in ("connect_timeout", "read_timeout", "concurrency"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} must be positive, it is {getattr(self, name)}")


class Stats:
    """Counters of one repository's traffic. Several threads may add at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0
        """HTTP requests sent, with redirects and retries, but without those to token servers."""
        self.retries = 0
        """Failures that were followed by another try, also without those at token servers."""
        self.bytes_pulled = 0
        """Blob and manifest bytes received, also those received twice."""
        self.bytes_pushed = 0
        """Blob and manifest bytes handed to the network, also those sent twice."""

    def add(self, *, requests: int = 0, retries: int = 0, bytes_pulled: int = 0, bytes_pushed: int = 0) -> None:
        with self._lock:
            self.requests += requests
            self.retries += retries
            self.bytes_pulled += bytes_pulled
            self.bytes_pushed += bytes_pushed

    def __repr__(self) -> str:
        return (
            f"Stats(requests={self.requests}, retries={self.retries}, "
            f"bytes_pulled={self.bytes_pulled}, bytes_pushed={self.bytes_pushed})"
        )
