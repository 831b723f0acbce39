"""The image's bootstrap and the layer that carries it."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nydusify.build.merge import merge_layers
from nydusify.conversion.built import BuiltLayer
from nydusify.digest import Digest
from nydusify.oci.descriptor import Descriptor
from nydusify.oci.nydus import bootstrap_layer
from nydusify.rafs.reader import read_bootstrap
from nydusify.rafs.tree import Bootstrap, iter_inodes
from nydusify.rafs.writer import write_bootstrap
from nydusify.store import Store

GZIP_LEVEL = 6


@dataclass(frozen=True, slots=True)
class MergedBootstrap:
    """The bootstrap layer of an image; its bytes are in the store under the layer's digest."""

    layer: Descriptor
    diff_id: Digest
    """Of the tar in it."""
    size: int
    """Of the bootstrap in that."""
    inodes: int
    chunks: int
    """Stored chunks that a file of the merged image refers to."""


def merge_bootstrap(
    store: Store, layers: Sequence[BuiltLayer], prefetch: Sequence[bytes], at_hand: Mapping[Digest, Bootstrap]
) -> MergedBootstrap:
    """Merge the bootstraps of ``layers``, lowest first, and put the bootstrap layer into the store.

    ``at_hand`` has bootstraps by blob digest that need not be read from the store; they are used up.
    """
    fresh = dict(at_hand)
    bootstraps = []
    for built in layers:
        blob = built.facts.blob
        if blob in fresh:
            bootstraps.append(fresh.pop(blob))
        else:
            bootstraps.append(read_bootstrap(store.read(built.bootstrap), blob_id=blob.hex))
    merged = merge_layers(bootstraps, prefetch)
    content = write_bootstrap(merged)
    metas = {built.facts.blob.hex: store.read(built.meta) for built in layers if built.meta is not None}
    tar = bootstrap_tar(content, metas)
    import deflate

    # libdeflate gives the same bytes on every machine, which zlib and its replacements do not.
    packed = bytes(deflate.gzip_compress(tar, GZIP_LEVEL))
    layer = bootstrap_layer(store.put(packed), len(packed), str(merged.version))
    inodes, chunks = _count(merged)
    return MergedBootstrap(layer, Digest.of(tar), len(content), inodes, chunks)


def _count(merged: Bootstrap) -> tuple[int, int]:
    inodes = list(iter_inodes(merged.root))
    return len(inodes), len({chunk for inode in inodes for chunk in inode.chunks})


def bootstrap_tar(bootstrap: bytes, metas: Mapping[str, bytes]) -> bytes:
    """The tar of a bootstrap layer: ``image/image.boot``, then ``image/<blob id>.blob.meta`` for each of ``metas``."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        folder = tarfile.TarInfo("image")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        for name, content in {
            "image.boot": bootstrap,
            **{f"{blob}.blob.meta": meta for blob, meta in metas.items()},
        }.items():
            member = tarfile.TarInfo(f"image/{name}")
            member.size, member.mode = len(content), 0o444
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()
