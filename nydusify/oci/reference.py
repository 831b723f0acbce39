"""Image references, by Docker's rules. Source: distribution/reference, reference.go and normalize.go."""

import re
from dataclasses import dataclass, replace
from typing import Self

from nydusify.digest import Digest
from nydusify.errors import FormatError, UsageError

DEFAULT_REGISTRY = "docker.io"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
MAX_REPOSITORY_LENGTH = 255

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_BARE_ID = re.compile(r"[a-f0-9]{64}")
_DIGEST_SHAPE = re.compile(r"[a-z0-9+._-]+:[a-fA-F0-9]*")


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an image is: ``docker.io/library/alpine:3.19``, by tag, by digest, or by both."""

    registry: str
    """Host and port as they were typed: ``docker.io``, ``localhost:5000``, ``[::1]:5000``."""
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what a user typed; raise `UsageError` with what is wrong in it.

        A missing registry is Docker Hub, a missing tag is ``latest`` unless there is a digest.
        """
        shown = _without_credentials(text)
        if "://" in text:
            raise UsageError(f"{shown!r} is a URL, not an image reference", advice="Leave out the scheme.")
        name, at, digest_text = text.partition("@")
        digest = _parse_digest(digest_text, shown) if at else None
        name, tag = _split_tag(name)
        if _BARE_ID.fullmatch(name):
            raise UsageError(f"{shown!r} is an image id, not a reference", advice="Name the repository and tag.")
        registry, repository = _split_registry(name)
        _check_registry(registry, shown)
        _check_repository(repository, shown)
        if tag is not None:
            _check_tag(tag, shown)
        elif digest is None:
            tag = DEFAULT_TAG
        return cls(registry, repository, tag, digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.name}{tag}{digest}"

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def identifier(self) -> str:
        """What a repository resolves: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest is not None else self.tag or DEFAULT_TAG

    def with_tag(self, tag: str) -> Self:
        """The same repository under another tag; a digest is dropped. Raises `UsageError` for a malformed tag."""
        _check_tag(tag, tag)
        return replace(self, tag=tag, digest=None)

    def with_suffix(self, suffix: str) -> Self:
        """The reference whose tag has ``suffix`` appended (``--target-suffix``). Raises `UsageError` for digests."""
        if self.digest is not None or self.tag is None:
            raise UsageError(
                f"{self}: a suffix cannot be appended to a digest",
                advice="Name the source by tag, or give the whole --target.",
            )
        if not suffix:
            raise UsageError("the suffix is empty, so the target would be the source")
        return self.with_tag(self.tag + suffix)


def _without_credentials(text: str) -> str:
    """``text`` for a message: what stands before an ``@`` that no digest follows may be a password."""
    _, at, tail = text.rpartition("@")
    return f"…@{tail}" if at and not _DIGEST_SHAPE.fullmatch(tail) else text[:300]


def _parse_digest(text: str, shown: str) -> Digest:
    try:
        return Digest.parse(text)
    except FormatError:
        raise UsageError(f"{shown!r}: what follows the '@' is not a sha256 or sha512 digest") from None


def _split_tag(name: str) -> tuple[str, str | None]:
    """A colon after the last slash begins a tag; before it, a port (or an IPv6 address)."""
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag and not tag.endswith("]") else (name, None)


def _split_registry(name: str) -> tuple[str, str]:
    """The first component is a registry if it cannot be a Docker Hub user: it has a dot, a port or capitals."""
    first, slash, rest = name.partition("/")
    if not slash or not (set(first) & set(".:[") or first == "localhost" or first.lower() != first):
        first, rest = DEFAULT_REGISTRY, name
    if first == "index.docker.io":
        first = DEFAULT_REGISTRY
    if first == DEFAULT_REGISTRY and "/" not in rest:
        rest = f"{DEFAULT_NAMESPACE}/{rest}" if rest else rest
    return first, rest


def _check_registry(registry: str, shown: str) -> None:
    if not _REGISTRY.fullmatch(registry):
        raise UsageError(f"{shown!r}: {registry!r} is not a registry host")
    port = registry.rpartition(":")[2] if not registry.endswith("]") and ":" in registry else "1"
    if len(port) > 5 or not 0 < int(port) < 65536:
        raise UsageError(f"{shown!r}: {port} is not a port number")


def _check_repository(repository: str, shown: str) -> None:
    if not repository:
        raise UsageError(f"{shown!r} names no repository")
    if len(repository) > MAX_REPOSITORY_LENGTH:
        raise UsageError(f"{shown!r}: the repository name is longer than {MAX_REPOSITORY_LENGTH} characters")
    for component in repository.split("/"):
        if component.lower() != component:
            raise UsageError(f"{shown!r}: a repository name has no capital letters")
        if not _COMPONENT.fullmatch(component):
            raise UsageError(f"{shown!r}: {component!r} cannot be a part of a repository name")


def _check_tag(tag: str, shown: str) -> None:
    if not _TAG.fullmatch(tag):
        raise UsageError(
            f"{shown!r}: {tag[:140]!r} is not a tag",
            advice="A tag has at most 128 letters, digits, '_', '.' and '-', and begins with neither '.' nor '-'.",
        )
