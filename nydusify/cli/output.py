"""Progress on standard error: bars on a terminal, a line for each finished step elsewhere."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nydusify.cli.logs import say
from nydusify.cli.values import human_size
from nydusify.conversion.progress import Progress, Quiet

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_DONE = {"pull": "pulled", "build": "built", "push": "pushed"}
_THINGS = {"push": "blob"}


@contextmanager
def listener(bars: bool, quiet: bool) -> Iterator[Progress]:
    """What the library's steps report to, until the block ends."""
    if quiet:
        yield Quiet()
    elif bars and sys.stderr.isatty():
        with _rich_progress() as rich:
            yield Bars(rich)
    else:
        yield Lines()


class Lines:
    """``built layer sha256:0123456789ab 12.3 MB``, or what the step says instead, such as ``found in the store``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[tuple[str, str], int] = {}

    def begin(self, key: str, what: str, total: int) -> None:
        with self._lock:
            self._totals[key, what] = total

    def advance(self, key: str, what: str, count: int) -> None:
        pass

    def end(self, key: str, what: str, note: str = "") -> None:
        with self._lock:
            total = self._totals.pop((key, what), None)
            thing = f"{_THINGS.get(what, 'layer')} {_short(key)}"
            if total is not None:
                thing += f" {human_size(total)}"
            say(f"{thing} {note}" if note else f"{_DONE.get(what, what)} {thing}")


class Bars(Lines):
    """A bar for each step that runs, and above them the lines of those that are done."""

    def __init__(self, rich: "RichProgress") -> None:
        super().__init__()
        self._rich = rich
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def begin(self, key: str, what: str, total: int) -> None:
        super().begin(key, what, total)
        self._tasks[key, what] = self._rich.add_task(f"{what} {_short(key)}", total=total)

    def advance(self, key: str, what: str, count: int) -> None:
        if (task := self._tasks.get((key, what))) is not None:
            self._rich.advance(task, count)

    def end(self, key: str, what: str, note: str = "") -> None:
        if (task := self._tasks.pop((key, what), None)) is not None:
            self._rich.remove_task(task)
        super().end(key, what, note)


def _rich_progress() -> "RichProgress":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return RichProgress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)


def _short(digest: str) -> str:
    """The algorithm and twelve digits, as image listings have it."""
    algorithm, colon, value = digest.partition(":")
    return f"{algorithm}{colon}{value[:12]}"
