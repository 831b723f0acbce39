"""Encrypted units of a blob: AES-128-XTS with one tweak for all. Source: nydus, utils/src/crypt.rs."""

from nydusify.errors import FormatError

_BLOCK = 16
_PADDED = b"\x78\x90"
"""Ends a unit that was shorter than a cipher block."""


def decrypt(data: bytes, key: bytes, iv: bytes) -> bytes:
    """The plain bytes of one stored unit; ``key`` is 32 bytes (two halves that differ), ``iv`` 16.

    Raises `FormatError` for a unit or key that cannot be.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    if len(data) < _BLOCK:
        raise FormatError(f"an encrypted unit of {len(data)} bytes")
    try:
        decryptor = Cipher(algorithms.AES(key), modes.XTS(iv)).decryptor()
        plain = decryptor.update(data) + decryptor.finalize()
    except ValueError as error:
        raise FormatError("a blob key that AES-128-XTS does not take") from error
    if len(plain) == _BLOCK + len(_PADDED) and plain.endswith(_PADDED):
        size = _BLOCK - plain[_BLOCK - 1]
        if size < 0:
            raise FormatError("an encrypted unit with a padding that is too long")
        return plain[:size]
    return plain
