"""Random stacks of layers against a model: a dictionary of paths, to which entries are applied one by one."""

from collections.abc import Iterator

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nydusify.build.options import BuildOptions
from nydusify.rafs.reader import read_bootstrap
from nydusify.rafs.writer import write_bootstrap
from tests.archives import END, header
from tests.layers import blobs_of, build_bytes, merge
from tests.trees import BlobContent, tree_of

Node = tuple[str, int, bytes]
"""Kind, owner, content."""
Files = dict[tuple[str, ...], Node]
Entry = tuple[str, tuple[str, ...], int, bytes]
IMPLICIT: Node = ("dir", 0, b"")
OPAQUE, WHITEOUT = ".wh..wh..opq", ".wh."

PATHS = st.lists(st.sampled_from(["a", "b", "-c"]), min_size=1, max_size=3).map(tuple)
OWNERS = st.integers(1, 9)
ENTRIES = st.one_of(
    st.tuples(st.just("dir"), PATHS, OWNERS, st.just(b"")),
    st.tuples(st.just("file"), PATHS, OWNERS, st.sampled_from([b"", b"1", b"x" * 5000, bytes(9000)])),
    st.tuples(st.just("whiteout"), PATHS, OWNERS, st.just(b"")),
    st.tuples(st.just("opaque"), PATHS, OWNERS, st.just(b"")),
)
LAYERS = st.lists(st.lists(ENTRIES, max_size=8), min_size=1, max_size=4)


def place(entry: Entry) -> tuple[str, ...]:
    """Where the entry lies in the archive: whiteouts have a name of their own."""
    kind, path = entry[:2]
    if kind == "whiteout":
        return (*path[:-1], WHITEOUT + path[-1])
    return (*path, OPAQUE) if kind == "opaque" else path


def pack(layer: list[Entry]) -> bytes:
    parts = []
    for entry in layer:
        kind, _, owner, content = entry
        head = header(
            "/".join(place(entry)).encode(), b"5" if kind == "dir" else b"0", mode=b"755", uid=b"%o" % owner,
            size=b"%o" % len(content),
        )  # fmt: skip
        parts.append(head + content + bytes(-len(content) % 512))
    return b"".join(parts) + END


def below(files: Files, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [other for other in files if len(other) > len(path) and other[: len(path)] == path]


def own_files(layer: list[Entry]) -> Iterator[tuple[Files, set[tuple[str, ...]]]]:
    """The layer by itself, and its directories without an entry; nothing if an entry lies below a file."""
    own: Files = {}
    implicit: set[tuple[str, ...]] = set()
    for entry in layer:
        path = place(entry)
        parents = [path[:depth] for depth in range(1, len(path))]
        if any(own.get(parent, IMPLICIT)[0] != "dir" for parent in parents):
            if entry[0] in ("whiteout", "opaque"):
                continue
            return
        for parent in parents:
            if parent not in own:
                own[parent] = IMPLICIT
                implicit.add(parent)
        if entry[0] != "dir":
            for other in below(own, path):
                del own[other]
        own[path] = ("dir" if entry[0] == "dir" else "file", entry[2], entry[3])
        implicit.discard(path)
    yield own, implicit & own.keys()


def apply(image: Files, own: Files, implicit: set[tuple[str, ...]]) -> None:
    for path in own:
        gone: list[tuple[str, ...]] = []
        if path[-1] == OPAQUE:
            gone = below(image, path[:-1])
        elif path[-1].startswith(WHITEOUT):
            target = (*path[:-1], path[-1].removeprefix(WHITEOUT))
            gone = [other for other in (target, *below(image, target)) if other in image]
        for other in gone:
            del image[other]
    for path in sorted(own, key=len):
        if path[-1].startswith(WHITEOUT):
            continue
        if own[path][0] == "file":
            for other in below(image, path):
                del image[other]
        if path not in implicit or image.get(path, ("", 0, b""))[0] != "dir":
            image[path] = own[path]


@settings(max_examples=60, deadline=None)
@given(LAYERS, st.sampled_from([5, 6]))
def test_a_stack_of_layers_is_what_the_model_makes_of_it(layers: list[list[Entry]], version: int) -> None:
    wanted: Files = {}
    for layer in layers:
        found = next(own_files(layer), None)
        assume(found is not None)
        assert found is not None
        apply(wanted, *found)
    built = [build_bytes(pack(layer), BuildOptions(version, chunk_size=4096)) for layer in layers]
    image = read_bootstrap(write_bootstrap(merge(built)))
    contents = BlobContent(image, blobs_of(built))
    tree = tree_of(image)

    got: Files = {}
    todo = [((), image.root)]
    while todo:
        path, inode = todo.pop()
        for name, child in (inode.children or {}).items():
            kind = tree["/" + "/".join((*path, name.decode()))]["type"]
            data = b"".join(contents.chunk(row) for row in child.chunks)
            got[(*path, name.decode())] = (kind, child.uid, data)
            todo.append(((*path, name.decode()), child))
    assert got == wanted
