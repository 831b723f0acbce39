"""The prefetch table: which inodes a runtime should read first."""

from nydusify.rafs.numbering import Numbering
from nydusify.rafs.tree import Bootstrap


def prefetched(bootstrap: Bootstrap, numbering: Numbering) -> list[int]:
    """Numbers of the inodes that ``bootstrap.prefetch`` names, in its order.

    Paths that do not exist, and paths below an earlier one, are left out: a directory stands for all that is in it.
    """
    numbers = {id(inode): number for number, inode in enumerate(numbering.inodes)} if bootstrap.prefetch else {}
    taken: list[bytes] = []
    found: list[int] = []
    for path in bootstrap.prefetch:
        clean = b"/" + path.strip(b"/")
        if any(clean == other or clean.startswith(other.rstrip(b"/") + b"/") for other in taken):
            continue
        node = bootstrap.root
        for part in filter(None, clean.split(b"/")):
            child = (node.children or {}).get(part)
            if child is None:
                break
            node = child
        else:
            taken.append(clean)
            found.append(numbers[id(node)])
    return found
