"""Files as this room needs them: positional reads that any thread may do, and writes that are whole or not there."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from nydusify.errors import FormatError, NotFound, StoreError

PIECE = 1 << 20


def open_regular(path: Path) -> int:
    """A file descriptor for reading; `NotFound` if there is no such file, `FormatError` if it is none."""
    try:
        # Without O_NONBLOCK a named pipe in a hostile layout would hang us here.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    except OSError as error:
        raise _store_error(path, error) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FormatError(f"{path}: not a regular file")
    return fd


def read_at(fd: int, offset: int, length: int) -> bytes:
    """Exactly ``length`` bytes from ``offset``; `FormatError` if the file ends before."""
    return b"".join(iter_at(fd, offset, length))


def iter_at(fd: int, offset: int, length: int) -> Iterator[bytes]:
    """``length`` bytes from ``offset``, in pieces of at most 1 MiB; `FormatError` if the file ends before."""
    end = offset + length
    while offset < end:
        try:
            piece = os.pread(fd, min(PIECE, end - offset), offset)
        except OSError as error:
            raise StoreError(f"a file cannot be read: {error.strerror}") from error
        if not piece:
            raise FormatError(f"the file ends {end - offset} bytes too early")
        yield piece
        offset += len(piece)


def iter_content(content: Path | bytes) -> Iterator[bytes]:
    """The pieces of a blob that is to be stored."""
    if isinstance(content, bytes):
        yield content
        return
    fd = open_regular(content)
    try:
        yield from iter_at(fd, 0, os.fstat(fd).st_size)
    finally:
        os.close(fd)


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Write ``path`` as a whole: it appears, synced, when the block ends; when the block raises, nothing changes.

    ``mode`` is subject to the umask. Raises `StoreError` for what the file system refuses.
    """
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.partial")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise _store_error(path, error) from error
    try:
        with open(fd, "wb", buffering=PIECE) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and not isinstance(error, StoreError | NotFound):
            raise _store_error(path, error) from error
        raise


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _store_error(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path}: {error.strerror or error}", advice="Check the path, its permissions and the free space."
    )
