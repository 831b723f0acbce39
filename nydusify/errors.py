"""Everything this package raises on purpose.

NydusifyError
├── UsageError                  the options contradict each other, or an argument is malformed
├── FormatError                 bytes that are not what they claim: RAFS, tar, manifest, digest, reference
│   ├── DigestMismatch          content differs from its digest or size
│   └── UnsupportedError        valid, but of a kind that this package does not handle
├── PlatformError               the image has no such platform
├── StoreError                  the local store cannot be read or written; also an OSError
└── TransportError              registry or back-end; a retry may help
    ├── NotFound                also a FileNotFoundError
    ├── AuthError               401 or 403: credentials are missing, wrong, or not enough
    └── RetryLater              429 or 503: the server asks to wait
"""


class NydusifyError(Exception):
    """Base class. ``exit_code`` is what the CLI returns; ``advice`` is shown under the message."""

    exit_code = 1
    advice: str | None = None

    def __init__(self, message: str, *, advice: str | None = None) -> None:
        super().__init__(message)
        if advice is not None:
            self.advice = advice


class UsageError(NydusifyError, ValueError):
    exit_code = 2


class FormatError(NydusifyError, ValueError):
    exit_code = 3


class DigestMismatch(FormatError):
    advice = "The content changed in transit or at rest; pull it again."


class UnsupportedError(FormatError):
    pass


class PlatformError(NydusifyError, LookupError):
    exit_code = 5


class StoreError(NydusifyError, OSError):
    exit_code = 6
    advice = "Check the free space and the permissions of the work directory, or name another with --work-dir."


class TransportError(NydusifyError):
    exit_code = 4


class NotFound(TransportError, FileNotFoundError):
    """The registry or back-end has no such object."""


class AuthError(TransportError):
    exit_code = 7
    advice = "Log in with `docker login`, or check the credentials in the Docker config."


class RetryLater(TransportError):
    """The server is busy. ``after`` is its wish in seconds, if it named one."""

    def __init__(self, message: str, *, after: float | None = None, advice: str | None = None) -> None:
        super().__init__(message, advice=advice)
        self.after = after
