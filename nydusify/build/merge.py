"""Layer bootstraps to the image's bootstrap: whiteouts, replaced entries, hard links between layers, one chunk table.

Source of the rules: OCI image-spec layer.md ("Whiteouts"), and what containerd's and umoci's unpackers do.
"""

import stat
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nydusify.build.layer_tree import WHITEOUT
from nydusify.errors import FormatError
from nydusify.rafs.spec import CHUNK, BlobFeature
from nydusify.rafs.tree import BlobInfo, Bootstrap, ChunkTable, Inode, iter_inodes, iter_tree

OPAQUE = b".wh..wh..opq"
MAX_SYMLINKS = 40
"""Followed in one path, as in the kernel."""

Links = dict[int, Inode]
"""By ``id`` of a hard link whose target is outside its layer: the inode that it means."""


def merge_layers(layers: Sequence[Bootstrap], prefetch: Sequence[bytes] = ()) -> Bootstrap:
    """Merge the bootstraps of an image's layers, lowest first; they are used up, so each must be an object of its own.

    Blobs are those that a file still needs, in the order of the layers. A chunk that several layers hold is taken from
    the lowest. ``prefetch`` are paths, ``/`` for everything. Raises `FormatError` for layers that do not fit together
    and for hard links to nothing.
    """
    first = layers[0]
    root = Inode(stat.S_IFDIR | 0o755, children={})
    for origin, layer in enumerate(layers):
        if (layer.version, layer.chunk_size) != (first.version, first.chunk_size):
            raise FormatError("layers of different RAFS versions or chunk sizes cannot be merged")
        if layer.version == 5 and layer.digester != first.digester:
            raise FormatError("v5 layers with different digesters cannot be merged")
        linked = False
        for inode in iter_inodes(layer.root):
            inode.origin = origin
            linked = linked or inode.lower_link
        _apply(root, layer.root, _lower_links(root, layer.root) if linked else {})
    blobs, chunks = _merge_chunks(root, layers)
    last = layers[-1]
    return Bootstrap(
        first.version, first.chunk_size, last.compressor, last.digester, root, blobs, chunks, list(prefetch)
    )


Trail = list[tuple[bytes, Inode]]
"""The way from the root to an inode: names and inodes, the root's first."""


def lookup(root: Inode, path: bytes) -> Inode | None:
    """The inode at ``path``; symlinks in front of its last component are followed, without leaving the tree."""
    trail = _walk([(b"", root)], path, follow_last=False)
    return trail[-1][1] if trail else None


def _walk(start: Trail, path: bytes, *, follow_last: bool) -> Trail | None:
    trail = start[:1] if path.startswith(b"/") else list(start)
    todo = [part for part in reversed(path.split(b"/")) if part]
    links = 0
    while todo:
        part = todo.pop()
        if part == b"..":
            del trail[max(len(trail) - 1, 1) :]
            continue
        node = trail[-1][1] if part == b"." else (trail[-1][1].children or {}).get(part)
        if node is None:
            return None
        if stat.S_ISLNK(node.mode) and (todo or follow_last):
            links += 1
            if links > MAX_SYMLINKS:
                return None
            if node.target.startswith(b"/"):
                del trail[1:]
            todo.extend(part for part in reversed(node.target.split(b"/")) if part)
        elif part != b".":
            trail.append((part, node))
    return trail


def _lower_links(lower: Inode, upper: Inode) -> Links:
    """What hard links mean whose target was not in their layer: a lower layer's file, else a later entry of its own."""
    links: Links = {}
    for path, node in iter_tree(upper):
        if not node.lower_link or id(node) in links:
            continue
        meant, steps = lookup(lower, node.target), 0
        own: Inode | None = node
        while meant is None and own is not None and own.lower_link and steps < MAX_SYMLINKS:
            own, steps = lookup(upper, own.target), steps + 1
            meant = own if own is not None and not own.lower_link else None
        if meant is None:
            raise FormatError(f"hard link {path[:200]!r}: no layer has its target {node.target[:200]!r}")
        if meant.children is not None:
            raise FormatError(f"hard link {path[:200]!r} to the directory {node.target[:200]!r}")
        links[id(node)] = meant
    return links


def _apply(root: Inode, layer: Inode, links: Links) -> None:
    todo: list[tuple[Trail, Inode]] = [([(b"", root)], layer)]
    while todo:
        trail, upper = todo.pop()
        lower = trail[-1][1]
        if not upper.implicit:
            _take_attributes(lower, upper)
        children, entries = lower.children, upper.children
        assert children is not None
        assert entries is not None
        for name in entries:
            if name == OPAQUE:
                children.clear()
            elif name.startswith(WHITEOUT):
                children.pop(name[len(WHITEOUT) :], None)
        for name, node in entries.items():
            if name.startswith(WHITEOUT):
                continue
            if node.children is None:
                children[name] = links[id(node)] if node.lower_link else node
                continue
            directory = children.get(name)
            below: Trail | None = None
            if directory is not None and node.implicit and stat.S_ISLNK(directory.mode):
                # The layer puts entries below a name without listing it: unpackers follow a lower layer's symlink.
                below = _walk(trail, directory.target, follow_last=True)
            elif directory is not None and directory.children is not None:
                below = [*trail, (name, directory)]
            if below is None or below[-1][1].children is None:
                directory = children[name] = Inode(stat.S_IFDIR | 0o755, children={})
                below = [*trail, (name, directory)]
            todo.append((below, node))


def _take_attributes(lower: Inode, upper: Inode) -> None:
    lower.mode, lower.uid, lower.gid = upper.mode, upper.uid, upper.gid
    lower.mtime, lower.mtime_ns, lower.xattrs = upper.mtime, upper.mtime_ns, upper.xattrs


def _merge_chunks(root: Inode, layers: Sequence[Bootstrap]) -> tuple[list[BlobInfo], ChunkTable]:
    """One chunk table for the tree, whose inodes from here on count in it, and the blobs that it needs."""
    tables, blobs, starts = [np.empty(0, CHUNK)], list[BlobInfo](), []
    start = 0
    for layer in layers:
        table = layer.chunks.copy()
        table["blob"] += len(blobs)
        blobs += [replace(blob, features=blob.features & ~BlobFeature.INLINED_FS_META) for blob in layer.blobs]
        tables.append(table)
        starts.append(start)
        start += len(table)
    chunks = np.concatenate(tables)
    lowest = _lowest_copies(chunks)
    used = np.zeros(len(chunks), bool)
    targets = lowest.tolist()
    done: set[int] = set()
    flat: list[int] = []
    for inode in iter_inodes(root):
        if inode.chunks and id(inode) not in done:
            done.add(id(inode))
            base = starts[inode.origin]
            inode.chunks = tuple([targets[base + row] for row in inode.chunks])
            flat.extend(inode.chunks)
        inode.origin = 0
    used[flat] = True
    needed = np.unique(chunks["blob"][used]).tolist()
    renumbered = np.zeros(len(blobs), np.uint32)
    renumbered[needed] = np.arange(len(needed))
    chunks["blob"] = renumbered[chunks["blob"]]
    return [blobs[number] for number in needed], chunks


def _lowest_copies(chunks: ChunkTable) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """For every row, the first row with the same digest and size."""
    if not len(chunks):
        return np.empty(0, np.int64)
    keys = np.empty((len(chunks), 5), np.uint64)
    keys[:, :4] = np.frombuffer(chunks["digest"].tobytes(), "<u8").reshape(-1, 4)
    keys[:, 4] = chunks["usize"]
    order = np.lexsort((np.arange(len(chunks)), *keys.T))
    ordered = keys[order]
    fresh = np.ones(len(chunks), bool)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    lowest = np.empty(len(chunks), np.int64)
    lowest[order] = order[np.flatnonzero(fresh)[np.cumsum(fresh) - 1]]
    return lowest
