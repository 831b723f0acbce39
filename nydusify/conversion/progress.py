"""What the steps tell while they run, and how long each stage took."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from nydusify.errors import NydusifyError


class Progress(Protocol):
    """A listener. Methods are called from several threads; ``key`` is the digest of a layer or blob."""

    def begin(self, key: str, what: str, total: int) -> None:
        """A step (``pull``, ``push``…) on ``key`` starts; it will handle ``total`` bytes."""

    def advance(self, key: str, what: str, count: int) -> None:
        """``count`` more bytes are done."""

    def end(self, key: str, what: str, note: str = "") -> None:
        """The step is done; ``note`` says how, such as ``found in the store``."""


class Quiet:
    """Listens to nothing."""

    def begin(self, key: str, what: str, total: int) -> None:
        pass

    def advance(self, key: str, what: str, count: int) -> None:
        pass

    def end(self, key: str, what: str, note: str = "") -> None:
        pass


class Cancelled(NydusifyError):
    """Another part of the same run failed, or the run was stopped."""


class Watch:
    """Stage times of one run, in nanoseconds from the first start of a stage to its last end; and whether to go on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: dict[str, tuple[int, int]] = {}
        self.stop = threading.Event()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic_ns()
        try:
            yield
        finally:
            self.add(name, started, time.monotonic_ns())

    def add(self, name: str, started: int, ended: int) -> None:
        """A stage ran, perhaps elsewhere. All times of one stage must come from one clock."""
        with self._lock:
            first, last = self._spans.get(name, (started, ended))
            self._spans[name] = (min(first, started), max(last, ended))

    def elapsed(self, name: str) -> int:
        """0 for a stage that never ran."""
        first, last = self._spans.get(name, (0, 0))
        return last - first

    def checked(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Pass ``pieces`` through until the run is stopped; then raise `Cancelled`."""
        for piece in pieces:
            if self.stop.is_set():
                raise Cancelled("stopped, because another part of the run failed")
            yield piece
