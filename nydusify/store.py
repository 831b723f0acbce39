"""The local store: files by content, and small notes about them.

What is in the store is whole: everything is written under a temporary name, synced and renamed. Several threads and
processes may share one; whoever comes second replaces equal bytes by equal bytes.

```
<root>/blobs/sha256/<hex>     layers, configs, blobs, bootstraps
<root>/notes/<kind>/<key>     JSON: what was built from what
<root>/tmp/                   being written
```
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Any, BinaryIO

from nydusify.digest import Digest
from nydusify.errors import DigestMismatch, NydusifyError, StoreError

PIECE = 1 << 20
STALE = 24 * 3600
"""Seconds after which an unfinished file counts as left behind by a dead process."""


def default_root() -> Path:
    """``$XDG_CACHE_HOME/nydusify``, or ``~/.cache/nydusify``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nydusify"


@contextmanager
def store_errors(what: str) -> Iterator[None]:
    """Turn what the file system refuses while doing ``what`` into `StoreError`."""
    try:
        yield
    except NydusifyError:
        raise  # some are OSErrors too
    except OSError as error:
        raise StoreError(f"{what}: {error.strerror or error}") from error


class NewFile:
    """A file on its way into the store. Without `commit` it vanishes at the end of the ``with`` block."""

    def __init__(self, file: BinaryIO, path: Path, store: "Store") -> None:
        self.file = file
        self._path = path
        self._store = store

    def commit(self, digest: Digest) -> Path:
        """Put the file into the store as the content of ``digest``, which the caller has worked out or verified."""
        target = self._store.path(digest)
        with store_errors(f"store: {target}"):
            self.file.flush()
            os.fsync(self.file.fileno())
            self.rename(target)
        return target

    def rename(self, target: Path) -> None:
        """Put what was written under ``target``, without waiting for the disk."""
        self.file.flush()
        target.parent.mkdir(parents=True, exist_ok=True)
        self._path.replace(target)


class Store:
    """Raises `StoreError` for whatever the file system refuses."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()

    def path(self, digest: Digest) -> Path:
        """Where the content of ``digest`` lies, or would."""
        return self.root / "blobs" / digest.algorithm / digest.hex

    def has(self, digest: Digest, size: int) -> bool:
        """Whether the content is here, with ``size`` bytes. Marks it as used."""
        path = self.path(digest)
        with suppress(OSError):
            if path.stat().st_size == size:
                os.utime(path)
                return True
        return False

    @contextmanager
    def new_file(self) -> Iterator[NewFile]:
        """A temporary file in the store to write to; see `NewFile`."""
        folder = self.root / "tmp"
        with store_errors(f"store: {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = mkstemp(dir=folder)
        path = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file, store_errors(f"store: {path}"):
                os.fchmod(file.fileno(), 0o644)
                yield NewFile(file, path, self)
        finally:
            with suppress(OSError):
                path.unlink()

    def put(self, content: bytes) -> Digest:
        """Store ``content`` and return its digest."""
        digest = Digest.of(content)
        if not self.has(digest, len(content)):
            with self.new_file() as new:
                new.file.write(content)
                new.commit(digest)
        return digest

    def put_pieces(self, digest: Digest, size: int, pieces: Iterable[bytes]) -> Path:
        """Store a stream that must turn out to be ``digest`` and ``size``. Raises `DigestMismatch`."""
        with self.new_file() as new:
            for piece in digest.verify(pieces, size):
                new.file.write(piece)
            return new.commit(digest)

    def read(self, digest: Digest) -> bytes:
        """The verified content of ``digest``. Raises `StoreError` if it is not here, `DigestMismatch` if it changed."""
        with store_errors(f"store: {digest}"):
            content = self.path(digest).read_bytes()
        if Digest.of(content) != digest:
            raise DigestMismatch(f"store: {self.path(digest)} is damaged", advice="Delete the file and run again.")
        return content

    def iter_pieces(self, digest: Digest, size: int) -> Iterator[bytes]:
        """The content of ``digest`` in pieces of 1 MiB; verified at the end."""
        with store_errors(f"store: {digest}"), self.path(digest).open("rb") as file:
            yield from digest.verify(iter(lambda: file.read(PIECE), b""), size)

    def note(self, kind: str, key: str) -> dict[str, Any] | None:
        """What was noted under ``kind`` and ``key``; None for nothing, and for a note that cannot be read."""
        try:
            value = json.loads((self.root / "notes" / kind / key).read_bytes())
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def write_note(self, kind: str, key: str, value: dict[str, Any]) -> None:
        """Note ``value`` (JSON) under ``kind`` and ``key``, which is fit to be a file name."""
        target = self.root / "notes" / kind / key
        with self.new_file() as new, store_errors(f"store: {target}"):
            new.file.write(json.dumps(value, sort_keys=True).encode())
            new.rename(target)

    def prune(self, limit: int) -> int:
        """Delete the files unused for longest until ``limit`` bytes remain; return the bytes that were freed.

        Also deletes what dead processes left unfinished. Whatever is missing later is pulled or built again.
        """
        found, freed = [], 0
        for path in (*self.root.glob("blobs/*/*"), *self.root.glob("notes/*/*"), *self.root.glob("tmp/*")):
            with suppress(OSError):
                status = path.stat()
                if path.parent.name != "tmp":
                    found.append((status.st_mtime, status.st_size, path))
                elif status.st_mtime < time.time() - STALE:
                    path.unlink()
        excess = sum(size for _, size, _ in found) - limit
        for _, size, path in sorted(found):
            if freed >= excess:
                break
            with suppress(OSError):
                path.unlink()
                freed += size
        return freed
