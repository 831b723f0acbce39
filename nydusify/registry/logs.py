"""What httpx and httpcore log, without secrets.

httpx logs each URL (INFO), httpcore each header of an answer (DEBUG). The query of an upload or of a redirect to an
object store is as good as a password while it lasts.
"""

import logging

from nydusify.registry.errors import clean

_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy")
_HEADERS = " [(b'"
"""How the headers begin in httpcore's ``receive_response_headers.complete``."""


def keep_secrets_out_of_logs() -> None:
    """Cut queries of URLs and headers of answers from those logs. Calling it twice does nothing more."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_clean_record)


def _clean_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = clean(record.getMessage().partition(_HEADERS)[0]), ()
    return True
