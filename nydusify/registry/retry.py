"""How long one operation goes on trying: exponential back-off with full jitter, and the server's wishes.

Written out instead of taken from tenacity because downloads are generators: a consumer may hand one from thread to
thread between two pieces, and tenacity keeps its state per thread.
"""

import random
import time

from nydusify.errors import RetryLater, TransportError
from nydusify.registry.options import RegistryOptions, Stats

PROGRESS = 1 << 20
"""Bytes that must have come through since the last failure for the count of failures to start again."""


class Interrupted(TransportError):
    """A failure that may pass: a reset, a time-out, an early end, HTTP 408, 500, 502, 504 or 520 to 527."""


TRANSIENT = (Interrupted, RetryLater)


class Patience:
    """The retries left to one operation, such as the pull of one blob. Not shared between operations."""

    def __init__(self, options: RegistryOptions, stats: Stats) -> None:
        self._options = options
        self._stats = stats
        self._failures = 0
        self._progress = 0

    def progressed(self, size: int) -> None:
        """Take note of ``size`` bytes that need not be sent again; enough of them forgive earlier failures."""
        self._progress += size

    def pause(self, error: TransportError) -> None:
        """Wait until the next try; raise ``error`` if there were enough. Call only for `TRANSIENT` errors."""
        if self._progress >= PROGRESS:
            self._failures = 0
        self._progress = 0
        self._failures += 1
        if self._failures > self._options.retry_count:
            raise error
        self._stats.add(retries=1)
        time.sleep(self._wait(error))

    def _wait(self, error: TransportError) -> float:
        longest = self._options.retry_limit
        jitter = random.uniform(0, min(longest, self._options.retry_delay * 2.0 ** min(self._failures - 1, 60)))
        wish = error.after if isinstance(error, RetryLater) else None
        # Clients that were sent away together must not come back together, nor before the time they were given.
        return jitter if wish is None else min(wish, longest) + min(jitter, self._options.retry_delay)
