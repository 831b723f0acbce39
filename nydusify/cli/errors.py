"""What a user sees when something goes wrong, and what the shell gets. The table is docs/exit-codes.md."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, NoReturn

from nydusify.errors import NydusifyError
from nydusify.reports.redact import redact

UNEXPECTED = 70
"""EX_SOFTWARE of sysexits.h."""
GRACE = 5
"""Seconds from a signal to the end of the process, whatever it is still doing."""
EXIT_CODES = {
    0: "done",
    1: "anything else went wrong",
    2: "the options contradict each other, or a value is malformed",
    3: "content is not what it claims to be, or of an unsupported kind",
    4: "a registry or back-end failed, or has no such object",
    5: "the image has no such platform",
    6: "the work directory or a local file cannot be read or written",
    7: "credentials are missing, wrong, or not enough",
    UNEXPECTED: "a defect of nydusify",
    130: "interrupted (SIGINT)",
    143: "terminated (SIGTERM)",
}
LOGGER = logging.getLogger("nydusify")


class Stopped(BaseException):
    """A signal asked the program to end; raised in the main thread, so that everything on the way is cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def stop_on_signals() -> None:
    """Turn SIGINT and SIGTERM into `Stopped`, unless they are ignored.

    A second one ends the process at once, and so does time: a thread may be waiting for a server.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for other in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(other) is stop:
                signal.signal(other, partial(_end, Stopped(number)))
        signal.signal(signal.SIGALRM, partial(_end, Stopped(number)))
        signal.alarm(GRACE)
        raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def _end(stopped: Stopped, number: int, frame: FrameType | None) -> NoReturn:
    with suppress(OSError):
        os.write(2, f"error: {stopped}, without cleaning up\n".encode())
    os._exit(stopped.exit_code)


def exit_code_of(error: BaseException) -> int:
    """What the shell gets for ``error``."""
    return error.exit_code if isinstance(error, NydusifyError | Stopped) else UNEXPECTED


def describe(error: BaseException) -> dict[str, Any]:
    """``error`` as JSON: Class, Message, ExitCode, and Advice (a string or null); without secrets."""
    advice = error.advice if isinstance(error, NydusifyError) else None
    return {
        "Class": type(error).__name__,
        "Message": redact(str(error)),
        "ExitCode": exit_code_of(error),
        "Advice": redact(advice) if advice else None,
    }


@contextmanager
def reported() -> Iterator[None]:
    """End the process with a message and an exit code for whatever the block raises; no trace unless debugging."""
    try:
        yield
    except BrokenPipeError:
        # Whoever read us has gone. Python would complain when it flushes standard output at the end.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (Exception, Stopped) as error:
        _show(error)
        sys.exit(exit_code_of(error))


def _show(error: BaseException) -> None:
    facts = describe(error)
    message, advice = facts["Message"], facts["Advice"]
    if not isinstance(error, NydusifyError | Stopped):
        message = f"unexpected {facts['Class']}: {message}"
        advice = "This is a defect of nydusify. Run `nydusify --debug …` for the trace, and report it."
    with suppress(BrokenPipeError):
        print(f"error: {message}", file=sys.stderr)
        if advice:
            print(f"advice: {advice}", file=sys.stderr)
    LOGGER.error(message, extra={"printed": True})
    LOGGER.debug("trace", exc_info=error)
