"""Log lines: on a terminal for people, elsewhere ``time=… level=… msg=…`` pairs. Never with a secret."""

import json
import logging
import sys
import time
from pathlib import Path

from nydusify.reports.redact import redact

LEVELS = {
    "panic": logging.CRITICAL,
    "fatal": logging.CRITICAL,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": 5,
}
_WORDS = {logging.CRITICAL: "fatal", logging.WARNING: "warning", 5: "trace"}
LOGGER = logging.getLogger("nydusify")


class Pairs(logging.Formatter):
    """``time=2026-11-24T01:29:47Z level=info msg="…"``, one line a record."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        message = redact(super().format(record))
        bare = message.isascii() and message.isprintable() and not set(message) & set(' ="\\')
        return f"time={stamp} level={_word(record)} msg={message if bare else json.dumps(message, ensure_ascii=False)}"


class Plain(logging.Formatter):
    """``WARNING[01:29:47] …``, in local time."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"{_word(record).upper()}[{stamp}] {redact(super().format(record))}"


class _Stderr(logging.Handler):
    """Writes to what standard error is at that time: progress bars put something in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "printed", False):
            print(self.format(record), file=sys.stderr)


def set_up(level: str, debug: bool, log_file: Path | None) -> None:
    """Log to standard error, or append to ``log_file``; ``debug`` beats ``level``, an unknown level counts as info."""
    wanted = logging.DEBUG if debug else LEVELS.get(level.lower(), logging.INFO)
    handler, trouble = _handler(log_file)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    # Libraries have their say only when everything is asked for: some of them log every request.
    root.setLevel(wanted if wanted == LEVELS["trace"] else max(wanted, logging.WARNING))
    LOGGER.setLevel(wanted)
    if level.lower() not in LEVELS:
        LOGGER.warning("unknown log level %r, using info; known are %s", level, ", ".join(LEVELS))
    if trouble:
        LOGGER.error(trouble)


def say(line: str) -> None:
    """A line of progress: printed for the user, and logged where logs go to a file."""
    print(line, file=sys.stderr, flush=True)
    LOGGER.info(line, extra={"printed": True})


def _handler(log_file: Path | None) -> tuple[logging.Handler, str]:
    trouble = ""
    handler: logging.Handler = _Stderr()
    if log_file is not None:
        try:
            handler = logging.FileHandler(log_file, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            trouble = f"cannot open the log file {log_file}: {error.strerror}; logging to standard error"
    on_terminal = isinstance(handler, _Stderr) and sys.stderr.isatty()
    handler.setFormatter(Plain() if on_terminal else Pairs())
    return handler, trouble


def _word(record: logging.LogRecord) -> str:
    return _WORDS.get(record.levelno, record.levelname.lower())
