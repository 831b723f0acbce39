"""From tar entries to the tree of one layer. Whiteouts stay ordinary entries here; merging reads them."""

import stat

from nydusify.build.tar import TarEntry
from nydusify.build.tar_fields import storable
from nydusify.errors import FormatError, UnsupportedError
from nydusify.rafs.spec import MAX_NAME, MAX_SYMLINK
from nydusify.rafs.tree import Inode
from nydusify.rafs.validate import MAX_PATH

WHITEOUT = b".wh."
IMPLICIT_MODE = stat.S_IFDIR | 0o755
_NOT_NAMES = (b"", b".", b"..")
_DIRECTORY, _SYMLINK = stat.S_IFDIR, stat.S_IFLNK


def split_path(path: bytes) -> list[bytes]:
    """The components of a path in an archive; ``/``, ``./`` and ``//`` mean nothing. Raises `FormatError`."""
    parts = [part for part in path.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise FormatError(f"tar: {path[:200]!r} leaves the layer by '..'")
    if len(path) > MAX_NAME and any(len(part) > MAX_NAME for part in parts):
        raise FormatError(f"tar: a name of more than {MAX_NAME} bytes in {path[:200]!r}")
    if len(path) > MAX_PATH:
        raise FormatError(f"tar: a path of {len(path)} bytes; readers of RAFS take {MAX_PATH}")
    if b"\0" in path:
        raise FormatError(f"tar: NUL in the name {path[:200]!r}")
    return parts


class LayerTree:
    """Entries are added in the order of the archive; a later one replaces an earlier one of the same path."""

    def __init__(self) -> None:
        self.root = Inode(IMPLICIT_MODE, children={}, implicit=True)
        self._folders: dict[bytes, dict[bytes, Inode]] = {}
        """Entries of directories by what the archive writes before the last slash; emptied when one is replaced."""
        self.entries = 0
        self.dropped_xattrs = 0
        """Attributes outside the namespaces that Linux file systems and RAFS have; no unpacker could set them."""

    def add(self, entry: TarEntry) -> Inode | None:
        """Place ``entry``; return its inode if it is a regular file whose data come next. Raises `FormatError`."""
        self.entries += 1
        folder, _, name = entry.name.rpartition(b"/")
        siblings = self._folders.get(folder)
        if siblings is None or name in _NOT_NAMES or len(name) > MAX_NAME or b"\0" in name:
            parts = split_path(entry.name)
            if not parts:
                self._root(entry)
                return None
            siblings = self._parent(parts[:-1], entry.name, parts[-1])
            if siblings is None:
                return None
            if name == parts[-1]:
                self._folders[folder] = siblings
            name = parts[-1]
        if entry.hardlink:
            self._link(entry, siblings, name)
            return None
        inode = self._inode(entry)
        old = siblings.get(name)
        if inode.children is not None and old is not None and old.children is not None:
            inode.children = old.children
        elif old is not None and old.children is not None:
            self._folders.clear()
        siblings[name] = inode
        return inode if stat.S_ISREG(inode.mode) else None

    def _root(self, entry: TarEntry) -> None:
        if not entry.name or not stat.S_ISDIR(entry.mode):
            raise FormatError(f"tar: an entry with no name ({entry.name!r}) that is not the root directory")
        root = self._inode(entry)
        root.children = self.root.children
        self.root = root

    def _parent(self, parts: list[bytes], path: bytes, name: bytes) -> dict[bytes, Inode] | None:
        """The entries beside ``name``; None for a whiteout below something that is not a directory.

        umoci writes one for every former child of a directory that the same layer replaces; nothing is left to remove.
        """
        children = self.root.children
        assert children is not None
        for part in parts:
            node = children.get(part)
            if node is None:
                node = children[part] = Inode(IMPLICIT_MODE, children={}, implicit=True)
            if node.children is None:
                if name.startswith(WHITEOUT):
                    return None
                what = "a symlink" if stat.S_ISLNK(node.mode) else "something that is not a directory"
                raise FormatError(f"tar: {path[:200]!r} lies below {what} of the same layer")
            children = node.children
        return children

    def _link(self, entry: TarEntry, siblings: dict[bytes, Inode], name: bytes) -> None:
        parts = split_path(entry.target)
        node: Inode | None = self.root
        for part in parts:
            node = node.children.get(part) if node is not None and node.children is not None else None
        if node is not None and node.children is not None:
            raise FormatError(f"tar: hard link {entry.name[:200]!r} to a directory")
        if node is None:
            target = b"/".join(parts)
            if target == b"/".join(split_path(entry.name)):
                raise FormatError(f"tar: hard link {entry.name[:200]!r} to itself")
            if len(target) > MAX_SYMLINK:
                raise UnsupportedError(f"tar: target of hard link {entry.name[:200]!r} is longer than {MAX_SYMLINK}")
            node = Inode(stat.S_IFLNK | 0o777, size=len(target), target=target, lower_link=True)
        self._folders.clear()  # the link may replace a directory
        siblings[name] = node

    def _inode(self, entry: TarEntry) -> Inode:
        inode = Inode(
            entry.mode, entry.uid, entry.gid, entry.mtime, entry.mtime_ns, entry.size, entry.rdev
        )  # positional: this is the hottest constructor of a conversion
        if entry.xattrs:
            kept = {name: value for name, value in entry.xattrs.items() if storable(name)}
            self.dropped_xattrs += len(entry.xattrs) - len(kept)
            inode.xattrs = kept or None
        kind = stat.S_IFMT(entry.mode)
        if kind == _DIRECTORY:
            inode.children = {}
        elif kind == _SYMLINK:
            target = entry.target
            if not target or len(target) > MAX_SYMLINK or b"\0" in target:
                raise FormatError(
                    f"tar: symlink {entry.name[:200]!r} has a target of {len(target)} bytes, or a NUL in it"
                )
            inode.target, inode.size = target, len(target)
        return inode
