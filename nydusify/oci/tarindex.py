"""The files inside a plain tar by name, for random access. Nothing is unpacked, and no name reaches the file system."""

import os
import posixpath
import tarfile
from dataclasses import dataclass

from nydusify.errors import FormatError
from nydusify.oci.files import read_at

MAX_MEMBERS = 200_000
MAX_HEADER = 1 << 20
MAX_LINKS = 8


@dataclass(frozen=True, slots=True)
class Member:
    """Where the content of a file lies in the tar, in bytes."""

    offset: int
    size: int


class TarIndex:
    """Raises `FormatError` for names that climb out, for a name given twice, and for a tar that is cut off."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._files: dict[str, Member] = {}
        self._links: dict[str, str] = {}
        self._scan(os.fstat(fd).st_size)

    def find(self, name: str) -> Member | None:
        """The file of this name, also through links inside the tar; None if there is none."""
        for _ in range(MAX_LINKS):
            if name not in self._links:
                return self._files.get(name)
            name = self._links[name]
        raise FormatError(f"archive: the links of {name!r} do not end")

    def read(self, name: str, limit: int) -> bytes | None:
        """The content of a small file; None if there is none, `FormatError` above ``limit`` bytes."""
        member = self.find(name)
        if member is None:
            return None
        if member.size > limit:
            raise FormatError(f"archive: {name} has {member.size} bytes, more than the {limit} that are read")
        return read_at(self.fd, member.offset, member.size)

    def _scan(self, size: int) -> None:
        try:
            with tarfile.open(fileobj=_Headers(self.fd, size), mode="r:") as tar:  # type: ignore[call-overload]
                # Not `for info in tar`: the check of each member must come before the next header is read.
                while (info := tar.next()) is not None:
                    tar.members.clear()  # it would keep every member it has seen
                    self._add(info, size)
        except FormatError:
            raise
        except (tarfile.TarError, ValueError, OverflowError, LookupError, RecursionError, EOFError) as error:
            raise FormatError(f"archive: not a valid tar: {str(error)[:200]}") from None

    def _add(self, info: tarfile.TarInfo, size: int) -> None:
        name = clean(info.name)
        if info.size < 0 or (info.isreg() and info.offset_data + info.size > size):
            raise FormatError(f"archive: {name!r} is cut off or has an impossible size")
        if len(self._files) + len(self._links) >= MAX_MEMBERS:
            raise FormatError(f"archive: more than {MAX_MEMBERS} files")
        if info.isdir():
            return
        if info.issym() or info.islnk():
            base = posixpath.dirname(name) if info.issym() else ""
            self._new(name)
            self._links[name] = clean(posixpath.join(base, info.linkname), collapse=True)
        elif info.isreg() and info.sparse is None:
            member = Member(info.offset_data, info.size)
            # `docker save` of several images may repeat a blob; its digest says that both are the same.
            if not (name.startswith("blobs/") and self._files.get(name, member).size == member.size):
                self._new(name)
            self._files.setdefault(name, member)
        else:
            raise FormatError(f"archive: {name!r} is not a plain file, directory or link")

    def _new(self, name: str) -> None:
        if name in self._files or name in self._links:
            raise FormatError(f"archive: {name!r} is there twice")


def clean(name: str, *, collapse: bool = False) -> str:
    """A member name without ``./`` and doubled slashes; raise `FormatError` if it leads out of the archive.

    ``collapse`` resolves ``..`` first, as the targets of links need it.
    """
    path = posixpath.normpath(name)
    if name.startswith("/") or path.split("/")[0] == ".." or (not collapse and ".." in name.split("/")):
        raise FormatError(f"archive: the name {name[:200]!r} leads out of the archive")
    return path


class _Headers:
    """The tar as `tarfile` reads it: headers only, so that a header which claims to be huge is refused, not read."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self._size, self._position = fd, size, 0

    def read(self, length: int) -> bytes:
        if not 0 <= length <= MAX_HEADER:
            raise FormatError(f"archive: a header claims {length} bytes")
        data = read_at(self._fd, self._position, max(0, min(length, self._size - self._position)))
        self._position += len(data)
        return data

    def seek(self, position: int) -> None:
        self._position = position

    def tell(self) -> int:
        return self._position
