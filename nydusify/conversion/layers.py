"""One layer: taken from the store, from the target, or pulled and built; then its blob is pushed."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nydusify.build.layer import LayerFacts, build_layer
from nydusify.build.options import BuildOptions
from nydusify.conversion.built import BuiltLayer, Origin, from_json, layer_mark, to_json
from nydusify.conversion.progress import Progress, Watch
from nydusify.conversion.source import SourceLayer
from nydusify.digest import Digest
from nydusify.errors import FormatError, NotFound, StoreError
from nydusify.oci import media
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.repository import Repository
from nydusify.rafs.reader import read_bootstrap
from nydusify.rafs.tree import Bootstrap
from nydusify.store import Store


def pull_layer(repository: Repository, store: Store, descriptor: Descriptor) -> int:
    """Bring a layer into the store; return the bytes pulled, 0 when it was there."""
    if store.has(descriptor.digest, descriptor.size):
        return 0
    store.put_pieces(descriptor.digest, descriptor.size, repository.open_blob(descriptor))
    return descriptor.size


def send_blob(target: Repository, store: Store, built: BuiltLayer) -> int:
    """Push a blob from the store unless the target has it; return the bytes sent.

    Raises `StoreError` if neither has it.
    """
    path = store.path(built.facts.blob)
    if path.exists():
        return target.write_blob(built.layer, path)
    if not target.has_blob(built.layer):
        raise StoreError(
            f"store: blob {built.facts.blob} of layer {built.source} is gone, and {target.name} does not have it",
            advice="Run again: the layer will be built anew.",
        )
    return 0


@dataclass(frozen=True, slots=True)
class Workshop:
    """Everything that building layers needs, shared by the layers of a run."""

    store: Store
    options: BuildOptions
    source: Repository
    target: Repository
    pool: ThreadPoolExecutor
    """Compresses chunks; as many threads as there are cores."""
    progress: Progress
    watch: Watch

    def find(self, layer: SourceLayer, at_target: Mapping[Digest, Descriptor]) -> BuiltLayer | None:
        """The layer as an earlier run left it, in the store or (``at_target``: blobs by source layer) at the target."""
        built = self._from_store(layer)
        if built is None and layer.descriptor.digest in at_target:
            built = self._from_target(layer, at_target[layer.descriptor.digest])
        if built is not None:
            self.progress.end(str(layer.descriptor.digest), "build", f"found {_PLACES[built.origin]}")
        return built

    def _from_store(self, layer: SourceLayer) -> BuiltLayer | None:
        note = self.store.note("layers", _note_key(layer, self.options))
        if note is None:
            return None
        try:
            built = from_json(note)
        except (KeyError, TypeError, ValueError):
            return None
        if built.facts.diff_id != layer.diff_id:
            return None  # building it will say which of the two is wrong
        if not self.store.has(built.bootstrap, built.bootstrap_size):
            return None
        if built.meta is not None and not self.store.has(built.meta, built.meta_size):
            return None
        held = self.store.has(built.facts.blob, built.facts.blob_size) or self.target.has_blob(built.layer)
        return built if held else None

    def _from_target(self, layer: SourceLayer, blob: Descriptor) -> BuiltLayer | None:
        from nydusify.rafs.blob_reader import blob_meta_file, extract_bootstrap

        if blob.annotations.get(media.ANNOTATION_OPTIONS_KEY) != layer_mark(self.options.key, layer.diff_id):
            return None
        remote = _RemoteBlob(self.target, blob)
        try:
            content = extract_bootstrap(remote)
            bootstrap = read_bootstrap(content, blob_id=blob.digest.hex)
            meta = blob_meta_file(remote, bootstrap.blobs[0]) if bootstrap.version == 6 and bootstrap.blobs else b""
        except (FormatError, NotFound):
            return None  # the annotation promised more than is there: build it
        facts = LayerFacts(
            blob=blob.digest,
            blob_size=blob.size,
            diff_id=layer.diff_id,
            tar_size=0,
            entries=0,
            chunks=len(bootstrap.chunks),
            data_size=int(bootstrap.chunks["usize"].sum()),
            repeated_chunks=0,
            repeated_size=0,
            dropped_xattrs=0,
        )
        return self._note(layer, facts, content, meta, "target")

    def build(self, layer: SourceLayer) -> tuple[BuiltLayer, Bootstrap]:
        """Pull and build in one pass. Raises `FormatError`, `TransportError`, `StoreError`."""
        key, size = str(layer.descriptor.digest), layer.descriptor.size
        stored = self.store.has(layer.descriptor.digest, size)
        self.progress.begin(key, "build", size)
        tally = _Tally()
        started = time.monotonic_ns()
        with self.watch.stage("build"), self.store.new_file() as new:
            pieces = (
                self.store.iter_pieces(layer.descriptor.digest, size)
                if stored
                else self.source.open_blob(layer.descriptor)
            )
            build = build_layer(
                self._pull(pieces, key, tally), layer.compression, new.file, self.options, self.pool, layer.diff_id
            )
            new.commit(build.facts.blob)
        build_ns = time.monotonic_ns() - started
        pulled = (0, 0) if stored else (size, tally.elapsed_ns)
        built = self._note(layer, build.facts, build.bootstrap_bytes, build.blob_meta, "built", *pulled, build_ns)
        self.progress.end(key, "build")
        return built, build.bootstrap

    def _pull(self, pieces: Iterator[bytes], key: str, tally: "_Tally") -> Iterator[bytes]:
        with self.watch.stage("pull"):
            for piece in self.watch.checked(tally.timed(pieces)):
                self.progress.advance(key, "build", len(piece))
                yield piece

    def _note(
        self,
        layer: SourceLayer,
        facts: LayerFacts,
        bootstrap: bytes,
        meta: bytes,
        origin: Origin,
        pulled_size: int = 0,
        pull_ns: int = 0,
        build_ns: int = 0,
    ) -> BuiltLayer:
        built = BuiltLayer(
            source=layer.descriptor.digest,
            key=self.options.key,
            facts=facts,
            bootstrap=self.store.put(bootstrap),
            bootstrap_size=len(bootstrap),
            meta=self.store.put(meta) if meta else None,
            meta_size=len(meta),
            origin=origin,
            pulled_size=pulled_size,
            pull_ns=pull_ns,
            build_ns=build_ns,
        )
        self.store.write_note("layers", _note_key(layer, self.options), to_json(built))
        return built

    def push(self, built: BuiltLayer) -> tuple[int, int]:
        """Push the blob unless the target has it; return the bytes sent and the nanoseconds that it took."""
        if built.origin == "target":
            return 0, 0
        started = time.monotonic_ns()
        self.progress.begin(str(built.facts.blob), "push", built.facts.blob_size)
        with self.watch.stage("push"):
            sent = send_blob(self.target, self.store, built)
        self.progress.end(str(built.facts.blob), "push", "" if sent else "already there")
        return sent, time.monotonic_ns() - started


_PLACES = {"store": "in the store", "target": "at the target"}


class _Tally:
    """How long a stream took to deliver."""

    def __init__(self) -> None:
        self.elapsed_ns = 0

    def timed(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        while True:
            started = time.monotonic_ns()
            piece = next(pieces, None)
            self.elapsed_ns += time.monotonic_ns() - started
            if piece is None:
                return
            yield piece


class _RemoteBlob:
    """A blob at the target, read in ranges."""

    def __init__(self, repository: Repository, blob: Descriptor) -> None:
        self._repository = repository
        self._blob = blob
        self.size = blob.size

    def read_at(self, offset: int, length: int) -> bytes:
        return self._repository.read_blob_range(self._blob, offset, length)


def _note_key(layer: SourceLayer, options: BuildOptions) -> str:
    return f"{layer.descriptor.digest.hex}-{options.key}"
