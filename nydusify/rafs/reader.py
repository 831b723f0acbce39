"""Reads a bootstrap of either version."""

import struct

from nydusify.errors import FormatError
from nydusify.rafs import v5, v6
from nydusify.rafs.tree import Bootstrap
from nydusify.rafs.v5_reader import read_v5
from nydusify.rafs.v6_reader import read_v6

_MAGIC = struct.Struct("<I")


def read_bootstrap(data: bytes, *, blob_id: str | None = None, origin: int = 0) -> Bootstrap:
    """The file system that ``data`` (a whole bootstrap, uncompressed) describes.

    ``blob_id`` is the id of the blob that the bootstrap was taken from, in which it stands as a placeholder; for a zran
    blob it is that of the RAFS part. ``origin`` is copied to every inode. Raises `FormatError` for everything that the
    format does not allow, before any of it is used; memory and time grow with ``len(data)`` alone.
    """
    if len(data) >= v5.SUPER_BLOCK_SIZE and _MAGIC.unpack_from(data, 0)[0] == v5.MAGIC:
        return read_v5(data, blob_id, origin)
    if len(data) >= v6.EXTENDED_OFFSET and _MAGIC.unpack_from(data, v6.SUPER_BLOCK_OFFSET)[0] == v6.MAGIC:
        return read_v6(data, blob_id, origin)
    raise FormatError("not a RAFS bootstrap: neither the magic of v5 nor that of v6")
