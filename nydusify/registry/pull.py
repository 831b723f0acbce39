"""Blobs out of a registry. Source: distribution-spec, "Pulling blobs"; RFC 9110, 14 (range requests)."""

import re
from collections.abc import Iterator

from nydusify.errors import DigestMismatch, FormatError
from nydusify.oci.descriptor import Descriptor
from nydusify.registry.auth import pull_scopes
from nydusify.registry.endpoint import Endpoint
from nydusify.registry.retry import TRANSIENT, Interrupted
from nydusify.registry.session import Call
from nydusify.registry.web import httpx

PIECE = 256 << 10
"""Bytes that are handed on at once, if the network has them: TLS gives 16 KiB at a time, too few to be worth a call."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.IGNORECASE)


def open_blob(endpoint: Endpoint, descriptor: Descriptor) -> Iterator[bytes]:
    """Stream a blob, verified by digest and size; a transfer that is cut goes on where it stopped."""
    return descriptor.digest.verify(_Download(endpoint, descriptor).pieces(), descriptor.size)


def read_blob_range(endpoint: Endpoint, descriptor: Descriptor, offset: int, length: int) -> bytes:
    """Exactly ``length`` bytes from ``offset``. Raises `FormatError` for a range that is not in the blob."""
    if offset < 0 or length < 0 or offset + length > descriptor.size:
        raise FormatError(f"blob {descriptor.digest} of {descriptor.size} bytes: no {length} bytes at {offset}")
    return b"".join(_limited(_Download(endpoint, descriptor, offset, offset + length).pieces(), length))


class _Download:
    """The bytes from ``offset`` to ``end`` of a blob, over as many requests as it takes."""

    def __init__(self, endpoint: Endpoint, descriptor: Descriptor, offset: int = 0, end: int | None = None) -> None:
        self._endpoint = endpoint
        self._descriptor = descriptor
        self._offset = offset
        self._end = descriptor.size if end is None else end
        self._ranges = True
        """Whether the server may be asked for ranges; not after it answered with another one."""

    def pieces(self) -> Iterator[bytes]:
        """All bytes in order, and more than were asked for if the server sends more: the caller sees the excess."""
        patience = self._endpoint.patience()
        while self._offset < self._end:
            try:
                for piece in self._attempt():
                    self._offset += len(piece)
                    patience.progressed(len(piece))
                    yield piece
                if self._offset < self._end:
                    raise Interrupted(f"{self._what}: ended after {self._offset} of {self._descriptor.size} bytes")
            except TRANSIENT as error:
                if self._offset < self._end:
                    patience.pause(error)

    @property
    def _what(self) -> str:
        return f"pull blob {self._descriptor.digest} from {self._endpoint.name}"

    @property
    def _whole(self) -> bool:
        return self._end == self._descriptor.size

    def _attempt(self) -> Iterator[bytes]:
        """What one request gives from the offset on."""
        scopes = pull_scopes(self._endpoint.repository)
        headers = {}
        if self._ranges and (self._offset or not self._whole):
            headers["range"] = f"bytes={self._offset}-" + ("" if self._whole else str(self._end - 1))
        expect = (200, 206, 416) if headers else (200,)
        url = self._endpoint.blob_url(self._descriptor.digest)
        with self._endpoint.stream(Call(self._what, "GET", url, scopes, expect, headers)) as response:
            yield from _skipped(self._counted(response), self._check(response))

    def _check(self, response: httpx.Response) -> int:
        """How many bytes of the body come before the offset. Raises if the body cannot be what was asked for."""
        length = response.headers.get("content-length", "")
        if response.status_code == 200:
            if length.isdigit() and int(length) != self._descriptor.size:
                raise DigestMismatch(f"{self._what}: {length} bytes, {self._descriptor.size} were promised")
            return self._offset
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
        first, last, size = match.groups() if match and response.status_code == 206 else ("", "", "")
        if first == str(self._offset) and last == str(self._end - 1) and size in ("*", str(self._descriptor.size)):
            return 0
        self._ranges = False
        raise Interrupted(f"{self._what}: the server answered with another range than the one asked for")

    def _counted(self, response: httpx.Response) -> Iterator[bytes]:
        """The body in pieces of a good size."""
        held: list[bytes] = []
        size = 0
        try:
            for piece in response.iter_raw():
                held.append(piece)
                size += len(piece)
                if size >= PIECE:
                    self._endpoint.stats.add(bytes_pulled=size)
                    yield b"".join(held)
                    held, size = [], 0
        except httpx.TransportError:
            # What came before the cut is as good as the rest.
            self._endpoint.stats.add(bytes_pulled=size)
            if held:
                yield b"".join(held)
            raise
        self._endpoint.stats.add(bytes_pulled=size)
        if held:
            yield b"".join(held)


def _skipped(pieces: Iterator[bytes], count: int) -> Iterator[bytes]:
    """``pieces`` without their first ``count`` bytes."""
    for piece in pieces:
        if count < len(piece):
            yield piece[count:] if count else piece
        count = max(0, count - len(piece))


def _limited(pieces: Iterator[bytes], count: int) -> Iterator[bytes]:
    """The first ``count`` bytes of ``pieces``.

    What ends there by itself is read to its end, because that keeps the connection open for the next request.
    """
    for piece in pieces:
        if not count:
            return
        yield piece[:count]
        count -= min(count, len(piece))
