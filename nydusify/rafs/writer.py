"""A bootstrap from memory to bytes."""

from nydusify.rafs.spec import COMPRESSOR_FLAG, DIGESTER_FLAG, SuperFlag
from nydusify.rafs.tree import Bootstrap


def super_flags(bootstrap: Bootstrap, has_xattrs: bool) -> SuperFlag:
    """The flags that v5 and v6 have in common."""
    flags = COMPRESSOR_FLAG[bootstrap.compressor] | DIGESTER_FLAG[bootstrap.digester] | SuperFlag.REAL_OWNERS
    return flags | SuperFlag.XATTRS if has_xattrs else flags


def write_bootstrap(bootstrap: Bootstrap) -> bytes:
    """The file for ``bootstrap.version``. Raises `FormatError` for a tree that the version cannot hold."""
    if bootstrap.version == 6:
        from nydusify.rafs.v6_writer import write_v6

        return write_v6(bootstrap)
    from nydusify.rafs.v5_writer import write_v5

    return write_v5(bootstrap)
