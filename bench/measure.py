"""Run one command and say what it cost: wall time, CPU of its process tree, resident memory, bytes written."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.02
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


class CommandFailed(Exception):
    """The measured command ended with another status than 0, or took too long."""


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    wall_s: float
    cpu_s: float
    """User and system time of the command and of every child that it waited for (rusage of wait4)."""
    process_rss: int
    """Peak resident bytes of the largest single process of the tree (rusage of wait4). A forked child starts with the
    bench's own pages, so figures below some 30 MB mean nothing."""
    tree_rss: int
    """Peak of the summed resident bytes of the tree, sampled every 20 ms; pages that are shared count twice."""
    written: int
    """Bytes made dirty on block devices by the command and the children it waited for (write_bytes of its
    /proc/PID/io, read after its end and before it is reaped, hence exact). Nothing counts on tmpfs."""
    machine_cpu_s: float
    """CPU time of the whole machine meanwhile: the rest is the registry and whatever else was running."""


def run(command: Sequence[str], log: Path, timeout_s: float) -> Cost:
    """Run ``command`` to its end, output to ``log``; raise `CommandFailed` with the end of the log if it fails."""
    os.sync()  # dirty pages of the run before would be written at the expense of this one
    before = machine_cpu()
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    sampler = TreeSampler(process.pid)
    sampler.start()
    wait_for_end(process.pid, timeout_s)
    wall_s = time.monotonic() - began
    sampler.stop()
    written = write_bytes(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = log.read_text(errors="replace")[-2000:]
        raise CommandFailed(f"{command[0]} ended with {process.returncode} after {wall_s:.1f} s:\n{tail}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return Cost(wall_s, cpu_s, usage.ru_maxrss * 1024, sampler.peak, written, machine_cpu() - before)


def wait_for_end(pid: int, timeout_s: float) -> None:
    """Block until ``pid`` has ended, without reaping it; kill its process group when it or the user loses patience."""
    guard = threading.Timer(timeout_s, os.killpg, (pid, signal.SIGKILL))
    guard.daemon = True
    guard.start()
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except KeyboardInterrupt:
        os.killpg(pid, signal.SIGKILL)
        raise
    finally:
        guard.cancel()


class TreeSampler(threading.Thread):
    """Watches the resident memory of a process and its descendants until `stop`."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peak = 0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, sum(map(resident_bytes, descendants(self.pid))))

    def stop(self) -> None:
        self._ended.set()
        self.join()


def descendants(pid: int) -> Iterator[int]:
    """``pid`` and all processes below it that are there now."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:  # the thread ended between listing and reading
            continue
        for child in found:
            yield from descendants(int(child))


def resident_bytes(pid: int) -> int:
    """Resident bytes of one process; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0


def write_bytes(pid: int) -> int:
    """Bytes a process, its reaped children included, sent towards block devices."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def process_cpu(pid: int) -> float:
    """CPU seconds of one running process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def machine_cpu() -> float:
    """Busy seconds of all cores since boot: everything but idle and waiting for disks."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = (
        int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) / TICKS
