"""Takes secrets out of text that people and reports will see."""

import re

MASK = "***"

# In a query only these may keep their value; presigned URLs carry signatures and tokens under many names.
_OPEN_PARAMETERS = frozenset({"digest", "mount", "from", "n", "last", "scope", "service", "artifactType"})

_TOKEN = re.compile(r"\S+")
_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-fA-F]{32}")
_PARAMETER = re.compile(r"([?&])([^=&\s]{1,100})=([^&\s\"'<>)\]]+)")
_HEADER = re.compile(r"(?i)(authorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?:basic|bearer)\s{1,3})[^\s\"',}]+")
_FIELD = re.compile(
    r"(?i)((?:password|passwd|secret|token|access_key|credential)[\w-]{0,40}(?:=|[\"']\s{0,3}:\s{0,3})[\"']?)"
    r"[^\s\"',}&]+"
)


def redact(text: str) -> str:
    """``text`` without the userinfo of URLs and references, signed query parameters, and named secrets.

    ``https://user:pass@host/x?X-Amz-Signature=1`` becomes ``https://***@host/x?X-Amz-Signature=***``. In doubt it takes
    too much rather than too little. Time is linear in the length of ``text``.
    """
    text = _TOKEN.sub(lambda match: _without_userinfo(match.group()), text)
    text = _PARAMETER.sub(_masked_parameter, text)
    text = _HEADER.sub(rf"\g<1>{MASK}", text)
    return _FIELD.sub(rf"\g<1>{MASK}", text)


def _without_userinfo(token: str) -> str:
    """Mask what stands before the last ``@`` that does not introduce a digest. Passwords may hold ``/`` and ``@``."""
    at = token.rfind("@")
    while at != -1 and _DIGEST.match(token, at + 1):
        at = token.rfind("@", 0, at)
    if at == -1:
        return token
    scheme, separator, _ = token[:at].partition("://")
    if separator:
        return f"{scheme}://{MASK}{token[at:]}"
    return MASK + token[at:] if ":" in token[:at] else token


def _masked_parameter(match: re.Match[str]) -> str:
    start, name, value = match.groups()
    return f"{start}{name}={value if name in _OPEN_PARAMETERS else MASK}"
