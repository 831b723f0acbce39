"""HTTP answers and network failures as this package's errors, in one line each and without secrets."""

import email.utils
import json
import re
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from nydusify.errors import AuthError, NotFound, RetryLater, TransportError
from nydusify.registry.retry import Interrupted
from nydusify.registry.web import httpx

Reason = TypeVar("Reason", bound=BaseException)
MAX_TEXT = 300
"""Characters of a server's own words that a message may hold."""
MAX_BODY_TEXT = 4096
TRANSIENT_STATUS = frozenset((408, 500, 502, 504, *range(520, 528)))
"""The last ones are Cloudflare's, which is before Docker Hub, for an origin that it cannot reach."""
BUSY_STATUS = frozenset((429, 503))
ADVICE_TLS = (
    "If the registry's certificate is signed by your own authority, name it with --ca-file; "
    "--source-insecure or --target-insecure skip the verification."
)
ADVICE_HTTP = "If the registry has no TLS, ask for HTTP with --plain-http."
ADVICE_STATUS = {
    400: "The registry does not understand the request; it may not support this kind of image.",
    403: "The account may not do this; ask for access to the repository, or log in as another user.",
    405: "The registry does not allow this; it may be read-only or a pull-through cache.",
    413: "The registry or a proxy before it limits the size of uploads; raise the limit, or use --push-chunk-size.",
    415: "The registry does not accept this media type; try --oci.",
    429: "The registry limits requests; try later, log in, or run fewer jobs at once.",
}
_SECRETS = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}")
_URL_SECRETS = re.compile(r"(?i)([a-z][a-z0-9+.-]*://)(?:[^\s/@]*@)?([^\s?#\"']*)(?:\?[^\s\"']*)?")
_MARKUP = re.compile(r"(?s)<(script|style).*?</\1>|<[^>]*>")
_TITLE = re.compile(r"(?is)<title[^>]*>(.*?)</title>")
_NOT_TLS = frozenset(
    ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")
)


def status_error(
    what: str, status: int, headers: Mapping[str, str], body: bytes, secrets: Iterable[str] = ()
) -> TransportError:
    """The error for an answer that was not wanted. ``body`` is its beginning; ``secrets`` must not be shown."""
    said = clean(body_text(body), secrets)
    message = f"{what}: HTTP {status}" + (f": {said}" if said else "")
    advice = ADVICE_STATUS.get(status)
    if status == 404:
        unknown = "NAME_UNKNOWN" in error_codes(body)
        return NotFound(message, advice="Check the repository's name." if unknown else "Check the name and the tag.")
    if status in (401, 403):
        return AuthError(message, advice=advice)
    if status in BUSY_STATUS:
        return RetryLater(message, after=retry_after(headers), advice=advice)
    if status in TRANSIENT_STATUS:
        return Interrupted(message, advice=advice)
    if "HTTP request to an HTTPS server" in said or "HTTP request was sent to HTTPS port" in said:
        advice = "The registry wants HTTPS; leave out --plain-http."
    return TransportError(message, advice=advice)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the header ``Retry-After`` (RFC 9110, 10.2.3): a number or a date; None if there is none.

    A date counts from the server's own ``Date``, because its clock may not be ours.
    """
    wish = headers.get("retry-after", "").strip()
    if wish.isascii() and wish.isdigit():
        return float(wish[:10])
    until = _seconds(wish)
    now = _seconds(headers.get("date", ""))
    return None if until is None else max(0.0, until - (time.time() if now is None else now))


def _seconds(date: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def error_codes(body: bytes) -> list[str]:
    """The codes in a registry's error body (distribution-spec, "Error Codes"); none if it is something else."""
    return [str(error.get("code", "")) for error in _errors(body)]


def _errors(body: bytes) -> list[dict[str, object]]:
    try:
        errors = json.loads(body)["errors"]
        return [error for error in errors if isinstance(error, dict)]
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        return []


def body_text(body: bytes) -> str:
    """What an error body says: the registry's errors, the title of an HTML page, or else its text."""
    parts = []
    for error in _errors(body)[:5]:
        code, message = str(error.get("code") or ""), str(error.get("message") or "")
        detail = error.get("detail")
        shown = detail if isinstance(detail, str) else json.dumps(detail) if detail else ""
        parts.append(": ".join(filter(None, (code, message, shown[:MAX_TEXT]))))
    if parts:
        return "; ".join(parts)
    text = body[:MAX_BODY_TEXT].decode("utf-8", errors="replace")
    title = _TITLE.search(text)
    return title.group(1) if title else _MARKUP.sub(" ", text)


def clean(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` in one line of bounded length, without secrets, queries of URLs, and control characters."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = text[:MAX_BODY_TEXT]  # what follows is not linear in hostile texts
    text = _URL_SECRETS.sub(r"\1\2", _SECRETS.sub(r"\1 ***", text))
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


@contextmanager
def network_errors(what: str) -> Iterator[None]:
    """Turn httpx's failures while doing ``what`` into this package's errors."""
    try:
        yield
    except httpx.InvalidURL as error:
        raise TransportError(f"{what}: the registry sent a malformed URL") from error
    except httpx.TransportError as error:
        raise network_error(what, error) from error


def network_error(what: str, error: Exception, first: bool = False) -> TransportError:
    """The error for a request that got no answer. ``first``: the host has never answered, its name may be wrong."""
    reason = next(_causes(error, ssl.SSLError), None)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return TransportError(
            f"{what}: the server's certificate is not trusted: {clean(reason.verify_message)}", advice=ADVICE_TLS
        )
    if reason is not None and not_tls(reason):
        return TransportError(f"{what}: the server gave an HTTP response to an HTTPS client", advice=ADVICE_HTTP)
    unknown = next(_causes(error, socket.gaierror), None)
    if unknown is not None:
        kind = TransportError if first and unknown.errno != socket.EAI_AGAIN else Interrupted
        return kind(f"{what}: the host name cannot be resolved", advice="Check the name of the registry.")
    if next(_causes(error, ConnectionRefusedError), None):
        kind = TransportError if first else Interrupted
        return kind(f"{what}: connection refused", advice="Check host and port, and that the registry runs.")
    if isinstance(error, httpx.TimeoutException):
        return Interrupted(f"{what}: timed out")
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError | httpx.ProxyError):
        return TransportError(f"{what}: {clean(str(error))}")
    return Interrupted(f"{what}: {clean(str(error)) or 'connection lost'}")


def not_tls(error: BaseException) -> bool:
    """Whether a TLS handshake failed because the peer does not speak TLS."""
    return isinstance(error, ssl.SSLError) and error.reason in _NOT_TLS


def _causes(error: BaseException | None, kind: type[Reason]) -> Iterator[Reason]:
    """``error`` and what led to it, as far as they are of a kind."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, kind):
            yield error
        error, seen = error.__cause__ or error.__context__, seen + 1
