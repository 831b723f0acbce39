"""Where the bytes of a blob come from."""

import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from nydusify.errors import FormatError


class BlobSource(Protocol):
    """A blob that can be read at any place: a file, a range of an archive, an object at a registry."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``, which lie inside the blob."""


class FileBlob:
    """A blob in a file. May be used by several threads."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        pieces = []
        while length:
            piece = os.pread(self._file.fileno(), length, offset)
            if not piece:
                raise FormatError(f"{self._file.name} became shorter while it was read")
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_range(blob: BlobSource, what: str, offset: int, length: int) -> bytes:
    """``length`` bytes of ``what`` at ``offset``; `FormatError` if they are not inside the blob."""
    if offset + length > blob.size:
        raise FormatError(f"{what}: {length} bytes at {offset}, in a blob of {blob.size}")
    return blob.read_at(offset, length)
