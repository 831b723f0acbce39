"""How much memory a piece of work takes at its peak, as the kernel counts it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
RESET_PEAK = "5"


def status(field: str) -> int:
    """A field of this process's status, in bytes: ``VmRSS`` (resident now) or ``VmHWM`` (its peak)."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def reset_peak() -> bool:
    """Let ``VmHWM`` begin anew; False where the kernel does not let a process do that."""
    try:
        CLEAR.write_text(RESET_PEAK)
    except OSError:
        return False
    return True


class Peak:
    """``grown``: bytes by which the resident memory rose at its peak, once the work is done."""

    grown = 0


@contextmanager
def measured() -> Iterator[Peak]:
    """Measure the peak of what runs inside; skips the test where the kernel cannot reset the mark."""
    peak = Peak()
    if not reset_peak():
        pytest.skip("this kernel does not let a process reset its memory peak")
    before = status("VmRSS")
    try:
        yield peak
    finally:
        peak.grown = status("VmHWM") - before
