"""Authorization at one registry. Sources: RFC 9110, 11; distribution's docs/spec/auth (token.md, oauth.md, scope.md).

A registry answers 401 with a challenge. ``Basic`` wants user and password with every request; ``Bearer`` names a
token server, which gives a token for a set of scopes, for an account or for anybody.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode
from urllib.request import parse_http_list, parse_keqv_list

from nydusify.errors import AuthError, TransportError
from nydusify.registry.credentials import Credentials, find_credentials

Scopes = frozenset[tuple[str, str]]
"""Pairs of repository and action, such as ``("app/web", "pull")``."""

CLIENT_ID = "nydusify"
DEFAULT_LIFE = 60.0
"""Seconds a token lives if the server does not say (token.md, ``expires_in``)."""
MIN_LIFE = 0.5
"""Seconds that a new token is used without a doubt."""
MAX_TOKEN = 64 << 10
ADVICE_HTTP = "Credentials are not sent over HTTP unbidden; where the network is trusted, ask for it with --plain-http."


def pull_scopes(repository: str) -> Scopes:
    return frozenset(((repository, "pull"),))


def push_scopes(repository: str) -> Scopes:
    return frozenset(((repository, "pull"), (repository, "push")))


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What to ask of a token server: a GET with a query, or a POST with a form."""

    url: str
    form: str | None = field(default=None, repr=False)
    authorization: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    value: str = field(repr=False)
    issued: float
    expires: float
    """Both by the monotonic clock; a margin for the way to the registry is taken off."""


class Authenticator:
    """Credentials, challenge and tokens of one registry. Several threads may use it at once."""

    def __init__(
        self,
        registry: str,
        fetch: Callable[[TokenRequest], bytes],
        may_send: Callable[[str], bool],
    ) -> None:
        """``fetch`` does a token request; ``may_send`` says whether credentials may go to a URL (or ``""``: the
        registry itself)."""
        self._registry = registry
        self._fetch = fetch
        self._may_send = may_send
        self._lock = threading.RLock()
        self._credentials: Credentials | None = None
        self._challenge: dict[str, str] | None = None
        """Parameters of the last bearer challenge."""
        self._basic: str | None = None
        self._tokens: dict[Scopes, Token] = {}

    def header(self, scopes: Scopes) -> str | None:
        """The value of ``Authorization`` for a request, as far as the registry has asked for one already."""
        with self._lock:
            return self._basic or (f"Bearer {self._token(scopes)}" if self._challenge else None)

    def answer(self, challenges: Iterable[str], scopes: Scopes, refused: str | None) -> str | None:
        """The header for another try after HTTP 401; None if there is nothing better than what was ``refused``.

        ``challenges`` are the values of ``WWW-Authenticate``. Raises `AuthError` if the token server refuses.
        """
        offered = parse_challenges(challenges)
        with self._lock:
            if "bearer" in offered:
                self._challenge = offered["bearer"]
                if not self._forget(refused):
                    return None
                header = f"Bearer {self._token(scopes)}"
                return header if header != refused else None
            if "basic" in offered:
                basic = self._account().basic if self._account().password else None
                self._basic = basic if basic != refused else None
                return self._basic
        return None

    def _forget(self, refused: str | None) -> bool:
        """Drop a refused token; False if it was brand-new, so that another would fare no better."""
        for scopes, token in list(self._tokens.items()):
            if refused == f"Bearer {token.value}":
                del self._tokens[scopes]
                return time.monotonic() - token.issued > MIN_LIFE
        return True

    def advice(self) -> str | None:
        """What to do about a 401, or None where nothing more is known than that."""
        with self._lock:
            if not self._may_send(""):
                return ADVICE_HTTP
            if not self._account():
                return f"There are no credentials for {self._registry}: `docker login {self._registry}`."
        return f"Log in again with `docker login {self._registry}`; the account may also lack access."

    def secrets(self) -> frozenset[str]:
        """Strings that must not be shown."""
        with self._lock:
            tokens = frozenset(token.value for token in self._tokens.values() if token.value)
            return tokens | (self._credentials.secrets if self._credentials else frozenset())

    def _account(self) -> Credentials:
        """Credentials that may be used. Looked up when first asked for: a helper may open a window."""
        if not self._may_send(""):
            return Credentials()
        if self._credentials is None:
            self._credentials = find_credentials(self._registry)
        return self._credentials

    def _token(self, scopes: Scopes) -> str:
        """A valid token for ``scopes`` or more. The lock is held meanwhile: one request serves all threads."""
        if self._account().registry_token:
            return self._account().registry_token
        now = time.monotonic()
        for known, token in self._tokens.items():
            if scopes <= known and now < token.expires:
                return token.value
        token = self._new_token(scopes, now)
        self._tokens[scopes] = token
        return token.value

    def _new_token(self, scopes: Scopes, now: float) -> Token:
        body = self._fetch(self._token_request(scopes))
        try:
            answer = json.loads(body)
            value = answer.get("token") or answer.get("access_token")
            life = float(answer.get("expires_in") or DEFAULT_LIFE)
        except (ValueError, RecursionError, TypeError, AttributeError, OverflowError):
            raise TransportError(f"the token server of {self._registry} gave no token in JSON") from None
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or len(value) > MAX_TOKEN:
            raise AuthError(f"the token server of {self._registry} gave no token")
        return Token(value, now, now + max(life - min(10.0, life / 5), MIN_LIFE))

    def _token_request(self, scopes: Scopes) -> TokenRequest:
        assert self._challenge is not None
        realm, service = self._challenge.get("realm", ""), self._challenge.get("service", "")
        if not re.match(r"(?i)https?://[^/?#@\s]+(?:[/?#]|$)", realm):
            raise TransportError(f"{self._registry} names no token server that can be reached")
        account = self._account()
        if account and not self._may_send(realm):
            raise AuthError(
                f"{self._registry} wants credentials sent over HTTP to its token server", advice=ADVICE_HTTP
            )
        named = format_scopes(scopes)
        # A registry may know the repository by another name than ours: what it asks for is asked for as well.
        wanted = named + [scope for scope in self._challenge.get("scope", "").split() if not _covers(scopes, scope)]
        if account.identity_token:
            form = {"grant_type": "refresh_token", "service": service, "client_id": CLIENT_ID}
            form |= {"scope": " ".join(wanted), "refresh_token": account.identity_token}
            return TokenRequest(realm, form=urlencode(form))
        query = [("service", service)] if service else []
        query += [("scope", scope) for scope in wanted]
        query += [("account", account.username)] if account.username else []
        url = realm + ("&" if "?" in realm else "?") + urlencode(query)
        return TokenRequest(url, authorization=account.basic if account.password else None)


def format_scopes(scopes: Scopes) -> list[str]:
    """``repository:NAME:ACTION,ACTION``, one a repository (scope.md)."""
    names = sorted({name for name, _ in scopes})
    return [f"repository:{name}:" + ",".join(sorted(act for at, act in scopes if at == name)) for name in names]


def _covers(scopes: Scopes, text: str) -> bool:
    kind, _, rest = text.partition(":")
    name, _, actions = rest.rpartition(":")
    return kind == "repository" and all((name, action) in scopes for action in actions.split(","))


def parse_challenges(values: Iterable[str]) -> Mapping[str, dict[str, str]]:
    """Schemes (lower case) with their parameters, from the values of ``WWW-Authenticate``. Broken ones are left out."""
    found: dict[str, dict[str, str]] = {}
    scheme = ""
    for item in (item for value in values for item in parse_http_list(value[:8192])):
        name, _, rest = item.partition(" ")
        if "=" not in name:  # "Bearer realm=…" begins a challenge, "service=…" goes on with it
            scheme = name.lower()
            found[scheme] = {}
            item = rest.strip()
        if scheme and "=" in item:
            found[scheme] |= {key.strip().lower(): text for key, text in parse_keqv_list([item]).items()}
    return found
