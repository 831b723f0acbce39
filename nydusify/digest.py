"""Content digests, as in the OCI image specification (descriptor.md, "Digests")."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from nydusify.errors import DigestMismatch, FormatError

HEX_LENGTH = {"sha256": 64, "sha512": 128}


@dataclass(frozen=True, slots=True)
class Digest:
    """A content digest such as ``sha256:9f86…``. Equal digests mean equal bytes."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``algorithm:hex``; raise `FormatError` for anything else."""
        algorithm, _, value = text.partition(":")
        if len(value) != HEX_LENGTH.get(algorithm) or set(value) - set("0123456789abcdef"):
            raise FormatError(f"not a digest: {text[:140]!r}")
        return cls(algorithm, value)

    @classmethod
    def of(cls, content: bytes | memoryview) -> Self:
        """The sha256 digest of ``content``."""
        return cls("sha256", hashlib.sha256(content).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    def verify(self, pieces: Iterable[bytes], size: int | None = None) -> Iterator[bytes]:
        """Pass ``pieces`` through; raise `DigestMismatch` if they are other bytes than promised.

        With ``size`` (bytes) the stream is cut off with an error as soon as it is longer.
        """
        state, seen = hashlib.new(self.algorithm), 0
        for piece in pieces:
            state.update(piece)
            seen += len(piece)
            if size is not None and seen > size:
                raise DigestMismatch(f"{self}: more than the {size} bytes that were promised")
            yield piece
        if size is not None and seen != size:
            raise DigestMismatch(f"{self}: {seen} bytes, {size} were promised")
        if state.hexdigest() != self.hex:
            raise DigestMismatch(f"expected {self}, got {self.algorithm}:{state.hexdigest()}")
