"""Whom to trust, and whether a loopback registry speaks TLS at all."""

import ipaddress
import os
import socket
import ssl

from nydusify.errors import UsageError
from nydusify.registry.errors import not_tls
from nydusify.registry.options import RegistryOptions

PROBE_TIME = 3.0
RECORD = 16 << 10
"""The most that a TLS record holds (RFC 8446, 5.1), and so the most that one read of OpenSSL gives."""
GATHERED = 256 << 10
"""Bytes that are given at once. With 1 MiB they are out of the processor's cache when they are used."""


class GatheringSocket(ssl.SSLSocket):
    """Gives all records that have come, where its base gives one: for each piece, the HTTP layers take as much CPU
    time as the decryption. That is a fifth of a download."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Wait for the first record as the time-out says, and for none of the others."""
        left = min(buflen, GATHERED)
        pieces = [super().recv(min(left, RECORD), flags)]
        left -= len(pieces[0])
        if len(pieces[0]) < RECORD or not left:
            return pieces[0]
        timeout = self.gettimeout()
        self.settimeout(0)
        try:
            while left and (piece := super().recv(min(left, RECORD), flags)):
                pieces.append(piece)
                left -= len(piece)
        except OSError:
            pass  # nothing more has come yet; if the connection is broken, the next call will say so
        finally:
            self.settimeout(timeout)
        return b"".join(pieces)


def tls_context(options: RegistryOptions) -> ssl.SSLContext:
    """What ``options`` trust: the system's authorities (certifi's where it has none), and the given CA file.

    Raises `UsageError` for a CA file that cannot be read.
    """
    context = ssl.create_default_context()
    context.sslsocket_class = GatheringSocket
    paths = ssl.get_default_verify_paths()
    if not paths.cafile and not (paths.capath and os.listdir(paths.capath)):
        import certifi

        context.load_verify_locations(cafile=certifi.where())
    if options.ca_file is not None:
        try:
            context.load_verify_locations(cafile=options.ca_file)
        except ssl.SSLError:
            raise UsageError(f"the CA file {options.ca_file} holds no certificate in PEM") from None
        except OSError as error:
            raise UsageError(f"the CA file {options.ca_file}: {error.strerror}") from None
    if options.insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def is_loopback(host: str) -> bool:
    """Whether a host, as a URL has it, is this machine by its mere name: ``localhost``, ``127.…``, ``::1``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def speaks_tls(host: str, port: int) -> bool:
    """Begin a TLS handshake, in which nothing is sent that could be secret, and see what comes back."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), PROBE_TIME) as connection:
            context.wrap_socket(connection, server_hostname=host).close()
    except ssl.SSLError as error:
        # An alert, such as one that asks for a client certificate, is TLS too.
        return not not_tls(error) and not isinstance(error, ssl.SSLEOFError)
    except OSError:
        return False  # nobody there, or somebody who hangs up or waits for more: HTTP will tell which
    return True
