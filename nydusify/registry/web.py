"""The one import of httpx. ``from nydusify.registry.web import httpx``.

`import httpx` takes 0.3 s, of which 0.17 s is its command line (rich, click, pygments) and 0.06 s is HTTP/2; this
package needs neither. Both are optional parts, left out by httpx and httpcore if importing them fails, so that is
what happens to them here: an entry of None in `sys.modules` makes an import fail. The entries are gone afterwards,
so that another user of httpx in this process (Prefect asks for HTTP/2) still gets HTTP/2, by an import that httpcore
does when a server agrees to it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _absent(*names: str) -> Iterator[None]:
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is what makes an import fail
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _absent("httpx._main", "h2"):
    import httpcore  # httpx would import it with its first client, where h2 is no longer hidden
    import httpx

# Bytes to ask of a socket at once. httpcore's 64 KiB cost a third more CPU time for a whole download. It has no other
# way to say so; for another user of httpx in this process it is a larger buffer and nothing else.
httpcore.HTTP11Connection.READ_NUM_BYTES = 1 << 20

__all__ = ["httpx"]
