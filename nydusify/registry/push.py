"""Blobs into a registry. Source: distribution-spec, "Pushing blobs", "Mounting a blob from another repository"."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from nydusify.errors import DigestMismatch, NotFound, StoreError, TransportError
from nydusify.oci.descriptor import Descriptor
from nydusify.registry.auth import Scopes, pull_scopes, push_scopes
from nydusify.registry.endpoint import Answer, Endpoint
from nydusify.registry.errors import error_codes
from nydusify.registry.retry import TRANSIENT, Interrupted
from nydusify.registry.session import Call

PIECE = 1 << 20
"""Bytes that are read and sent at once."""
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})")


def has_blob(endpoint: Endpoint, descriptor: Descriptor, scopes: Scopes | None = None) -> bool:
    """Whether the registry has a blob, and of the right size if it tells the size."""
    what = f"look for blob {descriptor.digest} in {endpoint.name}"
    url = endpoint.blob_url(descriptor.digest)
    call = Call(what, "HEAD", url, scopes or pull_scopes(endpoint.repository))
    try:
        length = endpoint.call(call).headers.get("content-length")
    except NotFound:
        return False
    return length is None or length == str(descriptor.size)


def push_blob(endpoint: Endpoint, descriptor: Descriptor, content: Path | bytes, mount_from: str | None = None) -> int:
    """Store a blob; return the bytes sent, 0 if it was there or could be mounted from ``mount_from``.

    Raises `DigestMismatch` if ``content`` is not what the descriptor says, `StoreError` if it cannot be read.
    """
    return _Upload(endpoint, descriptor, content, mount_from).run()


class _Upload:
    """The upload of one blob, over as many tries as it takes."""

    def __init__(
        self, endpoint: Endpoint, descriptor: Descriptor, content: Path | bytes, mount_from: str | None
    ) -> None:
        self._endpoint = endpoint
        self._descriptor = descriptor
        self._content = content
        self._mount_from = mount_from if mount_from != endpoint.repository else None
        self._scopes = push_scopes(endpoint.repository)
        self._what = f"push blob {descriptor.digest} to {endpoint.name}"
        self._location = ""
        """Where the next request of the upload goes; empty if there is no upload."""
        self._offset = 0
        """How many bytes the registry has of this upload."""
        self._chunk = endpoint.options.push_chunk_size
        self._resumed = False
        self._farthest = 0
        self._patience = endpoint.patience()
        self._sent = 0

    def run(self) -> int:
        size = _size(self._content)
        if size != self._descriptor.size:
            raise DigestMismatch(f"{self._what}: {size} bytes, {self._descriptor.size} were promised")
        while not has_blob(self._endpoint, self._descriptor, self._scopes):
            try:
                if (self._location and self._find_offset()) or self._start():
                    self._send_rest()
                break
            except TRANSIENT as error:
                self._patience.pause(error)
        return self._sent

    def _reached(self, offset: int) -> None:
        """The registry has the bytes up to ``offset``. Only what it never had before counts as progress, else an
        upload that is forgotten again and again would be tried for ever."""
        self._offset = offset
        self._patience.progressed(max(0, offset - self._farthest))
        self._farthest = max(self._farthest, offset)

    def _start(self) -> bool:
        """Begin an upload, or mount the blob; False if the blob is there now."""
        self._offset, self._resumed = 0, False
        answer = self._mount() if self._mount_from else None
        if answer is not None and answer.status == 201:
            return False
        if answer is None:
            url = f"/v2/{self._endpoint.repository}/blobs/uploads/"
            answer = self._endpoint.once(Call(self._what, "POST", url, self._scopes, expect=(202,)))
        least = answer.headers.get("oci-chunk-min-length", "")
        if self._chunk and least.isascii() and least.isdigit():
            self._chunk = max(self._chunk, int(least[:19]))
        self._follow(answer)
        return True

    def _mount(self) -> Answer | None:
        """Ask for the blob of another repository: 201 mounted, 202 an upload has begun; None if it was refused."""
        assert self._mount_from is not None
        source, self._mount_from = self._mount_from, None  # one try: after a failure the plain way is surer
        query = f"mount={quote(str(self._descriptor.digest), safe='')}&from={quote(source, safe='')}"
        url = f"/v2/{self._endpoint.repository}/blobs/uploads/?{query}"
        scopes = self._scopes | pull_scopes(source)
        try:
            return self._endpoint.once(Call(self._what, "POST", url, scopes, expect=(201, 202)))
        except TRANSIENT:
            raise
        except TransportError:
            return None

    def _follow(self, answer: Answer) -> None:
        location = answer.headers.get("location", "")
        if not location:
            raise TransportError(f"{self._what}: the registry did not say where to upload to")
        self._location = str(self._endpoint.session.locate(location))

    def _find_offset(self) -> bool:
        """Ask how far the upload got; False if it is gone, and then it must begin again."""
        call = Call(self._what, "GET", self._location, self._scopes, expect=(202, 204, 400, 404, 405, 410, 416))
        answer = self._endpoint.once(call)
        match = _RANGE.fullmatch(answer.headers.get("range", "").strip())
        # "0-0" is what registries say of an upload without a byte, and of one with a single byte.
        offset = int(match.group(1)) + 1 if match and match.group(1) != "0" else 0
        if answer.status not in (202, 204) or not match or offset > self._descriptor.size:
            self._location = ""
            return False
        if "location" in answer.headers:
            self._follow(answer)
        self._reached(offset)
        self._resumed = True
        return True

    def _send_rest(self) -> None:
        size = self._descriptor.size
        while self._chunk and size - self._offset > self._chunk:
            self._send("PATCH", self._location, self._offset + self._chunk)
        separator = "&" if "?" in self._location else "?"
        url = f"{self._location}{separator}digest={quote(str(self._descriptor.digest), safe='')}"
        self._send("PUT", url, size)

    def _send(self, method: str, url: str, end: int) -> None:
        """Send the bytes from the offset to ``end``: with PATCH as a chunk, with PUT as the last ones."""
        headers = {"content-type": "application/octet-stream", "content-length": str(end - self._offset)}
        if method == "PATCH" or self._offset:
            headers["content-range"] = f"{self._offset}-{max(self._offset, end - 1)}"
        call = Call(
            self._what,
            method,
            url,
            self._scopes,
            expect=((202, 204) if method == "PATCH" else (201,)) + (400, 404, 416),
            headers=headers,
            body=lambda: self._pieces(end),
            patient=method == "PUT",
        )
        answer = self._endpoint.once(call)
        if answer.status >= 400:
            raise self._refusal(call, answer)
        self._reached(end)
        if method == "PATCH":
            self._follow(answer)

    def _refusal(self, call: Call, answer: Answer) -> TransportError | DigestMismatch:
        """What to do about a PUT or PATCH that the registry did not take."""
        error = self._endpoint.error(call, answer)
        codes = error_codes(answer.body)
        if "DIGEST_INVALID" in codes and not self._resumed:
            self._check_content()
            return DigestMismatch(str(error))
        if answer.status == 416 or "DIGEST_INVALID" in codes or any(code.startswith("BLOB_UPLOAD") for code in codes):
            # The registry has another offset than ours, or has forgotten the upload: ask, or begin again. It is not
            # asked twice, because of "0-0" (see `_find_offset`).
            self._location = self._location if answer.status == 416 and not self._resumed else ""
            return Interrupted(str(error))
        return error

    def _check_content(self) -> None:
        """Raise `DigestMismatch` if it is our own content that is wrong."""
        for _ in self._descriptor.digest.verify(_read(self._content, 0, self._descriptor.size)):
            pass

    def _pieces(self, end: int) -> Iterator[bytes]:
        for piece in _read(self._content, self._offset, end):
            self._sent += len(piece)
            self._endpoint.stats.add(bytes_pushed=len(piece))
            yield piece


def _size(content: Path | bytes) -> int:
    try:
        return len(content) if isinstance(content, bytes) else content.stat().st_size
    except OSError as error:
        raise StoreError(f"cannot push {_name(content)}: {error.strerror}") from None


def _read(content: Path | bytes, offset: int, end: int) -> Iterator[bytes]:
    """The bytes from ``offset`` to ``end``, in pieces. Raises `StoreError` if a file does not have them."""
    try:
        with _open(content) as file:
            file.seek(offset)
            while offset < end:
                piece = file.read(min(PIECE, end - offset))
                if not piece:
                    raise StoreError("it became shorter while it was pushed")
                offset += len(piece)
                yield piece
    except OSError as error:
        raise StoreError(f"cannot push {_name(content)}: {error.strerror or error}") from None


def _name(content: Path | bytes) -> str:
    return "content in memory" if isinstance(content, bytes) else str(content)


def _open(content: Path | bytes) -> BinaryIO:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb", buffering=0)
