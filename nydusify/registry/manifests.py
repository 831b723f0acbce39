"""Manifests and indexes in a registry. Source: distribution-spec, "Pulling manifests", "Pushing manifests"."""

import json
import threading
from collections import OrderedDict

from nydusify.digest import Digest
from nydusify.errors import DigestMismatch, FormatError
from nydusify.oci import media
from nydusify.oci.descriptor import Descriptor
from nydusify.registry.auth import pull_scopes, push_scopes
from nydusify.registry.endpoint import Answer, Endpoint
from nydusify.registry.retry import TRANSIENT, Interrupted
from nydusify.registry.session import Call

MAX_MANIFEST = 4 << 20
KEPT_BYTES = 16 << 20
ACCEPT = ", ".join((media.OCI_INDEX, media.DOCKER_INDEX, media.OCI_MANIFEST, media.DOCKER_MANIFEST))


class Manifests:
    """Reads and writes manifests of one repository. What was resolved is kept, so that reading it costs no request."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._kept: OrderedDict[Digest, bytes] = OrderedDict()
        self._kept_bytes = 0

    def resolve(self, tag_or_digest: str) -> Descriptor:
        """The descriptor under a tag or digest, by one GET.

        Raises `NotFound`, `DigestMismatch`, and `FormatError` for a manifest that is over 4 MiB or contradicts itself.
        """
        answer = self._get(tag_or_digest)
        asked = Digest.parse(tag_or_digest) if ":" in tag_or_digest else None
        digest = _digest(answer, asked, tag_or_digest)
        self._keep(digest, answer.body)
        return Descriptor(_media_type(answer, tag_or_digest), digest, len(answer.body))

    def read(self, descriptor: Descriptor) -> bytes:
        """The verified bytes of a manifest."""
        with self._lock:
            content = self._kept.get(descriptor.digest)
        if content is None:
            if descriptor.size > MAX_MANIFEST:
                raise FormatError(f"manifest {descriptor.digest}: {descriptor.size} bytes, at most 4 MiB are read")
            content = self._get(str(descriptor.digest), descriptor.media_type).body
        content = b"".join(descriptor.digest.verify([content], descriptor.size))
        self._keep(descriptor.digest, content)
        return content

    def write(self, descriptor: Descriptor, content: bytes, tag: str | None) -> None:
        """Put a manifest under its digest, or under a tag, which puts it under its digest as well."""
        content = b"".join(descriptor.digest.verify([content], descriptor.size))
        endpoint = self._endpoint
        where = tag or str(descriptor.digest)
        call = Call(
            f"push manifest {where} to {endpoint.name}",
            "PUT",
            endpoint.manifest_url(where),
            push_scopes(endpoint.repository),
            expect=(200, 201, 202),  # 201 by the specification; others do occur
            headers={"content-type": descriptor.media_type},
            body=content,
            patient=True,
        )
        answer = endpoint.call(call)
        endpoint.stats.add(bytes_pushed=len(content))
        stored = answer.headers.get("docker-content-digest", "")
        if stored.startswith(f"{descriptor.digest.algorithm}:") and stored != str(descriptor.digest):
            raise DigestMismatch(f"{call.what}: the registry stored {stored[:140]}, not {descriptor.digest}")
        self._keep(descriptor.digest, content)

    def _get(self, where: str, media_type: str = "") -> Answer:
        endpoint = self._endpoint
        what = f"pull manifest {where} from {endpoint.name}"
        accept = ACCEPT if not media_type or media_type in ACCEPT else f"{media_type}, {ACCEPT}"
        scopes = pull_scopes(endpoint.repository)
        call = Call(what, "GET", endpoint.manifest_url(where), scopes, headers={"accept": accept})
        patience = endpoint.patience()
        while True:
            try:
                return self._get_once(call)
            except TRANSIENT as error:
                patience.pause(error)

    def _get_once(self, call: Call) -> Answer:
        content = bytearray()
        with self._endpoint.stream(call) as response:
            for piece in response.iter_raw():
                content += piece
                if len(content) > MAX_MANIFEST:
                    raise FormatError(f"{call.what}: it is larger than 4 MiB")
            self._endpoint.stats.add(bytes_pulled=len(content))
            promised = response.headers.get("content-length")
            if promised is not None and promised != str(len(content)):
                raise Interrupted(f"{call.what}: ended after {len(content)} bytes")
            return Answer(response.status_code, response.headers, bytes(content))

    def _keep(self, digest: Digest, content: bytes) -> None:
        with self._lock:
            self._kept_bytes += len(content) - len(self._kept.pop(digest, b""))
            self._kept[digest] = content
            while self._kept_bytes > KEPT_BYTES:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])


def _digest(answer: Answer, asked: Digest | None, where: str) -> Digest:
    """The digest under which the registry has a manifest, checked against its bytes."""
    named = asked
    header = answer.headers.get("docker-content-digest", "")
    if named is None and header:
        try:
            named = Digest.parse(header)
        except FormatError:
            raise FormatError(f"manifest {where}: the registry names it {header[:140]!r}, which is no digest") from None
    if named is None:
        return Digest.of(answer.body)
    for _ in named.verify([answer.body]):
        pass
    return named


def _media_type(answer: Answer, where: str) -> str:
    """By the content, else by the header. Two different ones are refused: CVE-2021-41190."""
    header = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        manifest = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise FormatError(f"manifest {where}: it is not JSON") from None
    named = manifest.get("mediaType") if isinstance(manifest, dict) else None
    if named is None:
        return header
    if not isinstance(named, str) or (header in ACCEPT.split(", ") and header != named):
        raise FormatError(f"manifest {where}: it is of type {str(named)[:140]!r}, sent as {header[:140]!r}")
    return named
